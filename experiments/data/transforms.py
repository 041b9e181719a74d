"""From PIL images to normalised batches, as the recipe says: timm's transforms, which the paper's code used."""

from __future__ import annotations

import math
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

from experiments.config.settings import SMALL, Recipe
from experiments.data.batch import Erased, Sample
from experiments.data.images import REDUCTIONS, Jpeg
from experiments.data.shears import SHEARS
from experiments.errors import DataError
from experiments.runtime.randomness import Purpose, derive, preserved, seed_cpu

Transform = Callable[..., Tensor]
"""Of an image and, in training, a key."""
PADDING = 4
"""Pixels, on each side."""
CACHED = 2**18
"""Values of an image that a core's cache holds, beside what they become."""


class TrainingTransform:
    """Random crop, flip, RandAugment: to (3, resolution, resolution), uint8. `Erasing` and `Preprocess` do the rest.

    timm's transform: every draw is timm's, in timm's order, but for the crop and flip of small images. Two things are
    done faster: torch resizes the crop, into a tensor, which becomes a PIL image again only when RandAugment does
    something to it; and see `shears`.
    """

    def __init__(self, recipe: Recipe, resolution: int) -> None:
        timms = create_transform(
            resolution,
            is_training=True,
            use_prefetcher=True,
            color_jitter=None,  # off when RandAugment is on, and not part of the original recipe
            auto_augment=recipe.rand_augment,
            interpolation=recipe.interpolation,
        )
        _, flip, *others = timms.transforms
        self.padded_crop = PaddedCrop(resolution) if resolution <= SMALL else None
        first = [] if self.padded_crop else [ResizedCrop(resolution, interpolation=recipe.interpolation), flip]
        self.transform = transforms.Compose([*first, *others])
        for op in [op for step in others if isinstance(step, RandAugment) for op in step.ops]:
            if op.name.startswith("Posterize"):
                op.aug_fn = partial(admitting_no_bits, op.aug_fn)  # no closure: loader workers may be sent all of this
            elif op.name in SHEARS and recipe.interpolation == "bicubic" and not self.padded_crop:
                op.aug_fn = SHEARS[op.name]
            op.aug_fn = partial(on_pillow, op.aug_fn)

    def __call__(self, image: Image.Image | Jpeg, key: int) -> Tensor:
        """`key`: 64 bits on which alone all draws depend."""
        if self.padded_crop:
            image = self.padded_crop(image, key)
        seed_cpu(key)
        return self.transform(image)


def evaluation_transform(resolution: int, interpolation: str, crop_pct: float | None = None) -> Transform:
    """To (3, resolution, resolution), uint8, by Pillow.

    With `crop_pct`, the shorter side is resized to floor(resolution / crop_pct) and the centre cropped. Without, it is
    as in the paper: 0.875 (256 for 224) below 384 px, and from there on the whole image is resized to a square.
    """
    if resolution <= SMALL and crop_pct is None:
        return CentreCrop(resolution)
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


class CentreCrop(transforms.Compose):
    """Of images that are not resized; smaller ones get a black border."""

    def __init__(self, size: int) -> None:
        super().__init__([transforms.CenterCrop(size), transforms.PILToTensor()])
        self.size = size


class PaddedCrop:
    """torchvision's RandomCrop with black padding, and a flip; ten times as fast: Pillow pads as it crops."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Image.Image, key: int) -> Image.Image:
        left, top, flip = corner_and_flip(key, *image.size, self.size)
        image = image.crop((left - PADDING, top - PADDING, left - PADDING + self.size, top - PADDING + self.size))
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else image


def corner_and_flip(key: int, width: int, height: int, size: int) -> tuple[int, int, bool]:
    """(left, top, flip) of a crop of the padded image, drawn from the bits of a key.

    Raises:
        DataError: if the image is too small.
    """
    if min(width, height) + 2 * PADDING < size:
        raise DataError(
            f"an image of {width} x {height} px is too small: at resolution={size} images are padded by {PADDING} px "
            f"and cropped, not resized: they need {size - 2 * PADDING} px a side"
        )
    key, left = divmod(key, width + 2 * PADDING - size + 1)
    key, top = divmod(key, height + 2 * PADDING - size + 1)
    return left, top, key % 2 == 1


class Erasing:
    """timm's random erasing, keyed by sample: what it replaces in a batch is drawn where images are made ready."""

    def __init__(self, recipe: Recipe, resolution: int, seed: int) -> None:
        self.seed = seed
        self.erase = RandomErasing(
            recipe.random_erasing, mode=recipe.erasing_mode, max_count=recipe.erasing_count, device="cpu"
        )
        self.canvas = torch.full((3, resolution, resolution), math.nan)

    def __call__(self, samples: Sequence[Sample]) -> Erased:
        positions, values = [torch.empty(0, dtype=torch.int64)], [torch.empty(0, 3)]
        with preserved():
            for number, sample in enumerate(samples):
                seed_cpu(derive(Purpose.ERASING, self.seed, *sample))
                self.erase(self.canvas)
                pixels = self.canvas.flatten(1).T
                places = pixels[:, 0].isnan().logical_not().nonzero()[:, 0]
                if len(places):
                    positions.append(places + number * len(pixels))
                    values.append(pixels[places])
                    self.canvas.fill_(math.nan)
        return Erased(torch.cat(positions), torch.cat(values))


class Preprocess:
    """What is done to a batch on the device: normalisation, and in training random erasing."""

    def __init__(
        self,
        device: torch.device,
        mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
        std: Sequence[float] = IMAGENET_DEFAULT_STD,
    ) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        """In which batches are made ready (prefetch.py): one for the whole run, for the memory of each is its own."""
        self.mean, self.std = (torch.tensor(one, device=device).mul(255) for one in (mean, std))

    def __call__(self, images: Tensor, erased: Erased | None = None) -> Tensor:
        """(N, 3, H, W) uint8 to float32, channels-last."""
        images = self._normalise(self.move(images))
        if erased is not None:
            positions, values = map(self.move, erased)
            images.permute(0, 2, 3, 1).view(-1, 3).index_copy_(0, positions, values)
        return images

    def move(self, tensor: Tensor) -> Tensor:
        """To the device. CUDA alone is known to keep what it has not copied yet."""
        return tensor.to(self.device, non_blocking=self.device.type == "cuda")

    def _normalise(self, images: Tensor) -> Tensor:
        if self.device.type != "cpu":
            images = images.contiguous(memory_format=torch.channels_last).float()
            return images.sub_(self.mean.view(-1, 1, 1)).div_(self.std.view(-1, 1, 1))
        # The same numbers, but in rows of W x 3 as they lie in memory, some images at a time, which the cache holds.
        # The result comes from numpy, which asks the system for huge pages: torch's take as long as the rest.
        count, channels, height, width = images.shape
        rows = images.permute(0, 2, 3, 1).reshape(count, height, width * channels)
        mean, std = self.mean.repeat(width), self.std.repeat(width)
        normalised = torch.from_numpy(np.empty(rows.shape, np.float32))
        at_once = max(1, CACHED // (height * width * channels))
        for some, out in zip(rows.split(at_once), normalised.split(at_once), strict=True):
            out.copy_(some).sub_(mean).div_(std)
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
