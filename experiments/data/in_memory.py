"""Images of one size that are held in memory, cropped and flipped a batch at a time.

Images in files are transformed one by one, by loader workers (data.py). For small ones in memory that takes longer than
a small network does, and a GPU waits for it.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset
from torchvision.transforms.functional import center_crop, pil_to_tensor, to_pil_image

from experiments.config.settings import SMALL, Recipe
from experiments.data.batch import Batch, Sample
from experiments.data.images import BrokenImageError, Images
from experiments.data.transforms import PADDING, Erasing, corner_and_flip
from experiments.errors import DataError, SettingsError
from experiments.runtime.randomness import Purpose, derive

GB = 2**30
"""Bytes, of memory."""

Crops = Callable[[Sequence[Sample], Tensor], Tensor]
"""From N samples and their positions (N,) among the images in memory to (N, 3, H, W), uint8."""


@dataclass(frozen=True)
class Cache:
    """Some of a collection's images, each read once."""

    images: Images
    indices: np.ndarray
    """(N,), ascending: which of the collection these are."""
    pixels: Tensor
    """(N, H, W, C), uint8."""
    broken: dict[int, str]
    """{position: why it can't be read}"""

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

    def replaced(self) -> Tensor:
        """(N,): of each position, the next whose image can be read."""
        positions = np.arange(len(self.indices))
        readable = np.setdiff1d(positions, [*self.broken])
        if not len(readable):
            raise BrokenImageError(self.name(int(self.indices[0])), self.broken[0])
        return torch.from_numpy(readable[np.searchsorted(readable, positions) % len(readable)])


class Whole:
    """A transform that leaves images as they are: (3, H, W). They are all as large as the first that can be read."""

    def __init__(self, images: Images, indices: np.ndarray) -> None:
        why = BrokenImageError("", "")
        for index in indices:
            try:
                self.size = images.image(int(index)).size
                return
            except BrokenImageError as error:
                why = error
        raise SettingsError(str(why))

    def __call__(self, image: Image.Image) -> Tensor:
        if image.size != self.size:
            raise DataError(
                f"data.cache keeps images of one size, here {self.size[0]} x {self.size[1]} px; leave data.cache out"
            )
        return pil_to_tensor(image)


def check_room(count: int, size: tuple[int, int], resolution: int) -> None:
    """Whether so many images of (W, H) fit into the memory that is free, for each of a run's processes on this machine,
    beside a padded copy of small ones.

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
    """Bytes that the machine has, or a limit on this process's group leaves; infinitely many where nobody says."""
    free = math.inf
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = 1024.0 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    with suppress(OSError, StopIteration, ValueError):
        groups = Path("/proc/self/cgroup").read_text().splitlines()
        group = Path("/sys/fs/cgroup") / next(line for line in groups if line.startswith("0::"))[3:].lstrip("/")
        most, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        free = min(free, most - used)
    return free


def why_not(images: Images, index: int) -> str:
    """Why an image can't be read."""
    try:
        images.image(index)
    except BrokenImageError as error:
        return error.reason
    return "it could not be read when the others were"


class InMemory(Dataset):
    """Images in memory, a batch at a time: to the pixel what `data.Collection` makes of them one by one, unless crops
    are resized."""

    def __init__(self, cache: Cache, crops: Crops, erasing: Erasing | None = None) -> None:
        self.images, self.indices, self.crops, self.erasing = cache.images, cache.indices, crops, erasing
        self.positions = cache.replaced()
        self.labels = torch.from_numpy(cache.images.labels[cache.indices])[self.positions]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, keys: Sequence[tuple[int, int]]) -> Batch:
        """A batch of (epoch, position) pairs."""
        samples = [(epoch, int(self.indices[position])) for epoch, position in keys]
        positions = torch.tensor([position for _, position in keys])
        images = self.crops(samples, self.positions[positions])
        return Batch(images, self.labels[positions], samples, erased=self.erasing and self.erasing(samples))


def training_crops(pixels: Tensor, recipe: Recipe, resolution: int, seed: int) -> Crops:
    """What `transforms.TrainingTransform` does without RandAugment, where `pixels` (N, H, W, C) are."""
    if resolution <= SMALL:
        return PaddedCrops(pixels, resolution, seed)
    return ResizedCrops(pixels, resolution, recipe.interpolation, seed)


