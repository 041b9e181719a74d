"""From PIL images to normalised batches, as the recipe says: with timm's transforms, as in the paper's code."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

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
from torchvision.transforms.functional import InterpolationMode, pil_to_tensor

from experiments.config.settings import SMALL, Recipe
from experiments.data.batch import Erased, Sample
from experiments.data.images import REDUCTIONS, Jpeg
from experiments.data.rand_augment import adapt
from experiments.errors import DataError
from experiments.runtime.randomness import Purpose, derive, preserved, seed_cpu

Transform = Callable[..., Tensor]
"""A function of an image and, in training, a key."""
PADDING = 4
"""Pixels, on each side."""
CACHED = 2**18
"""Values of images that fit into a core's cache together with their results."""


class TrainingTransform:
    """Random crop, flip and RandAugment, to (3, resolution, resolution), uint8. `Erasing` and `Preprocess` do the rest.

    timm's transform: all draws are timm's, in timm's order, except for the crop and flip of small images. Two things
    are faster: torch resizes the crop, to a tensor, which becomes a PIL image again only if RandAugment changes it; and
    shears (see `shears`).
    """

    def __init__(self, recipe: Recipe, resolution: int) -> None:
        timm_transform = create_transform(
            resolution,
            is_training=True,
            use_prefetcher=True,
            color_jitter=None,  # type: ignore[arg-type]  # neither beside RandAugment nor in the original recipe
            auto_augment=recipe.rand_augment,
            interpolation=recipe.interpolation,
        )
        _, flip, *rest = timm_transform.transforms
        self.padded_crop = PaddedCrop(resolution) if resolution <= SMALL else None
        crop = [] if self.padded_crop else [ResizedCrop(resolution, interpolation=recipe.interpolation), flip]
        self.transform = transforms.Compose([*crop, *rest])
        for step in rest:
            if isinstance(step, RandAugment):
                adapt(step, fast_shears=recipe.interpolation == "bicubic" and not self.padded_crop)

    def __call__(self, image: Image.Image | Jpeg, key: int) -> Tensor:
        """`key`: 64 bits that determine all draws."""
        if self.padded_crop:
            assert isinstance(image, Image.Image)  # reduced_decoding is for images that are resized
            image = self.padded_crop(image, key)
        seed_cpu(key)
        return self.transform(image)


def evaluation_transform(resolution: int, interpolation: str, crop_pct: float | None = None) -> Transform:
    """To (3, resolution, resolution), uint8, by Pillow.

    With `crop_pct`, the shorter side is resized to floor(resolution / crop_pct), and the centre cropped. Without, as in
    the paper: 0.875 (256 for 224) below 384 px; from 384 px on, the whole image is resized to a square.
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
    when the recipe was written (it now does some shapes vertically first). One value in 200 differs by 1 of 255, one in
    a million by 2.

    A `Jpeg` is decoded at the smallest scale at which the crop is no smaller than the result. The crop's edges then lie
    between pixels, which Pillow's resize allows."""

    interpolation: InterpolationMode

    def __call__(self, image: Image.Image | Jpeg) -> Tensor:
        header = image.header if isinstance(image, Jpeg) else image
        top, left, height, width = self.get_params(header, self.scale, self.ratio)
        box = left, top, left + width, top + height
        if isinstance(image, Jpeg):
            spare = max(1, min(height / self.size[0], width / self.size[1]))
            reduction = next(factor for factor in REDUCTIONS if factor <= spare)
            image = image.decode(reduction)
            if reduction > 1:
                resample = Image.Resampling[self.interpolation.name]
                reduced = left / reduction, top / reduction, box[2] / reduction, box[3] / reduction
                return pil_to_tensor(image.resize(self.size[::-1], resample, reduced))
        crop = torch.from_numpy(np.array(image.crop(box)))
        crop = crop[None].permute(0, 3, 1, 2)  # in this order torch sees that it is channels-last; so is the result
        return interpolate(crop, self.size, mode=self.interpolation.value, antialias=True)[0]


class CentreCrop(transforms.Compose):
    """The centre of an image that is not resized; smaller images get a black border."""

    def __init__(self, size: int) -> None:
        super().__init__([transforms.CenterCrop(size), transforms.PILToTensor()])
        self.size = size


class PaddedCrop:
    """torchvision's RandomCrop with black padding, and a flip, ten times as fast: Pillow pads as it crops."""

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
            f"and cropped, not resized: they need {size - 2 * PADDING} px per side"
        )
    key, left = divmod(key, width + 2 * PADDING - size + 1)
    key, top = divmod(key, height + 2 * PADDING - size + 1)
    return left, top, key % 2 == 1


class Erasing:
    """timm's random erasing, drawn for each sample by its key, where images are transformed; applied on the device."""

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
                erased = pixels[:, 0].isnan().logical_not().nonzero()[:, 0]
                if len(erased):
                    positions.append(erased + number * len(pixels))
                    values.append(pixels[erased])
                    self.canvas.fill_(math.nan)
        return Erased(torch.cat(positions), torch.cat(values))


class Preprocess:
    """What happens to a batch on the device: normalisation, and in training random erasing."""

    def __init__(
        self,
        device: torch.device,
        mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
        std: Sequence[float] = IMAGENET_DEFAULT_STD,
    ) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        """In which batches are prepared (prefetch.py): one for the whole run, since torch reuses memory per stream."""
        self.mean, self.std = (torch.tensor(values, device=device).mul(255) for values in (mean, std))

    def __call__(self, images: Tensor, erased: Erased | None = None) -> Tensor:
        """(N, 3, H, W) uint8 to float32, channels-last."""
        images = self._normalise(self.move(images))
        if erased is not None:
            positions, values = map(self.move, erased)
            images.permute(0, 2, 3, 1).view(-1, 3).index_copy_(0, positions, values)
        return images

    def move(self, tensor: Tensor) -> Tensor:
        """To the device; asynchronously on CUDA alone, which keeps the memory that it has not copied yet."""
        return tensor.to(self.device, non_blocking=self.device.type == "cuda")

    def _normalise(self, images: Tensor) -> Tensor:
        if self.device.type != "cpu":
            images = images.contiguous(memory_format=torch.channels_last).float()
            return images.sub_(self.mean.view(-1, 1, 1)).div_(self.std.view(-1, 1, 1))
        # The same values, but in rows of W x 3 as they lie in memory, and a few images at a time, which fit into cache.
        # numpy allocates the result, with huge pages: torch's allocation would take as long as everything else.
        count, channels, height, width = images.shape
        rows = images.permute(0, 2, 3, 1).reshape(count, height, width * channels)
        mean, std = self.mean.repeat(width), self.std.repeat(width)
        normalised = torch.from_numpy(np.empty(rows.shape, np.float32))
        together = max(1, CACHED // (height * width * channels))
        for part, out in zip(rows.split(together), normalised.split(together), strict=True):
            out.copy_(part).sub_(mean).div_(std)
        return normalised.view(count, height, width, channels).permute(0, 3, 1, 2)


def stack(images: Sequence[Tensor]) -> Tensor:
    """N times (3, H, W) to (N, 3, H, W), channels-last like the images, so that no values are reordered."""
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)
