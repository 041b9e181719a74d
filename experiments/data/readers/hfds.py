"""Hugging Face datasets, downloaded and prepared, read in any order through timm's reader."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute
from PIL import Image
from timm.data.readers import create_reader

from experiments.config.settings import Data
from experiments.data.images import BrokenImageError, Jpeg, check_same_classes, decode, file_keys, fingerprint
from experiments.errors import SettingsError

IMAGE, LABEL = "image", "label"
"""The columns that timm's readers look for."""


@dataclass(frozen=True)
class HubImages:
    """A split of a Hugging Face dataset: Arrow files, which loader workers share."""

    path: str
    reader: Any
    labels: np.ndarray
    classes: int
    class_names: tuple[str, ...] | None
    lazy: bool = False

    def image(self, index: int) -> Image.Image | Jpeg:
        row = self.reader.dataset[index][IMAGE]
        if not row or not (row["bytes"] or row["path"]):
            raise BrokenImageError(self.name(index), "no image")
        return decode(io.BytesIO(row["bytes"]) if row["bytes"] else row["path"], self.name(index), self.lazy)

    def name(self, index: int) -> str:
        return f"{index} of {self.path}, split {self.reader.split}"

    def keys(self) -> list[bytes]:
        files = [os.fsencode(name) for name in self._file_names if name]
        if self.class_names is None or len(files) < len(self.labels):
            lacking = "file names" if self.class_names else "class names"
            raise SettingsError(
                f"data.subset and data.holdout draw images by class and file name, and {self.path} has no {lacking}; "
                "use all of it, or another form of the dataset"
            )
        return file_keys(self.class_names, self.labels, files)

    @property
    def _file_names(self) -> list[str | None]:
        return pyarrow.compute.struct_field(self.reader.dataset.data.column(IMAGE), "path").to_pylist()

    @cached_property
    def fingerprint(self) -> str:
        names = [os.fsencode(name or "") for name in self._file_names]
        return fingerprint("hfds", [*map(os.fsencode, self.class_names or ())], self.labels, names)


def load(data: Data) -> tuple[HubImages, HubImages]:
    """`data.path` is a folder that Hugging Face datasets can load, or a name on its hub; the parts are its splits.

    Classes are numbered as in the dataset, on which published weights rely, even if their names are not in the order of
    class folders.
    """
    path, readers, columns = data.path or "", [], []
    for split in (data.train, data.val):
        with explained(path, split):
            reader = create_reader(f"hfds/{path}", split=split)
            column = reader.dataset.select_columns(LABEL).with_format("numpy")[:][LABEL]
        if column.dtype.kind != "i" or column.min() < 0:  # -1 means none
            raise SettingsError(f"data.path={path}, split {split!r}: not every {LABEL!r} is the number of a class")
        readers.append(reader)
        columns.append(column.astype(np.int64))
    names, val_names = (sorted(reader.class_to_idx, key=reader.class_to_idx.get) for reader in readers)
    check_same_classes(names, val_names, f"{path}, split {data.train},", f"split {data.val}")
    classes = len(names) or 1 + int(max(column.max() for column in columns))
    class_names = tuple(names) or None
    train, val = (
        HubImages(path, reader, column, classes, class_names) for reader, column in zip(readers, columns, strict=True)
    )
    return train, val


@contextmanager
def explained(path: str, split: str) -> Iterator[None]:
    """Turn whatever Hugging Face's libraries raise (of files, formats, network: no common class) into one line."""
    if path.startswith(("/", ".", "~")) and not Path(path).exists():
        raise SettingsError(f"data.path={path} does not exist")
    try:
        yield
    except SettingsError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SettingsError(f"data.path={path}, split {split!r}, cannot be read: {reason}") from error
