"""What a part of a dataset is, whatever reads it; and how an image file becomes RGB pixels."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from experiments.config.settings import Data
from experiments.errors import SettingsError, printable
from roadmap.common.words import listed, shortened

if TYPE_CHECKING:
    from typing_extensions import TypeIs

warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # of images that it opens nevertheless


class Images(Protocol):
    """A map-style collection of labelled images: any of them, in any order, any number of times."""

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64."""

    @property
    def classes(self) -> int: ...

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The name of each label; None if they have none."""

    @property
    def fingerprint(self) -> str:
        """The form in which it is stored, and a digest of which image is where: in the middle of an epoch, a run
        resumes only with images of the same fingerprint."""

    def image(self, index: int) -> Image.Image | Jpeg:
        """The whole image in RGB; or a `Jpeg`, if it is one and the collection is `undecoded`.

        Raises:
            BrokenImageError: if it can't be read to its end.
        """

    def name(self, index: int) -> str:
        """Its path, or whatever else identifies it to a person."""

    def keys(self) -> list[bytes]:
        """What identifies each image in whatever form the dataset is stored: b"CLASS/FILE", or its number in a dataset
        that is stored in one form only.

        Raises:
            SettingsError: if there are no such keys.
        """


class Stream(Protocol):
    """Labelled images that can only be read in order, once per epoch."""

    @property
    def length(self) -> int:
        """The number of images in the whole part."""

    @property
    def classes(self) -> int: ...

    @property
    def fingerprint(self) -> str:
        """See `Images`."""

    def images(
        self, epoch: int, *, shuffle: bool, rank: int, world: int, worker: int, workers: int
    ) -> Iterator[tuple[Image.Image | Jpeg, int]]:
        """The share of one loader worker (of `workers`) of one process (`rank` of `world`): (image as of
        `Images.image`, label).

        Without `shuffle`, for evaluation, the shares are disjoint and together the whole part. With it, for training,
        every rank has length // world images, in an order that depends on the arguments alone. `epoch` may be any
        integer in [0, 2**63).

        Raises:
            BrokenImageError: by the iterator's next(); the following next() continues after that image.
        """


def is_stream(images: Images | Stream) -> TypeIs[Stream]:
    return not hasattr(images, "labels")


class BrokenImageError(Exception):
    """An image that can't be read to its end: which, and why, in one line."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)  # both, so that it can be pickled to leave a loader worker
        self.name, self.reason = printable(name), printable(" ".join(reason.split()))

    def __str__(self) -> str:
        return f"cannot read the image {self.name}: {self.reason}"


EIGHT_BITS = frozenset(["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"])
"""Pillow's modes that it converts to RGB itself."""
SIXTEEN_BITS = frozenset(["I;16", "I;16L", "I;16B", "I;16N"])
SIXTEEN_BITS_AS_32 = frozenset(["PNG", "PPM"])
"""Formats whose images of 16 bits Pillow opens in mode I, of 32 bits."""


def decode(file: str | IO[bytes], name: str, lazy: bool = False) -> Image.Image | Jpeg:
    """The whole image in RGB; of an animation, the first frame. With `lazy`, a JPEG is not decoded yet. `name` is for
    errors.

    As in timm, palettes and transparency are converted by Pillow's convert("RGB"). 16 bits are scaled to 8.

    Raises:
        BrokenImageError: if it is not an image, is truncated, or its pixels have no known range.
    """
    with _as_broken(name):
        if isinstance(file, str):
            with open(file, "rb", opener=_open_regular) as opened:
                return _decoded(opened, name, lazy)
        return _decoded(file, name, lazy)


REDUCTIONS = (8, 4, 2, 1)
"""The factors by which the JPEG decoder can reduce an image's size, and save part of the work."""


