"""Where images come from: two parts of a dataset, training and evaluation, whatever reads them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from experiments.errors import SettingsError
from experiments.settings import READERS, Data
from roadmap.designs import did_you_mean

SAMPLE = Path(__file__).parent / "fashion_mnist" / "sample.npz"
TORCHVISION = {"fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}


class Images(Protocol):
    """A map-style collection of labelled images: any of them, in any order, any number of times."""

    labels: np.ndarray
    """(N,) int64."""
    classes: int

    def image(self, index: int) -> Image.Image:
        """In RGB, whole.

        Raises:
            BrokenImageError: if it can't be read to its end.
        """
        ...

    def name(self, index: int) -> str:
        """Its path, or what else a person finds it by."""
        ...


class Stream(Protocol):
    """Labelled images that come in an order of their own, once an epoch."""

    length: int
    """Images in the whole part."""
    classes: int

    def images(
        self, epoch: int, *, shuffle: bool, rank: int, world: int, worker: int, workers: int
    ) -> Iterator[tuple[Image.Image, int]]:
        """The share of one loader worker (of `workers`) of one process (`rank` of `world`): (image in RGB, label).

        Without `shuffle`, for evaluation, the shares are disjoint and together the whole part. With it, for training,
        every rank has length // world images, in an order that depends on the arguments alone. `epoch` may be any
        integer in [0, 2**63).

        Raises:
            BrokenImageError: by the iterator's next(), which goes on with the image after it if called again.
        """
        ...


class BrokenImageError(Exception):
    """An image that can't be read to its end: which, and why, in one line."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)  # both, so that it can be pickled: loader workers send it
        self.name, self.reason = name, " ".join(reason.split())

    def __str__(self) -> str:
        return f"cannot read the image {self.name}: {self.reason}"


def decode(file: str | IO[bytes], name: str) -> Image.Image:
    """The whole image in RGB.

    Raises:
        BrokenImageError: if it isn't one, or is truncated.
    """
    try:
        with Image.open(file) as image:
            image.load()  # all of it; a truncated one raises
            return image if image.mode == "RGB" else image.convert("RGB")
    except UnidentifiedImageError as error:  # whose own text names the file object, not the file
        raise BrokenImageError(name, "not an image, or of an unknown format") from error
    except MemoryError:
        raise
    except Exception as error:  # of damaged bytes, Pillow's decoders raise nearly anything
        raise BrokenImageError(name, str(error) or type(error).__name__) from error


@dataclass(frozen=True)
class ArrayImages:
    """Images in memory: (N, H, W) grey or (N, H, W, 3) RGB, uint8."""

    pixels: np.ndarray
    labels: np.ndarray

    @cached_property
    def classes(self) -> int:
        return int(self.labels.max()) + 1

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index]).convert("RGB")

    def name(self, index: int) -> str:
        return f"image {index}"


@dataclass(frozen=True)
class FolderImages:
    """Image files under `root`. Paths are bytes in one array: Python strings would be copied to every loader worker."""

    root: Path
    paths: np.ndarray
    labels: np.ndarray
    classes: int

    def image(self, index: int) -> Image.Image:
        return decode(self.name(index), self.name(index))

    def name(self, index: int) -> str:
        return os.path.join(self.root, os.fsdecode(self.paths[index]))


def load_images(data: Data) -> tuple[Images, Images] | tuple[Stream, Stream]:
    """The images to train on and those to evaluate on.

    Raises:
        SettingsError: if they are not where they should be, or not what the settings or each other say; in one line.
    """
    parts = _load(data.reader, data.name, data.path, data.train, data.val, data.num_classes)
    for part in parts:
        _check_classes(data, part.classes)
    return parts


def check_folders(data: Data) -> None:
    """Whether the class folders of data.reader=folder are where they should be, without a look at what is in them.

    Raises:
        SettingsError: if not, as `load_images` would.
    """
    _, classes = _class_folders_of_parts(Path(data.path).expanduser(), data.train, data.val)
    _check_classes(data, len(classes))


def _check_classes(data: Data, classes: int) -> None:
    if data.num_classes not in (None, classes):
        raise SettingsError(
            f"data.num_classes={data.num_classes}, but {data.path or data.name} has {classes} classes; "
            "leave data.num_classes=null to take it from the data"
        )


