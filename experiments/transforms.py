"""From PIL images to normalised batches, as the recipe says: timm's transforms, which the paper's code used."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import RandAugment
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision import transforms
from torchvision.transforms.functional import pil_to_tensor

from experiments.errors import DataError
from experiments.images import REDUCTIONS, Jpeg
from experiments.randomness import Purpose, derive, preserved, seed_all, seed_cpu
from experiments.settings import SMALL, Recipe
from experiments.shears import SHEARS

Transform = Callable[[Image.Image | Jpeg], Tensor]


def training_transform(recipe: Recipe, resolution: int) -> Transform:
    """Random crop, flip, RandAugment: to (3, resolution, resolution), uint8. The rest is `Finish`'s.

    timm's transform: every draw is timm's, in timm's order. Two things are done faster: torch resizes the crop, into a
    tensor, which becomes a PIL image again only when RandAugment does something to it; and see `shears`.
    """
    transform = create_transform(
        resolution,
        is_training=True,
        use_prefetcher=True,
        color_jitter=None,  # off when RandAugment is on, and not part of the original recipe
        auto_augment=recipe.rand_augment,
        interpolation=recipe.interpolation,
    )
    small = resolution <= SMALL
    transform.transforms[0] = (
        PaddedCrop(resolution, padding=4) if small else ResizedCrop(resolution, interpolation=recipe.interpolation)
    )
    for op in [op for step in transform.transforms if isinstance(step, RandAugment) for op in step.ops]:
        if op.name.startswith("Posterize"):
            op.aug_fn = partial(admitting_no_bits, op.aug_fn)  # not a closure: loader workers may be sent all of this
        elif op.name in SHEARS and recipe.interpolation == "bicubic" and not small:
            op.aug_fn = SHEARS[op.name]
        op.aug_fn = partial(on_pillow, op.aug_fn)
    return transform


def evaluation_transform(resolution: int, interpolation: str, crop_pct: float | None = None) -> Transform:
    """To (3, resolution, resolution), uint8, by Pillow.

    With `crop_pct`, the shorter side is resized to floor(resolution / crop_pct) and the centre cropped. Without, it is
    as in the paper: 0.875 (256 for 224) below 384 px, and from there on the whole image is resized to a square.
    """
    if resolution <= SMALL and crop_pct is None:
        return transforms.Compose([transforms.CenterCrop(resolution), transforms.PILToTensor()])
    whole = resolution >= 384 and crop_pct is None
    return create_transform(
        resolution,
        use_prefetcher=True,
        interpolation=interpolation,
        crop_pct=1.0 if whole else crop_pct or 0.875,
        crop_mode="squash" if whole else "center",
    )


class ResizedCrop(RandomResizedCropAndInterpolation):
    """timm's random crop, resized by torch in a fifth of Pillow's time: horizontally, then vertically, as Pillow did
    when the recipe was written (today it takes some shapes the other way round). One value in 200 is 1 of 255 apart,
    one in a million 2.

    A `Jpeg` is decoded at the smallest scale at which the crop is no smaller than what it is resized to. The crop's
    edges then lie between pixels, so Pillow resizes it, which admits that."""

    def __call__(self, image: Image.Image | Jpeg) -> Tensor:
        header = image.header if isinstance(image, Jpeg) else image
        top, left, height, width = self.get_params(header, self.scale, self.ratio)
        box = left, top, left + width, top + height
        if isinstance(image, Jpeg):
            spare = max(1, min(height / self.size[0], width / self.size[1]))
            reduction = next(one for one in REDUCTIONS if one <= spare)
            image = image.decode(reduction)
            if reduction > 1:
                resample = Image.Resampling[self.interpolation.name]
                return pil_to_tensor(image.resize(self.size[::-1], resample, [edge / reduction for edge in box]))
        crop = torch.from_numpy(np.array(image.crop(box)))
        crop = crop[None].permute(0, 3, 1, 2)  # in this order torch sees that it is channels-last, and so is the result
        return interpolate(crop, self.size, mode=self.interpolation.value, antialias=True)[0]


class PaddedCrop:
    """torchvision's RandomCrop with black padding, ten times as fast on small images: Pillow pads as it crops."""

    def __init__(self, size: int, padding: int) -> None:
        self.size, self.padding = size, padding

    def __call__(self, image: Image.Image) -> Image.Image:
        if min(image.size) + 2 * self.padding < self.size:
            raise DataError(
                f"at resolution={self.size} images are padded by {self.padding} px and cropped, not resized: they need "
                f"{self.size - 2 * self.padding} px a side"
            )
        left, top = (random.randint(0, side + 2 * self.padding - self.size) - self.padding for side in image.size)
        return image.crop((left, top, left + self.size, top + self.size))


