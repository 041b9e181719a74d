"""RandAugment's shears and translations with bicubic interpolation, in a fifth of Pillow's time.

These four of its fifteen operations take more than half of RandAugment's time: `Image.transform` weights 4 x 4 pixels
for each of the result. But a shear or translation along x moves each row as a whole, so 4 x 1 suffice, in float32. The
result is Pillow's, except that one value in some thousands differs by 1 of 255.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided
from PIL import Image

Color = tuple[int, int, int]
Operation = Callable[..., Image.Image]
"""As timm calls it: (image, factor or fraction, *, fillcolor, resample)."""


def slide_rows(image: Image.Image, distances: np.ndarray, fillcolor: Color) -> Image.Image:
    """An RGB image whose row y is moved by `distances[y]` pixels to the left; `fillcolor` where nothing comes from."""
    width, height = image.size
    whole = np.floor(distances).astype(np.int64)
    shifted = _shift_rows(np.asarray(image), whole).astype(np.float32)
    slid = torch.full((height, width * 3), 2**-12)  # Pillow rounds down: not from 127.99999 to 127
    for tap, weight in enumerate(_weights(distances - whole)):
        slid.addcmul_(torch.from_numpy(shifted[:, 3 * tap : 3 * (tap + width)]), weight)
    result = Image.fromarray(slid.clamp_(0, 255).numpy().astype(np.uint8).reshape(height, width, 3))
    source = np.arange(width) + np.floor(distances + 0.5).astype(np.int64)[:, None]
    result.paste(fillcolor, mask=Image.fromarray((source < 0) | (source >= width)))
    return result


def _shift_rows(pixels: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """(H, W, 3) to (H, (W + 3) * 3): of row y the pixels `shifts[y] - 1` to `shifts[y] + W + 1`. Its edges are repeated
    for two pixels, as far as the weights of a pixel inside reach; values beyond are arbitrary."""
    height, width, _ = pixels.shape
    margin = int(np.abs(shifts).max()) + 3
    padded = np.empty((height, margin + width + margin, 3), np.uint8)
    padded[:, margin:-margin] = pixels
    padded[:, margin - 2 : margin] = pixels[:, :1]
    padded[:, -margin : 2 - margin] = pixels[:, -1:]
    windows = as_strided(padded, (height, 2 * margin - 2, (width + 3) * 3), (padded.strides[0], 3, 1))
    return windows[np.arange(height), margin + shifts - 1]


def _weights(d: np.ndarray) -> torch.Tensor:
    """(4, H, 1): the weights of the four pixels around a point that is `d` (H,), in [0, 1), to the right of the second.
    Pillow's `transform` has the cubic kernel with a = -1, its `resize` that with -0.5."""
    weights = np.stack([-d + 2 * d**2 - d**3, 1 - 2 * d**2 + d**3, d + d**2 - d**3, d**3 - d**2])
    return torch.from_numpy(weights.astype(np.float32)[..., None])


def shear_x(image: Image.Image, factor: float, *, fillcolor: Color, **_: object) -> Image.Image:
    return slide_rows(image, factor * (np.arange(image.height) + 0.5), fillcolor)


def translate_x(image: Image.Image, fraction: float, *, fillcolor: Color, **_: object) -> Image.Image:
    return slide_rows(image, np.full(image.height, fraction * image.width), fillcolor)


def along_y(along_x: Operation, image: Image.Image, amount: float, **kwargs: object) -> Image.Image:
    transposed = along_x(image.transpose(Image.Transpose.TRANSPOSE), amount, **kwargs)
    return transposed.transpose(Image.Transpose.TRANSPOSE)


SHEARS: dict[str, Operation] = {
    "ShearX": shear_x,
    "ShearY": partial(along_y, shear_x),
    "TranslateXRel": translate_x,
    "TranslateYRel": partial(along_y, translate_x),
}
"""By timm's names of the operations."""
