"""The images that the package brings."""

from __future__ import annotations

from experiments.images import ArrayImages, load_sample
from experiments.settings import Data


def load(data: Data) -> tuple[ArrayImages, ArrayImages]:
    return load_sample()
