"""Images: what a part of a dataset is, whatever reads it, and how an image file becomes RGB pixels."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import IO, Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from experiments.errors import SettingsError, printable
from roadmap.common.words import listed, shortened

warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # of what it opens all the same


class Images(Protocol):
    """A map-style collection of labelled images: any of them, in any order, any number of times."""

    labels: np.ndarray
    """(N,) int64."""
    classes: int
    class_names: tuple[str, ...] | None
    """Of each label; None if it has none."""
    fingerprint: str
    """The form in which it is stored and a digest of which image is where: a run may go on, in the middle of an epoch,
    with images of the same fingerprint alone."""

    def image(self, index: int) -> Image.Image | Jpeg:
        """In RGB, whole; of what `undecoded` gives, a `Jpeg`, if it is one.

        Raises:
            BrokenImageError: if it can't be read to its end.
        """
        ...

    def name(self, index: int) -> str:
        """Its path, or what else a person finds it by."""
        ...

    def keys(self) -> list[bytes]:
        """What each image is known by in whatever form the dataset is stored: b"CLASS/FILE", or its number in a
        dataset of one form.

        Raises:
            SettingsError: if there is no such thing.
        """
        ...


class Stream(Protocol):
    """Labelled images that come in an order of their own, once an epoch."""

    length: int
    """Images in the whole part."""
    classes: int
    fingerprint: str
    """As of `Images`."""

    def images(
        self, epoch: int, *, shuffle: bool, rank: int, world: int, worker: int, workers: int
    ) -> Iterator[tuple[Image.Image | Jpeg, int]]:
        """The share of one loader worker (of `workers`) of one process (`rank` of `world`): (image as of
        `Images`, label).

        Without `shuffle`, for evaluation, the shares are disjoint and together the whole part. With it, for training,
        every rank has length // world images, in an order that depends on the arguments alone. `epoch` may be any
        integer in [0, 2**63).

        Raises:
            BrokenImageError: by the iterator's next(), which goes on with the image after it if called again.
        """
        ...


class BrokenImageError(Exception):
    """An image that can't be read to its end: which, and why, in one line."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)  # both, so that it can be pickled: loader workers send it
        self.name, self.reason = printable(name), printable(" ".join(reason.split()))

    def __str__(self) -> str:
        return f"cannot read the image {self.name}: {self.reason}"


EIGHT_BITS = frozenset(["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"])
"""Pillow's modes that it converts to RGB itself."""
SIXTEEN_BITS = frozenset(["I;16", "I;16L", "I;16B", "I;16N"])
SIXTEEN_BITS_AS_32 = frozenset(["PNG", "PPM"])
"""Formats of which Pillow opens images of 16 bits in mode I, of 32."""


def decode(file: str | IO[bytes], name: str, lazy: bool = False) -> Image.Image | Jpeg:
    """The whole image in RGB; of an animation, the first frame. With `lazy`, a JPEG is not decoded yet. `name` is for
    errors.

    As in timm, a palette or transparency is what Pillow's convert("RGB") makes of it. 16 bits are scaled to 8.

    Raises:
        BrokenImageError: if it isn't one, is truncated, or its pixels have no known range.
    """
    with _broken_named(name):
        if isinstance(file, str):
            with open(file, "rb", opener=_open_regular) as opened:
                return _decoded(opened, name, lazy)
        return _decoded(file, name, lazy)


REDUCTIONS = (8, 4, 2, 1)
"""To what parts of its size the JPEG decoder can reduce an image, leaving out some of its work."""


class Jpeg:
    """A JPEG of which only the header has been read: how it is decoded may depend on its size."""

    def __init__(self, header: JpegImageFile, name: str) -> None:
        self.header, self.size, self.name = header, header.size, name

    def decode(self, reduction: int) -> Image.Image:
        """In RGB, at 1/`reduction` of its size, rounded up: one of REDUCTIONS. Once only.

        Raises:
            BrokenImageError: as of the function `decode`.
        """
        with _broken_named(self.name), self.header as image:
            image.draft(None, tuple(side // reduction for side in self.size))
            return _in_rgb(image)


@contextmanager
def _broken_named(name: str) -> Iterator[None]:
    """Whatever a damaged image raises, as BrokenImageError."""
    try:
        yield
    except UnidentifiedImageError as error:  # whose own text names the file object, not the file
        raise BrokenImageError(name, "not an image, or of an unknown format") from error
    except MemoryError:
        raise
    except OSError as error:
        raise BrokenImageError(name, error.strerror or str(error) or type(error).__name__) from error
    except Exception as error:  # of damaged bytes, Pillow's decoders raise nearly anything
        raise BrokenImageError(name, str(error) or type(error).__name__) from error


def _open_regular(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NONBLOCK)  # or opening a FIFO waits for ever for someone who writes
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("not a regular file")
    return descriptor


def _decoded(file: IO[bytes], name: str, lazy: bool) -> Image.Image | Jpeg:
    if not file.seek(0, os.SEEK_END):
        raise ValueError("an empty file")
    file.seek(0)
    image = Image.open(io.BytesIO(file.read()) if lazy else file)  # the caller's may be closed by then
    if lazy and isinstance(image, JpegImageFile):
        return Jpeg(image, name)
    with image:
        return _in_rgb(image)


def _in_rgb(image: Image.Image) -> Image.Image:
    image.load()  # all of it; a truncated one raises
    if image.mode == "RGB":
        return image
    if image.mode in SIXTEEN_BITS or (image.mode == "I" and image.format in SIXTEEN_BITS_AS_32):
        grey = (np.asarray(image).astype(np.uint32) + 128) // 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode not in EIGHT_BITS:
        raise ValueError(f"pixels of Pillow's mode {image.mode} have no known range; store them in 8 or 16 bits")
    return image.convert("RGB")


@dataclass(frozen=True)
class ArrayImages:
    """Images in memory: (N, H, W) grey or (N, H, W, 3) RGB, uint8."""

    pixels: np.ndarray
    labels: np.ndarray
    class_names = None

    @cached_property
    def classes(self) -> int:
        return int(self.labels.max()) + 1

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index]).convert("RGB")

    def name(self, index: int) -> str:
        return f"image {index}"

    def keys(self) -> list[bytes]:
        return [b"%d" % index for index in range(len(self.labels))]

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint("array", self.labels, [])


def fingerprint(form: str, *facts: np.ndarray | Sequence[bytes]) -> str:
    """`form` and a digest of facts, in their order."""
    digest = hashlib.blake2b(digest_size=8)
    for fact in facts:
        whole = fact.tobytes() if isinstance(fact, np.ndarray) else b"\0".join(fact)
        digest.update(b"%d\0" % len(whole) + whole)
    return f"{form} {digest.hexdigest()}"


def undecoded(images: Images | Stream) -> Images | Stream:
    """The same images from files; but JPEGs come as `Jpeg`, for a transform to say at which scale they are decoded."""
    return replace(images, lazy=True)


def same_classes(train: Sequence[str], val: Sequence[str], where_train: str, where_val: str) -> None:
    """Refuse parts whose classes differ: their labels would mean different things."""
    if list(train) == list(val):
        return
    missing, extra = sorted({*train} - {*val}), sorted({*val} - {*train})
    facts = [f"{fact} {shortened(names, 3)}" for fact, names in (("lacks", missing), ("adds", extra)) if names]
    facts = facts or ["has them in another order"]
    raise SettingsError(f"the classes of {where_train} and {where_val} differ: the latter {listed(facts)}")
