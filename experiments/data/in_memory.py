"""Images of one size that are kept in memory, cropped and flipped a batch at a time.

Images in files are transformed one by one, by loader workers. For small ones in memory that takes longer than a small
network's training step, so that a GPU would wait for it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset
from torchvision.transforms.functional import center_crop

from experiments.config.settings import SMALL, Recipe
from experiments.data.batch import Batch, Sample
from experiments.data.cache import Cache
from experiments.data.transforms import PADDING, Erasing, corner_and_flip
from experiments.runtime.randomness import Purpose, derive

Crops = Callable[[Sequence[Sample], Tensor], Tensor]
"""From N samples and their positions (N,) among the images in memory to (N, 3, H, W), uint8."""


class InMemory(Dataset):
    """Images in memory, transformed a batch at a time: unless crops are resized, to the same pixels as by `Collection`,
    one by one."""

    def __init__(self, cache: Cache, crops: Crops, erasing: Erasing | None = None) -> None:
        self.images, self.indices, self.crops, self.erasing = cache.images, cache.indices, crops, erasing
        self.positions = cache.replacements()
        self.labels = torch.from_numpy(cache.images.labels[cache.indices])[self.positions]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, keys: Sequence[tuple[int, int]]) -> Batch:
        """A batch of (epoch, position) pairs."""
        samples = [(epoch, int(self.indices[position])) for epoch, position in keys]
        positions = torch.tensor([position for _, position in keys])
        images = self.crops(samples, self.positions[positions])
        erased = self.erasing(samples) if self.erasing else None
        return Batch(images, self.labels[positions], samples, erased=erased)


def training_crops(pixels: Tensor, recipe: Recipe, resolution: int, seed: int) -> Crops:
    """What `transforms.TrainingTransform` does without RandAugment, on the device of `pixels` (N, H, W, C)."""
    if resolution <= SMALL:
        return PaddedCrops(pixels, resolution, seed)
    return ResizedCrops(pixels, resolution, recipe.interpolation, seed)


class CentreCrops:
    """`transforms.evaluation_transform` for images that are cropped and not resized."""

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
        corner_and_flip(0, self.width, self.height, size)  # raises if the images are too small
        padded = F.pad(pixels, (0, 0, PADDING, PADDING, PADDING, PADDING))
        self.windows = padded.unfold(1, size, 1).unfold(2, size, 1)

    def __call__(self, samples: Sequence[Sample], positions: Tensor) -> Tensor:
        keys = (derive(Purpose.SAMPLE, self.seed, *sample) for sample in samples)
        draws = [corner_and_flip(key, self.width, self.height, self.size) for key in keys]
        drawn = torch.stack([positions, *torch.tensor(draws).T]).to(self.windows.device)
        positions, left, top, flip = drawn
        crops = self.windows[positions, top, left]
        return torch.where(flip.bool()[:, None, None, None], crops.flip(3), crops).expand(-1, 3, -1, -1)


class ResizedCrops:
    """`transforms.ResizedCrop` and a flip, as two matrix products, with the same draws. With bicubic interpolation 3 %
    of the values differ by 1 of 255, with bilinear 0.5 %; hardly any by 2."""

    def __init__(self, pixels: Tensor, size: int, interpolation: str, seed: int) -> None:
        """`pixels`: (N, H, W, C), uint8."""
        self.pixels, self.size, self.seed = pixels.permute(0, 3, 1, 2), size, seed
        self.kernel = {"bilinear": triangle, "bicubic": cubic}[interpolation]
        self.transform = RandomResizedCropAndInterpolation(size)
        self.whole = torch.empty(1, *pixels.shape[1:3], device="meta")  # of which only the size is used
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
    """Within this context, matrix products in full float32, whatever precision the network is trained in."""
    before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def resampling(start: Tensor, length: Tensor, size: int, out: int, kernel: Callable[[Tensor], Tensor]) -> Tensor:
    """Resizing in one dimension as matrices (N, out, size): the weights of a line's `size` pixels in each of the `out`
    pixels to which its segment at `start` (N,) of `length` (N,) is resized, with antialiasing as in Pillow."""
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
