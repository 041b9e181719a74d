"""Map-style images through timm's readers: tar files, and Hugging Face datasets."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from timm.data.readers import create_reader

from experiments.errors import SettingsError
from experiments.images import BrokenImageError, decode, same_classes

IMAGE, LABEL = "image", "label"
"""The columns of a Hugging Face dataset that timm's readers look for."""


@dataclass(frozen=True)
class TarImages:
    """Images inside tar files, read at their offsets.

    timm's own reading keeps one file open, which loader workers forked later would share: each would move the others'
    position. Its index keeps a Python object an image, which they would copy. So both are ours: arrays, and `pread`.
    """

    files: tuple[str, ...]
    file: np.ndarray
    """(N,): in which of the files."""
    offsets: np.ndarray
    sizes: np.ndarray
    names: np.ndarray
    """(N,) bytes: paths inside the file."""
    labels: np.ndarray
    classes: int

    def image(self, index: int) -> Image.Image:
        descriptor = os.open(self.files[self.file[index]], os.O_RDONLY)
        try:
            data = os.pread(descriptor, int(self.sizes[index]), int(self.offsets[index]))
        finally:
            os.close(descriptor)
        return decode(io.BytesIO(data), self.name(index))

    def name(self, index: int) -> str:
        return os.path.join(self.files[self.file[index]], os.fsdecode(self.names[index]))


def tar(path: Path, train: str, val: str) -> tuple[TarImages, TarImages]:
    """`path/train.tar`, or all tar files of the folder `path/train`, and the same of `val`.

    An image's class is the folder that it lies in, or the tar file (tars inside tars count) where it lies in none.
    Classes and images are in the order of a folder of the same images.
    """
    if not path.is_dir():
        raise SettingsError(f"data.path={path} is not a folder")
    roots, readers = [], []
    for part in (train, val):
        root = path / f"{part}.tar" if (path / f"{part}.tar").is_file() else path / part
        if root.is_dir() and not any(root.glob("*.tar")):
            raise SettingsError(f"there is no .tar file in {root}")
        if not root.exists():
            raise SettingsError(f"there is neither {path / part}.tar nor a folder {root} of tar files")
        roots.append(root)
        readers.append(_tar_reader(root))
    classes = [sorted(reader.class_name_to_idx) for reader in readers]
    same_classes(*classes, *map(str, roots))
    return tuple(_tar_images(root, reader) for root, reader in zip(roots, readers, strict=True))


def _tar_reader(root: Path) -> Any:
    """timm's index of tar files. Of more than 10 GB it keeps a cache beside them, if it may write there."""
    from timm.data.readers.reader_image_in_tar import ReaderImageInTar

    writable = os.access(root.parent if root.is_file() else root, os.W_OK)
    try:
        try:
            return ReaderImageInTar(str(root), cache_tarinfo=None if writable else False)
        except (EOFError, pickle.UnpicklingError):  # the cache is half-written, by another process that began earlier
            return ReaderImageInTar(str(root), cache_tarinfo=False)
    except (OSError, ValueError, tarfile.TarError) as error:  # ValueError: there is no image
        raise SettingsError(f"{root} cannot be read as tar files of images: {' '.join(str(error).split())}") from error


def _tar_images(root: Path, reader: Any) -> TarImages:
    names = sorted({file or "" for _, file, _ in reader.samples})
    number = {name: index for index, name in enumerate(names)}
    ranks = np.argsort(np.argsort(list(reader.class_name_to_idx)))  # timm numbers classes in natural order
    label = {timm: int(rank) for timm, rank in zip(reader.class_name_to_idx.values(), ranks, strict=True)}
    rows = sorted(
        (
            label[int(target)],
            os.fsencode(os.path.join(outer.name if outer else "", inner.name)),
            number[file or ""],
            inner.offset_data + (outer.offset_data if outer else 0),
            inner.size,
        )
        for (inner, file, outer), target in zip(reader.samples, reader.targets, strict=True)
    )
    labels, paths, file, offsets, sizes = map(np.array, zip(*rows, strict=True))
    return TarImages(tuple(str(root / name) for name in names), file, offsets, sizes, paths, labels, len(label))


@dataclass(frozen=True)
class HubImages:
    """A split of a Hugging Face dataset: Arrow files, which loader workers share."""

    path: str
    reader: Any
    labels: np.ndarray
    classes: int

    def image(self, index: int) -> Image.Image:
        try:
            file, _ = self.reader[index]
        except (OSError, TypeError, AssertionError) as error:  # the file is gone; there is no image in this row
            raise BrokenImageError(self.name(index), str(error) or "no image") from error
        with file:
            return decode(file, self.name(index))

    def name(self, index: int) -> str:
        return f"{index} of {self.path}, split {self.reader.split}"


def hfds(path: str, train: str, val: str) -> tuple[HubImages, HubImages]:
    """`path` is a folder that Hugging Face datasets can load, or a name on its hub; the parts are its splits."""
    readers, labels = [], []
    for split in (train, val):
        with explained(path, split):
            reader = create_reader(f"hfds/{path}", split=split)
            column = reader.dataset.select_columns(LABEL).with_format("numpy")[:][LABEL]
        if column.dtype.kind != "i" or column.min() < 0:  # -1 stands for none
            raise SettingsError(f"data.path={path}, split {split!r}: not every {LABEL!r} is the number of a class")
        readers.append(reader)
        labels.append(column.astype(np.int64))
    same_classes(*(list(reader.class_to_idx) for reader in readers), f"{path}, split {train},", f"split {val}")
    classes = len(readers[0].class_to_idx) or 1 + int(max(column.max() for column in labels))
    return tuple(HubImages(path, *part, classes) for part in zip(readers, labels, strict=True))


@contextmanager
def explained(path: str, split: str) -> Iterator[None]:
    """Whatever Hugging Face's libraries raise (files, formats, network: no common class) as one line."""
    if path.startswith(("/", ".", "~")) and not Path(path).exists():
        raise SettingsError(f"data.path={path} does not exist")
    try:
        yield
    except SettingsError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SettingsError(f"data.path={path}, split {split!r}, cannot be read: {reason}") from error