class CentreCrops:
    """`transforms.evaluation_transform` where images are cropped and not resized."""

    def __init__(self, pixels: Tensor, size: int) -> None:
        """`pixels`: (N, H, W, C), uint8."""
        self.pixels, self.size = pixels, size

    def __call__(self, samples: Sequence[Sample], positions: Tensor) -> Tensor:
        return center_crop(self.pixels[positions].permute(0, 3, 1, 2), [self.size, self.size]).expand(-1, 3, -1, -1)


class PaddedCrops:
    """`transforms.PaddedCrop`: the same draws, and the same pixels."""

    def __init__(self, pixels: Tensor, size: int, seed: int) -> None:
        """`pixels`: (N, H, W, C), uint8."""
        _, self.height, self.width, _ = pixels.shape
        self.size, self.seed = size, seed
        corner_and_flip(0, self.width, self.height, size)  # which may refuse
        padded = F.pad(pixels, (0, 0, PADDING, PADDING, PADDING, PADDING))
        self.windows = padded.unfold(1, size, 1).unfold(2, size, 1)

    def __call__(self, samples: Sequence[Sample], positions: Tensor) -> Tensor:
        keys = (derive(Purpose.SAMPLE, self.seed, *sample) for sample in samples)
        draws = [corner_and_flip(key, self.width, self.height, self.size) for key in keys]
        places = torch.stack([positions, *torch.tensor(draws).T]).to(self.windows.device)
        positions, left, top, flip = places
        crops = self.windows[positions, top, left]
        return torch.where(flip.bool()[:, None, None, None], crops.flip(3), crops).expand(-1, 3, -1, -1)


class ResizedCrops:
    """`transforms.ResizedCrop` and a flip, by two products of matrices: the same draws; 3 % of the values are 1 of
    255 apart with bicubic interpolation, 0.5 % with bilinear, hardly any is 2."""

    def __init__(self, pixels: Tensor, size: int, interpolation: str, seed: int) -> None:
        """`pixels`: (N, H, W, C), uint8."""
        self.pixels, self.size, self.seed = pixels.permute(0, 3, 1, 2), size, seed
        self.kernel = {"bilinear": triangle, "bicubic": cubic}[interpolation]
        self.transform = RandomResizedCropAndInterpolation(size)
        self.whole = torch.empty(1, *pixels.shape[1:3], device="meta")  # whose size is all that counts
        self.generator = torch.Generator()

    def __call__(self, samples: Sequence[Sample], positions: Tensor) -> Tensor:
        boxes, flips = [], torch.empty(len(samples))
        before = random.getstate()
        for number, sample in enumerate(samples):
            key = derive(Purpose.SAMPLE, self.seed, *sample)
            random.seed(key)  # timm draws from the global generator
            boxes.append(self.transform.get_params(self.whole, self.transform.scale, self.transform.ratio))
            torch.rand(1, generator=self.generator.manual_seed(key), out=flips[number : number + 1])
        random.setstate(before)
        top, left, height, width = torch.tensor(boxes, dtype=torch.float32).T
        down = resampling(top, height, self.pixels.shape[2], self.size, self.kernel)
        across = resampling(left, width, self.pixels.shape[3], self.size, self.kernel)
        across = torch.where(flips[:, None, None] < 0.5, across.flip(1), across)
        device = self.pixels.device
        down, across = (matrix.to(device)[:, None] for matrix in (down, across))
        pixels = self.pixels[positions.to(device)].float()
        with exact_products():
            narrow = (pixels @ across.mT).round_().clamp_(0, 255)
            resized = (down @ narrow).round_().clamp_(0, 255)
        return resized.to(torch.uint8).expand(-1, 3, -1, -1)


@contextmanager
def exact_products() -> Iterator[None]:
    """Products in float32, whatever precision the network is trained in."""
    before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def resampling(start: Tensor, length: Tensor, size: int, out: int, kernel: Callable[[Tensor], Tensor]) -> Tensor:
    """(N, out, size): the weights of `size` pixels in a line in each of the `out` that the `length` (N,) of them from
    `start` (N,) on are resized to, antialiased as Pillow does."""
    start, length = start[:, None, None], length[:, None, None]
    scale = length / out
    centres = start + (torch.arange(out)[:, None] + 0.5) * scale
    pixels = torch.arange(size) + 0.5
    weights = kernel((pixels - centres) / scale.clamp(min=1))
    weights = weights * ((pixels > start) & (pixels < start + length))
    return weights / weights.sum(2, keepdim=True)


def triangle(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp(min=0)


def cubic(x: Tensor, a: float = -0.5) -> Tensor:
    """Keys's kernel, with Pillow's `a`."""
    x = x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1, near, torch.where(x < 2, far, 0))