@lru_cache(maxsize=1)  # a run asks for its data more than once; 1.3 million files are listed in seconds
def _load(reader: str, name: str, path: str | None, train: str, val: str, num_classes: int | None) -> tuple:
    if reader == "sample":
        return load_sample()
    if path is None:
        raise SettingsError(f"data.path is not set: with data.reader={reader} it says where the data are")
    if reader == "torchvision":
        return _torchvision(name, Path(path).expanduser())
    if reader == "folder":
        return _folder(Path(path).expanduser(), train, val)
    if reader == "tar":
        from experiments.timm_readers import tar

        return tar(Path(path).expanduser(), train, val)
    if reader == "hfds":
        needs("datasets", reader)
        from experiments.timm_readers import hfds

        return hfds(path, train, val)
    if reader in ("wds", "hfids"):
        needs("webdataset" if reader == "wds" else "datasets", reader)
        from experiments import streams

        return tuple(getattr(streams, reader)(path, part, num_classes) for part in (train, val))
    raise SettingsError(
        f"data.reader must be one of {', '.join(READERS)}, not {reader!r}{did_you_mean(reader, READERS)}"
    )


def needs(module: str, reader: str) -> None:
    if find_spec(module) is None:
        raise SettingsError(f"data.reader={reader} needs {module}: pip install 'convnext-roadmap[readers]'")


@cache
def load_sample() -> tuple[ArrayImages, ArrayImages]:
    with np.load(SAMPLE, allow_pickle=False) as arrays:
        return tuple(
            ArrayImages(arrays[f"{part}_images"], arrays[f"{part}_labels"].astype(np.int64))
            for part in ("train", "test")
        )


def _torchvision(name: str, path: Path) -> tuple[ArrayImages, ArrayImages]:
    from torchvision import datasets

    if name not in TORCHVISION:
        raise SettingsError(f"data.reader=torchvision has {', '.join(TORCHVISION)}; not data.name={name!r}")
    dataset = getattr(datasets, TORCHVISION[name])
    parts = []
    for train in (True, False):
        try:
            part = _or_downloaded(dataset, path, train)
        except (OSError, RuntimeError) as error:
            if name == "fashion_mnist":
                todo = f"unpack its four files into {path / 'FashionMNIST' / 'raw'}"
            else:
                todo = f"put {dataset.filename} into {path}"
            reason = " ".join(str(error).split())
            raise SettingsError(
                f"{TORCHVISION[name]} is not in {path} and could not be downloaded ({reason}); {todo}"
            ) from error
        parts.append(ArrayImages(np.asarray(part.data), np.asarray(part.targets, np.int64)))
    return tuple(parts)


def _or_downloaded(dataset: type, path: Path, train: bool) -> Any:
    try:
        return dataset(path, train=train)
    except RuntimeError:  # not there, or damaged
        path.mkdir(parents=True, exist_ok=True)
        with _alone(path / ".download"):  # the runs of a study start side by side
            return dataset(path, train=train, download=True)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _folder(path: Path, train: str, val: str) -> tuple[FolderImages, FolderImages]:
    """`path/train/<class>/**/*.jpg` and the same of `val`: order and labels are those of torchvision's ImageFolder."""
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

    roots, classes = _class_folders_of_parts(path, train, val)
    index = {name: label for label, name in enumerate(classes)}
    parts = []
    for root in roots:
        samples = make_dataset(root, index, IMG_EXTENSIONS, allow_empty=True)
        labels = np.fromiter((label for _, label in samples), np.int64, len(samples))
        counts = np.bincount(labels, minlength=len(index))
        if not counts.all():
            empty = root / classes[int(counts.argmin())]
            raise SettingsError(f"the class folder {empty} has no images ({', '.join(IMG_EXTENSIONS)})")
        inside = len(os.path.join(root, ""))
        paths = np.array([os.fsencode(name[inside:]) for name, _ in samples])
        parts.append(FolderImages(root, paths, labels, len(index)))
    return tuple(parts)


def _class_folders_of_parts(path: Path, train: str, val: str) -> tuple[list[Path], list[str]]:
    """The folders of the two parts, and their class folders' names."""
    if not path.is_dir():
        raise SettingsError(f"data.path={path} is not a folder")
    roots = [path / train, path / val]
    classes = [_class_folders(root, key) for root, key in zip(roots, ("train", "val"), strict=True)]
    same_classes(*classes, *map(str, roots))
    return roots, classes[0]


def _class_folders(root: Path, key: str) -> list[str]:
    if not root.is_dir():
        raise SettingsError(f"there is no folder {root}: data.{key} names the one with a folder for each class")
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    if not names:
        raise SettingsError(f"{root} has no class folders: images must be at {root / 'CLASS' / 'IMAGE.jpg'}")
    return names


def same_classes(train: Sequence[str], val: Sequence[str], where_train: str, where_val: str) -> None:
    """Refuse parts whose classes differ: their labels would mean different things."""
    if list(train) == list(val):
        return
    missing, extra = sorted({*train} - {*val}), sorted({*val} - {*train})
    facts = [f"{fact} {_some(names)}" for fact, names in (("lacks", missing), ("adds", extra)) if names]
    facts = facts or ["has them in another order"]
    raise SettingsError(f"the classes of {where_train} and {where_val} differ: the latter {' and '.join(facts)}")


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
