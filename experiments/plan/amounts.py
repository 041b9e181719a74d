"""How many images a run trains on and evaluates on, without having them if that is stated; whether they are there."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from experiments.errors import SettingsError
from experiments.images import check_folders, load_images
from experiments.partition import partition
from experiments.settings import UNSTATED, Data

LOCAL = ("folder", "tiny_imagenet", "tar", "wds")
"""The readers whose data are files here, or nowhere; what the others lack they get."""


class Amounts(NamedTuple):
    """None is not known."""

    training: int | None
    evaluation: int | None
    classes: int | None
    problem: str | None
    """Why training would fail, in one line."""


def amounts(data: Data) -> Amounts:
    """Of what is stated whole, nothing is listed: whether it is there is all that is looked at."""
    problem = None
    try:
        if data.path != UNSTATED and data.reader in LOCAL:
            _check_place(data)
            if None in (data.train_images, data.val_images, data.num_classes):
                return _listed(data)
    except SettingsError as error:
        problem = str(error)
    train, val = data.train_images, data.val_images
    if train is None:
        return Amounts(None, None, data.num_classes, problem)
    chosen, held_out = _split(train, data)
    return Amounts(chosen, held_out if data.holdout else val, data.num_classes, problem)


def _check_place(data: Data) -> None:
    if data.reader == "folder":
        check_folders(data)
    elif "://" not in data.path and not Path(data.path).expanduser().is_dir():
        raise SettingsError(f"data.path={data.path} is not a folder")


def _listed(data: Data) -> Amounts:
    train, val = load_images(data)
    if not hasattr(train, "labels"):
        return Amounts(train.length, val.length, train.classes, None)
    chosen, held_out = partition(train, data)
    return Amounts(len(chosen), len(held_out) if data.holdout else len(val.labels), train.classes, None)


def _split(images: int, data: Data) -> tuple[int, int]:
    """As many as `partition` would choose and hold out if all classes had equally many."""
    classes = data.num_classes or 1
    members = images / classes
    held_out = round(members * data.holdout)
    chosen = max(1, round((members - held_out) * data.subset)) if data.subset < 1 else members - held_out
    return round(chosen * classes), held_out * classes
