"""Tiny ImageNet: 200 classes at 64 px, as published or as class folders."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from experiments.config.settings import Data
from experiments.data.images import check_same_classes, data_folder
from experiments.data.readers import folder
from experiments.data.readers.folder import FolderImages, class_names_in, images_of
from experiments.errors import SettingsError

ANNOTATIONS = "val_annotations.txt"


def load(data: Data) -> tuple[FolderImages, FolderImages]:
    """The folder `data.path`: class folders, or as published train/CLASS/images/*.JPEG, and val/images/*.JPEG with
    their classes in val/val_annotations.txt."""
    path = data_folder(data)
    train_root, val_root = path / data.train, path / data.val
    if not any((root / ANNOTATIONS).is_file() for root in (train_root, val_root)):
        return folder.load(data)
    train, val = _part(train_root, "train"), _part(val_root, "val")
    check_same_classes(train.class_names, val.class_names, str(train_root), str(val_root))
    return train, val


def _part(root: Path, key: str) -> FolderImages:
    if (root / ANNOTATIONS).is_file():
        return _annotated(root)
    return images_of(root, class_names_in(root, key))


def _annotated(root: Path) -> FolderImages:
    """The images in the order that they would have in class folders."""
    file = root / ANNOTATIONS
    rows = []
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        name, _, rest = line.partition(b"\t")
        class_name = rest.partition(b"\t")[0]
        if not name or not class_name:
            raise SettingsError(f"{file}, line {number}: expected an image's name, a tab and its class")
        rows.append((class_name, name))
    if not rows:
        raise SettingsError(f"{file} lists no images")
    rows = sorted(set(rows))
    classes, labels = np.unique([class_name for class_name, _ in rows], return_inverse=True)
    paths = np.array([b"images/" + name for _, name in rows])
    return FolderImages(root=root, paths=paths, labels=labels, class_names=tuple(map(os.fsdecode, classes)))
