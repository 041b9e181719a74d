"""How images are prepared for a network, in words that other libraries have."""

from __future__ import annotations

import math

from experiments.config.settings import SMALL
from experiments.evaluate.model import TransformSettings


def resized_to(transform: TransformSettings) -> int | tuple[int, int] | None:
    """Pixels of the shorter side, or of both sides, before the centre is cropped; None if an image is not resized.
    As `experiments.data.transforms.evaluation_transform` does it."""
    resolution = transform.resolution
    if transform.crop_pct is None and resolution <= SMALL:
        return None
    if transform.crop_pct is None and resolution >= 384:
        return resolution, resolution
    return math.floor(resolution / (transform.crop_pct or 0.875))
