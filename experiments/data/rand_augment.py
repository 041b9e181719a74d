"""timm's RandAugment with faster operations: every draw stays timm's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from PIL import Image
from timm.data.auto_augment import RandAugment
from torch import Tensor

from experiments.data.shears import SHEARS


def adapt(augment: RandAugment, *, fast_shears: bool) -> None:
    """Let timm's operations take tensors (3, H, W) as well as PIL images, and replace Posterize, and with `fast_shears`
    also shears and translations (see `shears`).

    The one place that relies on timm's internals: the attributes `ops`, and of each of these `name` and `aug_fn`.
    """
    for op in augment.ops:
        function = op.aug_fn
        if op.name.startswith("Posterize"):
            function = partial(posterize, function)  # not a closure: these are pickled for spawned loader workers
        elif op.name in SHEARS and fast_shears:
            function = SHEARS[op.name]
        op.aug_fn = partial(on_pil_image, function)


def on_pil_image(function: Callable, image: Image.Image | Tensor, *args: object, **kwargs: object) -> Image.Image:
    """Apply an operation to a tensor (3, H, W) or a PIL image, whichever the image is by then."""
    if isinstance(image, Tensor):
        image = Image.fromarray(image.permute(1, 2, 0).numpy())
    return function(image, *args, **kwargs)


def posterize(function: Callable, image: Image.Image, bits: int, **kwargs: object) -> Image.Image:
    """timm's `function`, but for 0 bits a black image. RandAugment posterizes to 0 bits at magnitude 10, which the
    noise around 9 reaches. Pillow made a black image of that when the recipe was written, but raises since version 12:
    this keeps the recipe's distribution."""
    return Image.new(image.mode, image.size) if bits <= 0 else function(image, bits, **kwargs)