class Finish:
    """What is done to a batch on the device: normalisation, and in training random erasing, keyed by sample."""

    def __init__(
        self,
        recipe: Recipe,
        seed: int,
        device: torch.device,
        mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
        std: Sequence[float] = IMAGENET_DEFAULT_STD,
    ) -> None:
        self.seed, self.device = seed, device
        self.mean, self.std = (torch.tensor(one, device=device).mul(255) for one in (mean, std))
        self.erase = RandomErasing(
            recipe.random_erasing, mode=recipe.erasing_mode, max_count=recipe.erasing_count, device=str(device)
        )

    def __call__(self, images: Tensor, samples: list[tuple[int, int]] | None = None) -> Tensor:
        """(N, 3, H, W) uint8 to float32, channels-last. `samples` are the (epoch, sample) pairs if it is training."""
        images = self._normalise(images.to(self.device, non_blocking=True))
        if samples is not None and self.erase.probability:
            seed = seed_cpu if self.device.type == "cpu" else seed_all  # its pixels are drawn on the device
            with preserved():
                for image, (epoch, sample) in zip(images, samples, strict=True):
                    seed(derive(Purpose.ERASING, self.seed, epoch, sample))
                    self.erase(image)
        return images

    def _normalise(self, images: Tensor) -> Tensor:
        if self.device.type != "cpu":
            images = images.contiguous(memory_format=torch.channels_last).float()
            return images.sub_(self.mean.view(-1, 1, 1)).div_(self.std.view(-1, 1, 1))
        # The same numbers, but one image at a time, which the cache holds, in rows of W x 3 as they lie in memory. The
        # result comes from numpy, which asks the system for huge pages: torch's small ones take as long as the rest.
        count, channels, height, width = images.shape
        rows = images.permute(0, 2, 3, 1).reshape(count, height, width * channels)
        mean, std = self.mean.repeat(width), self.std.repeat(width)
        normalised = torch.from_numpy(np.empty(rows.shape, np.float32))
        for image, out in zip(rows, normalised, strict=True):
            out.copy_(image).sub_(mean).div_(std)
        return normalised.view(count, height, width, channels).permute(0, 3, 1, 2)


def stack(images: Sequence[Tensor]) -> Tensor:
    """N times (3, H, W) to (N, 3, H, W), channels-last, as images come: so that nothing is moved about."""
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)


def on_pillow(augment: Callable, image: Image.Image | Tensor, *args: object, **kwargs: object) -> Image.Image:
    """An operation of RandAugment on a tensor (3, H, W) or a PIL image, whichever it is by then."""
    if isinstance(image, Tensor):
        image = Image.fromarray(image.permute(1, 2, 0).numpy())
    return augment(image, *args, **kwargs)


def admitting_no_bits(posterize: Callable, image: Image.Image, bits: int, **kwargs: object) -> Image.Image:
    """At magnitude 10, which the noise around 9 reaches, RandAugment posterizes to 0 bits: a black image. Pillow made
    one of it when the recipe was written and refuses since 12; this keeps the recipe's distribution."""
    return Image.new(image.mode, image.size) if bits <= 0 else posterize(image, bits, **kwargs)
