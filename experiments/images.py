"""Where images come from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from experiments.errors import SettingsError
from experiments.settings import Data

SAMPLE = Path(__file__).parent / "fashion_mnist" / "sample.npz"


class BrokenImageError(Exception):
    """placeholder"""


class Images(Protocol):
    """A map-style collection of labelled images."""

    labels: np.ndarray
    classes: int

    def image(self, index: int) -> Image.Image: ...
    def name(self, index: int) -> str: ...


class Stream(Protocol):
    length: int
    classes: int


@dataclass(frozen=True)
class ArrayImages:
    """Greyscale images in memory: (N, H, W) uint8."""

    pixels: np.ndarray
    labels: np.ndarray
    classes: int = 10

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index]).convert("RGB")

    def name(self, index: int) -> str:
        return f"image {index}"


def load_images(data: Data) -> tuple[Images, Images]:
    if data.name == "fashion_mnist_sample":
        return load_sample()
    return _fashion_mnist(data)


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
