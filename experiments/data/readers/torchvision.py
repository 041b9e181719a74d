"""Small datasets in memory, which torchvision downloads."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torchvision import datasets

from experiments.config.settings import Data
from experiments.data.images import ArrayImages, data_folder
from experiments.errors import SettingsError

DATASETS = {"fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}


def load(data: Data) -> tuple[ArrayImages, ArrayImages]:
    """The dataset `data.name` below the folder `data.path`."""
    name, path = data.name, data_folder(data)
    if name not in DATASETS:
        raise SettingsError(f"data.reader=torchvision has {', '.join(DATASETS)}; not data.name={name!r}")
    dataset = getattr(datasets, DATASETS[name])
    if name == "fashion_mnist":
        todo = f"unpack its four files into {path / 'FashionMNIST' / 'raw'}"
    else:
        todo = f"put {dataset.filename} into {path}"

    def part(train: bool) -> ArrayImages:
        images = or_downloaded(partial(dataset, path, train=train), path, DATASETS[name], todo)
        return ArrayImages(np.asarray(images.data), np.asarray(images.targets, np.int64), tuple(images.classes))

    return part(train=True), part(train=False)


def or_downloaded(make: Callable[..., Any], path: Path, title: str, todo: str) -> Any:
    """What `make()` finds in the folder `path`, or `make(download=True)` downloads there, in one process at a time."""
    try:
        try:
            return make()
        except RuntimeError:  # not there, or damaged
            path.mkdir(parents=True, exist_ok=True)
            with _exclusive(path / ".download"):  # the runs of a study start at the same time
                return make(download=True)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise SettingsError(f"{title} is not in {path} and could not be downloaded ({reason}); {todo}") from error


@contextmanager
def _exclusive(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
