"""Which of a dataset's training images are used for training, and which are held out for evaluation."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np

from experiments.config.settings import Data
from experiments.data.images import Images
from experiments.errors import SettingsError


class Partition(NamedTuple):
    """Indices of training images, ascending: those to train on, and those held out. None is in both."""

    training: np.ndarray
    held_out: np.ndarray


def partition(images: Images, data: Data) -> Partition:
    """Hold out the fraction `data.holdout` of each class, and train on the fraction `data.subset` of the rest.

    Images are drawn by a hash of their keys, so that the partition is the same for every run, in whatever form the
    dataset is stored, and whatever other classes it has.

    Raises:
        SettingsError: if there are no keys, or so few images that one of the parts is empty.
    """
    if data.subset == 1 and not data.holdout:
        return Partition(np.arange(len(images.labels)), np.arange(0))
    order = np.array([_hash(key) for key in images.keys()], np.uint64)  # noqa: SIM118 - not a dictionary
    training, held_out = [], []
    for label in np.unique(images.labels):
        members = np.flatnonzero(images.labels == label)
        members = members[np.argsort(order[members], kind="stable")]
        cut = round(len(members) * data.holdout)
        rest = members[cut:]
        held_out.append(members[:cut])
        training.append(rest[: max(1, round(len(rest) * data.subset))])
    parts = Partition(*(np.sort(np.concatenate(part)) for part in (training, held_out)))
    for part, what in zip(parts, ("left to train on", "held out to evaluate on"), strict=True):
        if not len(part) and (part is parts.training or data.holdout):
            counts = np.bincount(images.labels)
            raise SettingsError(
                f"data.holdout={data.holdout} of {counts[counts > 0].min()} to {counts.max()} images per class: "
                f"none is {what}"
            )
    return parts


def _hash(key: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(key, digest_size=8, person=b"partition").digest(), "little")
