"""Images that are read once and kept in memory (`data.cache`), if there is room for them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from experiments.config.settings import SMALL
from experiments.data.datasets import Collection
from experiments.data.images import ArrayImages, BrokenImageError, Images
from experiments.data.transforms import PADDING
from experiments.data.workers import BatchLoader
from experiments.errors import DataError, SettingsError, StoppedError
from experiments.runtime.processes import Processes

GB = 2**30
"""Bytes, of memory."""
READ_TOGETHER = 250
"""Images in a batch of those that are read into memory."""


@dataclass(frozen=True)
class Cache:
    """The images of a collection at some indices, each read once."""

    images: Images
    indices: np.ndarray
    """(N,), ascending."""
    pixels: Tensor
    """(N, H, W, C), uint8."""
    broken: dict[int, str]
    """{position: why it can't be read}"""

    @classmethod
    def of_array(cls, images: ArrayImages, indices: np.ndarray) -> Cache:
        """Of images that are in memory anyway."""
        pixels = torch.from_numpy(images.pixels)
        pixels = pixels if len(indices) == len(pixels) else pixels[indices]
        return cls(images, indices, pixels if pixels.ndim == 4 else pixels[..., None], {})

    @property
    def labels(self) -> np.ndarray:
        return self.images.labels

    def name(self, index: int) -> str:
        return self.images.name(index)

    def image(self, index: int) -> Image.Image:
        position = int(np.searchsorted(self.indices, index))
        if position in self.broken:
            raise BrokenImageError(self.name(index), self.broken[position])
        return to_pil_image(self.pixels[position].permute(2, 0, 1))

    def replacements(self) -> Tensor:
        """(N,): for each position, itself or else the next whose image can be read."""
        positions = np.arange(len(self.indices))
        readable = np.setdiff1d(positions, [*self.broken])
        if not len(readable):
            raise BrokenImageError(self.name(int(self.indices[0])), self.broken[0])
        return torch.from_numpy(readable[np.searchsorted(readable, positions) % len(readable)])


class SameSize:
    """A transform that leaves images as they are, (3, H, W), and refuses those of another size than the first."""

    def __init__(self, images: Images, indices: np.ndarray) -> None:
        failure = BrokenImageError("", "")
        for index in indices:
            try:
                self.size = images.image(int(index)).size
                return
            except BrokenImageError as error:
                failure = error
        raise SettingsError(str(failure))

    def __call__(self, image: Image.Image) -> Tensor:
        if image.size != self.size:
            raise DataError(
                f"data.cache keeps images of one size, here {self.size[0]} x {self.size[1]} px; leave data.cache out"
            )
        return pil_to_tensor(image)


def check_room(count: int, size: tuple[int, int], resolution: int) -> None:
    """Check that `count` images of (W, H), and a padded copy of them at a small resolution, fit into free memory once
    for each of the run's processes on this machine.

    Raises:
        SettingsError: if they do not.
    """
    width, height = size
    copies = 1 + (resolution <= SMALL) * (width + 2 * PADDING) * (height + 2 * PADDING) / (width * height)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    needed, free = processes * copies * count * width * height * 3 / GB, free_memory() / GB
    if needed > free:
        raise SettingsError(
            f"data.cache takes {needed:.1f} GB, and {free:.1f} GB of memory are free; leave data.cache out"
        )


def free_memory() -> float:
    """Bytes that are free on the machine, or within the limit of this process's cgroup; infinity if unknown."""
    free = math.inf
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = 1024.0 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    with suppress(OSError, StopIteration, ValueError):
        groups = Path("/proc/self/cgroup").read_text().splitlines()
        group = Path("/sys/fs/cgroup") / next(line for line in groups if line.startswith("0::"))[3:].lstrip("/")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        free = min(free, limit - used)
    return free


def read_into_memory(
    images: Images,
    indices: np.ndarray,
    resolution: int,
    processes: Processes,
    workers: int,
    broken: set[str] | None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Cache:
    """The images of a collection at some indices, read by loader workers. `broken`: as of `BatchLoader`.

    Raises:
        SettingsError: if they are too many, or none can be read.
        DataError: if they are not of one size; or for one that can't be read and may not be skipped.
        StoppedError: if the run is asked to stop.
    """
    transform = SameSize(images, indices)
    check_room(len(indices), transform.size, resolution)
    width, height = transform.size
    pixels, is_read = torch.empty(len(indices), height, width, 3, dtype=torch.uint8), np.zeros(len(indices), bool)
    loader = BatchLoader(Collection(images, indices, transform), processes, workers, broken)
    for batch in loader.load(0, torch.arange(len(indices)).split(READ_TOGETHER)):
        positions = np.searchsorted(indices, [index for _, index in batch.samples])
        pixels[positions] = batch.images.permute(0, 2, 3, 1)
        is_read[positions] = True
        if stop_requested():
            raise StoppedError("stopped while its images were read into memory; the same command reads them again")
    unread = {int(position): _reason(images, int(indices[position])) for position in np.flatnonzero(~is_read)}
    return Cache(images, indices, pixels, unread)


def _reason(images: Images, index: int) -> str:
    """Why an image can't be read."""
    try:
        images.image(index)
    except BrokenImageError as error:
        return error.reason
    return "it could not be read together with the others"
