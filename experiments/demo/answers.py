"""What a network answers to a picture: its classes, how long it takes, and where it looked."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.Image import Resampling
from torch import Tensor

from experiments.config.settings import SMALL
from experiments.data.images import BrokenImageError, decode
from experiments.data.transforms import Preprocess, evaluation_transform
from experiments.demo.activation_map import activation_map
from experiments.demo.networks import DemoNetwork

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")
"""Of pictures from a browser. Pillow knows others that run further programs."""
MOST_PIXELS = 50_000_000
MOST_BYTES = 20_000_000
MOST_ELONGATED = 20
"""How many times as long as the shorter side the longer one may be: the shorter side is what a transform resizes to
some 256 pixels."""
TIMED_PASSES, TIMED_SECONDS = range(3, 10), 0.06
"""How many forward passes are timed: as many as take so long together, within these bounds."""
SHOWN_CLASSES = 3


@dataclass(frozen=True)
class Answer:
    classes: tuple[tuple[str, float], ...]
    """The first classes and their probabilities, the most probable first."""
    milliseconds: float
    """The median of some forward passes with this picture alone."""
    seen: np.ndarray
    """(H, W, 3), uint8: the picture as the network saw it."""
    map: np.ndarray | None
    """Of the first class: `activation_map`."""


def read_picture(path: Path) -> Image.Image:
    """A picture that somebody uploaded, in RGB and upright.

    Raises:
        BrokenImageError: if it is too large or too long, of a format that browsers don't show, or can't be read to its
            end.
    """
    name = "that was uploaded"
    if path.stat().st_size > MOST_BYTES:
        raise BrokenImageError(name, f"more than {MOST_BYTES / 1e6:.0f} MB")
    try:
        with Image.open(path, formats=FORMATS) as header:
            width, height = header.size
    except Exception as error:  # for damaged bytes, Pillow raises nearly anything
        raise BrokenImageError(name, f"not an image of a known format ({', '.join(FORMATS)})") from error
    if width * height > MOST_PIXELS:
        raise BrokenImageError(name, f"{width} x {height} px, more than {MOST_PIXELS / 1e6:.0f} million pixels")
    if max(width, height) > MOST_ELONGATED * min(width, height):
        reason = f"{width} x {height} px, one side more than {MOST_ELONGATED} times as long as the other"
        raise BrokenImageError(name, reason)
    image = decode(str(path), name)
    assert isinstance(image, Image.Image)  # not lazy
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow writes the other Exif tags anew, whatever they are
        raise BrokenImageError(name, "its Exif data are damaged") from error


def preprocessed(network: DemoNetwork, picture: Image.Image) -> Tensor:
    """(3, R, R), uint8, as the network's evaluation images were transformed.

    Small images are evaluated without being resized. So a larger picture is first made as small as they were: its
    central square, reduced to the network's resolution.
    """
    transform = network.transform
    if network.is_grey:
        picture = picture.convert("L").convert("RGB")
    side = transform.resolution
    if side <= SMALL and transform.crop_pct is None and max(picture.size) > side:
        picture = ImageOps.fit(picture, (side, side), Resampling.BICUBIC)
    return evaluation_transform(side, transform.interpolation, transform.crop_pct)(picture)


def answer(network: DemoNetwork, picture: Image.Image) -> Answer:
    pixels = preprocessed(network, picture)
    transform = network.transform
    image = Preprocess(torch.device("cpu"), transform.mean, transform.std)(pixels[None])
    with torch.inference_mode():
        logits = network.module(image)[0]  # also warms up
        seconds = _seconds(network, image)
    values, labels = logits.softmax(0).topk(min(SHOWN_CLASSES, len(logits)))
    ranked = zip(labels.tolist(), values.tolist(), strict=True)
    return Answer(
        classes=tuple((network.class_names[label], value) for label, value in ranked),
        milliseconds=1000 * median(seconds),
        seen=pixels.permute(1, 2, 0).numpy(),
        map=activation_map(network.module, image, int(labels[0])),
    )


def _seconds(network: DemoNetwork, image: Tensor) -> list[float]:
    """Of each timed forward pass."""
    times: list[float] = []
    while len(times) < TIMED_PASSES.start or (sum(times) < TIMED_SECONDS and len(times) < TIMED_PASSES.stop - 1):
        started = time.perf_counter()
        network.module(image)
        times.append(time.perf_counter() - started)
    return times
