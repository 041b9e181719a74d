"""The sample of Fashion-MNIST that comes with the package."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from experiments.config.settings import Data
from experiments.data.images import ArrayImages

CLASSES = (*("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),)
"""As the authors of Fashion-MNIST name them."""
SAMPLE = Path(__file__).parents[1] / "fashion_mnist" / "sample.npz"


def load(data: Data) -> tuple[ArrayImages, ArrayImages]:
    return load_sample()


@cache
def load_sample() -> tuple[ArrayImages, ArrayImages]:
    with np.load(SAMPLE, allow_pickle=False) as arrays:
        train, test = (
            ArrayImages(arrays[f"{part}_images"], arrays[f"{part}_labels"].astype(np.int64), CLASSES)
            for part in ("train", "test")
        )
    return train, test
