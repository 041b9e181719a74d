"""The picture as a network saw it, with its activation map on it, as an image in a page."""

from __future__ import annotations

import base64
import io

import matplotlib
import numpy as np
from PIL import Image
from PIL.Image import Resampling

TILE = 128
"""Pixels of a side."""
COLOURS = matplotlib.colormaps["cividis"]
"""From blue to yellow, ever lighter: the same to readers who see no red or no green."""
OPACITY = 0.55


def overlay(seen: np.ndarray, activation: np.ndarray | None) -> Image.Image:
    """A square of TILE pixels.

    Args:
        seen: (H, W, 3), uint8.
        activation: (h, w), from 0 to 1; None for the picture alone.
    """
    picture = Image.fromarray(seen).resize((TILE, TILE), _enlarging(seen.shape[0]))
    if activation is None:
        return picture
    smooth = Image.fromarray(activation).resize((TILE, TILE), Resampling.BICUBIC)
    colours = COLOURS(np.asarray(smooth).clip(0, 1), bytes=True)[..., :3]
    return Image.blend(picture, Image.fromarray(colours), OPACITY)


def data_uri(image: Image.Image) -> str:
    with io.BytesIO() as file:
        image.save(file, "WEBP", quality=80)
        return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def _enlarging(side: int) -> Resampling:
    """Pixels stay visible where there are few of them."""
    return Resampling.NEAREST if side < TILE else Resampling.BICUBIC