class Jpeg:
    """A JPEG of which only the header has been read: the scale at which it is decoded may depend on its size."""

    def __init__(self, header: JpegImageFile, name: str) -> None:
        self.header, self.size, self.name = header, header.size, name

    def decode(self, reduction: int) -> Image.Image:
        """In RGB, at 1/`reduction` (one of REDUCTIONS) of its size, rounded up. Can be called once.

        Raises:
            BrokenImageError: as by the function `decode`.
        """
        with _as_broken(self.name), self.header as image:
            image.draft(None, (self.size[0] // reduction, self.size[1] // reduction))
            return _in_rgb(image)


@contextmanager
def _as_broken(name: str) -> Iterator[None]:
    """Turn whatever a damaged image raises into a BrokenImageError."""
    try:
        yield
    except UnidentifiedImageError as error:  # whose message names the file object, not the file
        raise BrokenImageError(name, "not an image, or of an unknown format") from error
    except MemoryError:
        raise
    except OSError as error:
        raise BrokenImageError(name, error.strerror or str(error) or type(error).__name__) from error
    except Exception as error:  # for damaged bytes, Pillow's decoders raise nearly anything
        raise BrokenImageError(name, str(error) or type(error).__name__) from error


def _open_regular(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NONBLOCK)  # or opening a FIFO would wait for a writer for ever
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("not a regular file")
    return descriptor


def _decoded(file: IO[bytes], name: str, lazy: bool) -> Image.Image | Jpeg:
    if not file.seek(0, os.SEEK_END):
        raise ValueError("an empty file")
    file.seek(0)
    image = Image.open(io.BytesIO(file.read()) if lazy else file)  # the caller may close its file before decoding
    if lazy and isinstance(image, JpegImageFile):
        return Jpeg(image, name)
    with image:
        return _in_rgb(image)


def _in_rgb(image: Image.Image) -> Image.Image:
    image.load()  # the whole image; raises if it is truncated
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
    class_names: tuple[str, ...] | None = None

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


@dataclass(frozen=True, kw_only=True)
class FileImages:
    """What collections of image files have in common: an image is identified by its class and its file's name."""

    form: ClassVar[str]
    paths: np.ndarray
    """(N,) bytes, in one array: Python strings would be copied to every loader worker."""
    labels: np.ndarray
    class_names: tuple[str, ...]
    lazy: bool = False
    """Whether JPEGs are left undecoded."""

    @property
    def classes(self) -> int:
        return len(self.class_names)

    def keys(self) -> list[bytes]:
        return file_keys(self.class_names, self.labels, self.paths.tolist())

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.form, [*map(os.fsencode, self.class_names)], self.labels, self.paths.tolist())


def file_keys(class_names: Sequence[str], labels: np.ndarray, paths: Iterable[bytes]) -> list[bytes]:
    """b"CLASS/FILE" of each image."""
    classes = [os.fsencode(name) for name in class_names]
    labelled = zip(labels.tolist(), paths, strict=True)
    return [classes[label] + b"/" + os.path.basename(path) for label, path in labelled]


def fingerprint(form: str, *parts: np.ndarray | Sequence[bytes]) -> str:
    """`form` and a digest of arrays and lists, in their order."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        content = part.tobytes() if isinstance(part, np.ndarray) else b"\0".join(part)
        digest.update(b"%d\0" % len(content) + content)
    return f"{form} {digest.hexdigest()}"


def undecoded(images: Any) -> Any:
    """The same images from files, but JPEGs as `Jpeg`, for a transform to choose the scale at which to decode them."""
    return replace(images, lazy=True)


def data_folder(data: Data) -> Path:
    """The folder `data.path`, which is set for all readers but `sample`."""
    assert data.path is not None
    return Path(data.path).expanduser()


def check_same_classes(train: Sequence[str], val: Sequence[str], train_name: str, val_name: str) -> None:
    """Refuse parts whose classes differ: their labels would have different meanings."""
    if list(train) == list(val):
        return
    missing, extra = sorted({*train} - {*val}), sorted({*val} - {*train})
    differences = [f"{verb} {shortened(names, 3)}" for verb, names in (("lacks", missing), ("adds", extra)) if names]
    differences = differences or ["has them in another order"]
    raise SettingsError(f"the classes of {train_name} and {val_name} differ: the latter {listed(differences)}")
