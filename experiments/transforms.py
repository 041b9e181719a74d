"""From PIL images to normalised batches, as the recipe says: timm's transforms, which the paper's code used."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import AugmentOp, RandAugment
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torchvision import transforms

from experiments.randomness import Purpose, derive, preserved, seed_cpu
from experiments.settings import Recipe

Transform = Callable[[Image.Image], Tensor]
SMALL = 32
"""Pixels up to which images are padded and cropped, not resized: the authors' code draws the line here too."""


def training_transform(recipe: Recipe, resolution: int) -> Transform:
    """Random crop, flip, RandAugment: to (3, resolution, resolution), uint8. The rest is `Finish`'s."""
    transform = create_transform(
        resolution,
        is_training=True,
        use_prefetcher=True,
        color_jitter=None,  # off when RandAugment is on, and not part of the original recipe
        auto_augment=recipe.rand_augment,
        interpolation=recipe.interpolation,
    )
    if resolution <= SMALL:
        transform.transforms[0] = PaddedCrop(resolution, padding=4)
    for step in transform.transforms:
        if isinstance(step, RandAugment):
            _admit_no_bits(step)
    return transform


def evaluation_transform(recipe: Recipe, resolution: int) -> Transform:
    """Resize so that the crop is 87.5 % of the shorter side (256 for 224), centre crop: as above."""
    if resolution <= SMALL:
        return transforms.Compose([transforms.CenterCrop(resolution), transforms.PILToTensor()])
    return create_transform(resolution, use_prefetcher=True, interpolation=recipe.interpolation, crop_pct=0.875)


class PaddedCrop:
    """torchvision's RandomCrop with black padding, ten times as fast on small images: Pillow pads as it crops."""

    def __init__(self, size: int, padding: int) -> None:
        self.size, self.padding = size, padding

    def __call__(self, image: Image.Image) -> Image.Image:
        left, top = (random.randint(0, side + 2 * self.padding - self.size) - self.padding for side in image.size)
        return image.crop((left, top, left + self.size, top + self.size))


class Finish:
    """What is done to a batch on the device: normalisation, and in training random erasing, keyed by sample."""

    def __init__(self, recipe: Recipe, seed: int, device: torch.device) -> None:
        self.seed = seed
        self.mean = torch.tensor(IMAGENET_DEFAULT_MEAN, device=device).mul(255).view(-1, 1, 1)
        self.std = torch.tensor(IMAGENET_DEFAULT_STD, device=device).mul(255).view(-1, 1, 1)
        self.erase = RandomErasing(recipe.random_erasing, mode="pixel", max_count=1, device=str(device))

    def __call__(self, images: Tensor, samples: list[tuple[int, int]] | None = None) -> Tensor:
        """(N, 3, H, W) uint8 to float32, channels-last. `samples` are the (epoch, sample) pairs if it is training."""
        images = images.to(self.mean.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
        images = images.float().sub_(self.mean).div_(self.std)
        if samples is not None and self.erase.probability:
            with preserved():
                for image, (epoch, sample) in zip(images, samples, strict=True):
                    seed_cpu(derive(Purpose.ERASING, self.seed, epoch, sample))
                    self.erase(image)
        return images


def _admit_no_bits(augment: RandAugment) -> None:
    """At magnitude 10, which the noise around 9 reaches, RandAugment posterizes to 0 bits: a black image. Pillow made
    one of it when the recipe was written and refuses since 12; this keeps the recipe's distribution."""
    for op in augment.ops:
        if isinstance(op, AugmentOp) and op.name.startswith("Posterize"):
            op.aug_fn = _posterize(op.aug_fn)


def _posterize(posterize: Callable) -> Callable:
    def admitting_no_bits(image: Image.Image, bits: int, **kwargs: object) -> Image.Image:
        return Image.new(image.mode, image.size) if bits <= 0 else posterize(image, bits, **kwargs)

    return admitting_no_bits
