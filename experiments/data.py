"""Datasets by name, their split, and the batches of an epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from experiments.errors import SettingsError
from experiments.randomness import Purpose, derive, permutation, preserved, seed_cpu
from experiments.run import Run
from experiments.settings import Data
from experiments.transforms import Transform, evaluation_transform, stack, training_transform

SAMPLE = Path(__file__).parent / "fashion_mnist" / "sample.npz"
KEEP = 256 * 2**20
"""Bytes of evaluation images up to which they are transformed once and kept."""

Sample = tuple[int, int]
"""(epoch, index of the image in its collection)."""

Batch = tuple[Tensor, Tensor, list[Sample]]
"""Images (N, 3, H, W), uint8; labels (N,), int64; which samples these are."""


class Images(Protocol):
    """A map-style collection of labelled images."""

    labels: np.ndarray

    def image(self, index: int) -> Image.Image: ...


@dataclass(frozen=True)
class ArrayImages:
    """Greyscale images in memory: (N, H, W) uint8."""

    pixels: np.ndarray
    labels: np.ndarray

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index]).convert("RGB")


class Transformed(Dataset):
    """Some of a collection's images, transformed. What is random about a sample depends on (seed, epoch, sample)."""

    def __init__(self, images: Images, indices: np.ndarray, transform: Transform, seed: int) -> None:
        self.images, self.indices, self.transform, self.seed = images, indices, transform, seed

    def __len__(self) -> int:
        return len(self.indices)

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> Batch:
        """A batch of (epoch, position) pairs."""
        samples = [(epoch, int(self.indices[position])) for epoch, position in keys]
        pixels = []
        with preserved():
            for epoch, index in samples:
                seed_cpu(derive(Purpose.SAMPLE, self.seed, epoch, index))
                pixels.append(self.transform(self.images.image(index)))
        labels = self.images.labels[[index for _, index in samples]].astype(np.int64)
        return stack(pixels), torch.from_numpy(labels), samples


class Loader:
    """The batches of training epochs and of evaluations."""

    def __init__(self, run: Run) -> None:
        self.run = run
        train, test = load_images(run.data)
        chosen, held_out = split(train.labels, run.data)
        evaluated, indices = (train, held_out) if run.data.holdout else (test, np.arange(len(test.labels)))
        self.evaluated_on = "holdout" if run.data.holdout else "test"
        self.training = Transformed(train, chosen, training_transform(run.recipe, run.resolution), run.seed)
        evaluation = evaluation_transform(run.resolution, run.recipe.interpolation, run.recipe.crop_pct)
        self.evaluation = Transformed(evaluated, indices, evaluation, run.seed)
        self.steps_per_epoch = len(self.training) // run.recipe.batch_size
        if not self.steps_per_epoch:
            raise SettingsError(
                f"recipe.batch_size={run.recipe.batch_size} is more than the {len(self.training)} training images; "
                "take a smaller batch or more data"
            )
        self._kept: list[Batch] | None = None

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of training epoch `epoch` from the `first` on, in an order of the epoch's own; the last,
        incomplete batch is dropped."""
        size = self.run.recipe.batch_size
        order = permutation(len(self.training), Purpose.ORDER, self.run.seed, epoch)
        batches = order[first * size : self.steps_per_epoch * size].split(size)
        return iter(self._load(self.training, [[(epoch, int(i)) for i in batch] for batch in batches if len(batch)]))

    def evaluation_batches(self) -> Iterator[Batch]:
        """Every evaluation image once."""
        if self._kept is not None:
            return iter(self._kept)
        batches = torch.arange(len(self.evaluation)).split(250)
        load = self._load(self.evaluation, [[(0, int(i)) for i in batch] for batch in batches])
        if len(self.evaluation) * 3 * self.run.resolution**2 > KEEP:
            return iter(load)
        self._kept = list(load)
        return iter(self._kept)

    def _load(self, dataset: Transformed, batches: list[list[tuple[int, int]]]) -> DataLoader:
        return DataLoader(
            dataset,
            batch_sampler=batches,
            num_workers=self.run.workers,
            collate_fn=lambda batch: batch,
            generator=torch.Generator(),  # nothing reads it; without it, torch draws from the global one
        )


def split(labels: np.ndarray, data: Data) -> tuple[np.ndarray, np.ndarray]:
    """(training, held-out) indices: both class-balanced, disjoint, and the same for every run of the same settings."""
    chosen, held_out = [], []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        members = members[permutation(len(members), Purpose.SPLIT, int(label)).numpy()]
        cut = round(len(members) * data.holdout)
        held_out.append(members[:cut])
        rest = members[cut:]
        chosen.append(rest[: max(1, round(len(rest) * data.subset))])
    return np.sort(np.concatenate(chosen)), np.sort(np.concatenate(held_out))


def load_images(data: Data) -> tuple[Images, Images]:
    """The training and test images of a dataset by name.

    Raises:
        SettingsError: if there is no such dataset, or it is not where it should be.
    """
    if data.name == "fashion_mnist_sample":
        return load_sample()
    if data.name == "fashion_mnist":
        return _fashion_mnist(data)
    raise SettingsError(f"data.name must be fashion_mnist_sample or fashion_mnist, not {data.name!r}")


@cache
def load_sample() -> tuple[ArrayImages, ArrayImages]:
    with np.load(SAMPLE, allow_pickle=False) as arrays:
        return tuple(ArrayImages(arrays[f"{part}_images"], arrays[f"{part}_labels"]) for part in ("train", "test"))


def _fashion_mnist(data: Data) -> tuple[ArrayImages, ArrayImages]:
    from torchvision.datasets import FashionMNIST

    parts = []
    for train in (True, False):
        try:
            dataset = FashionMNIST(data.path, train=train, download=True)
        except (OSError, RuntimeError) as error:
            raise SettingsError(
                f"Fashion-MNIST is not in {data.path} and could not be downloaded ({' '.join(str(error).split())}); "
                f"put its four .gz files into {Path(data.path) / 'FashionMNIST' / 'raw'}"
            ) from error
        parts.append(ArrayImages(dataset.data.numpy(), dataset.targets.numpy()))
    return tuple(parts)
