"""Imagenette: ten easily distinguished classes of ImageNet, in three sizes."""

from __future__ import annotations

from dataclasses import replace

from experiments.config.settings import Data
from experiments.data.images import data_folder
from experiments.data.readers import folder
from experiments.data.readers.folder import FolderImages
from experiments.data.readers.torchvision import or_downloaded
from experiments.errors import SettingsError

SIZES = {"imagenette": "full", "imagenette_320": "320px", "imagenette_160": "160px"}
COUNTS = (9_469, 3_925)
"""Of training and validation images, in every size."""


def load(data: Data) -> tuple[FolderImages, FolderImages]:
    """The folder `data.path` with train/CLASS and val/CLASS; else what torchvision finds there, or downloads."""
    path = data_folder(data)
    if (path / data.train).is_dir():
        return folder.load(data)
    if data.name not in SIZES:
        raise SettingsError(f"data.reader=imagenette has {', '.join(SIZES)}; not data.name={data.name!r}")
    from torchvision.datasets import Imagenette

    archive = Imagenette._ARCHIVES[SIZES[data.name]][0].rpartition("/")[2]
    root = path / archive.removesuffix(".tgz")
    todo = f"unpack {archive} into {path}"
    or_downloaded(lambda **how: Imagenette(path, size=SIZES[data.name], **how), path, "Imagenette", todo)
    parts = folder.load(replace(data, path=str(root)))
    counts = tuple(len(part.labels) for part in parts)
    if (data.train, data.val) == ("train", "val") and counts != COUNTS:  # as if unpacking was interrupted
        has = " and ".join(f"{count:,}" for count in counts)
        raise SettingsError(f"{root} has {has} images, not {COUNTS[0]:,} and {COUNTS[1]:,}: remove it and start again")
    return parts
