"""Image files in class folders: PATH/train/CLASS/**/IMAGE.jpg."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.config.dataset_folders import EXTENSIONS, class_folders, files_in
from experiments.config.settings import Data
from experiments.data.images import FileImages, Jpeg, check_same_classes, data_folder, decode
from experiments.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class FolderImages(FileImages):
    """Image files at `paths` under `root`."""

    form = "folder"
    root: Path

    def image(self, index: int) -> Image.Image | Jpeg:
        return decode(self.name(index), self.name(index), self.lazy)

    def name(self, index: int) -> str:
        return os.path.join(self.root, os.fsdecode(self.paths[index]))


def load(data: Data) -> tuple[FolderImages, FolderImages]:
    """`data.path/train/<class>/**/*.jpg` and the same of `val`: order and labels are those of torchvision's
    ImageFolder."""
    train, val, classes = find_parts(data)
    parts = {root: images_of(root, classes) for root in dict.fromkeys([train, val])}  # one, with a hold-out
    return parts[train], parts[val]


def find_parts(data: Data) -> tuple[Path, Path, list[bytes]]:
    """The folders of the two parts, and the names of their class folders, without reading these."""
    path = data_folder(data)
    if not path.is_dir():
        raise SettingsError(f"data.path={data.path} is not a folder")
    train, val = path / data.train, path / data.val
    classes, val_classes = class_names_in(train, "train"), class_names_in(val, "val")
    check_same_classes([*map(os.fsdecode, classes)], [*map(os.fsdecode, val_classes)], str(train), str(val))
    return train, val, classes


def class_names_in(root: Path, key: str) -> list[bytes]:
    if not root.is_dir():
        raise SettingsError(f"there is no folder {root}: data.{key} names the folder with one folder per class")
    names = class_folders(os.fsencode(root))
    if not names:
        raise SettingsError(f"{root} has no class folders: images must be at {root / 'CLASS' / 'IMAGE.jpg'}")
    return names


def images_of(root: Path, classes: Sequence[bytes]) -> FolderImages:
    paths, counts = [], []
    for name in classes:
        files = files_in(os.fsencode(root), name, EXTENSIONS)
        if not files:
            known = ", ".join(os.fsdecode(extension) for extension in EXTENSIONS)
            raise SettingsError(f"the class folder {root / os.fsdecode(name)} has no images ({known})")
        paths += files
        counts.append(len(files))
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), counts)
    class_names = tuple(map(os.fsdecode, classes))
    return FolderImages(root=root, paths=np.array(paths), labels=labels, class_names=class_names)
