"""The layers of a network: each as fast as the device and the memory layout allow, and a plain torch layer in a trace.

In channels-last memory, which `build` chooses, the permutations are views and cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.grad import conv2d_input, conv2d_weight
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def is_traced(x: Tensor | fx.Proxy) -> bool:
    """Whether `x` stands for maps of any size on any device: what a layer does must then not depend on either."""
    return isinstance(x, fx.Proxy) or torch.compiler.is_exporting()


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of (N, C, H, W).

    Under autocast the result has the dtype of `x`; mean and variance are computed in float32. torch's own LayerNorm
    would return float32, and the whole residual stream would become float32 with it.
    """

    def forward(self, x: Tensor) -> Tensor:
        last = x.permute(0, 2, 3, 1)
        if is_traced(x) or x.dtype == self.weight.dtype:
            return super().forward(last).permute(0, 3, 1, 2)
        with torch.autocast(x.device.type, enabled=False):
            weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
            return functional.layer_norm(last, self.normalized_shape, weight, bias, self.eps).permute(0, 3, 1, 2)


class PointwiseLinear(nn.Linear):
    """A 1x1 conv of (N, C, H, W) as a linear layer over its channels; its weight is (c_out, c_in)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class PointwiseConv(nn.Conv2d):
    """A 1x1 conv of (N, C, H, W); on maps of few pixels a matrix product: the same result, up to twice as fast."""

    few_pixels = 16

    def forward(self, x: Tensor) -> Tensor:
        if is_traced(x) or x.shape[-2] * x.shape[-1] > self.few_pixels:
            return super().forward(x)
        sampled = x[..., :: self.stride[0], :: self.stride[1]]
        product = functional.linear(sampled.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias)
        return product.permute(0, 3, 1, 2)


class LayerScale(nn.Module):
    """A learned factor per channel of (N, C, H, W), small at first (Touvron et al., 2021). Under autocast the result
    has the dtype of `x`."""

    def __init__(self, channels: int, init: float) -> None:
        super().__init__()
        self.init = init
        self.gamma = nn.Parameter(torch.full((channels,), init))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma.to(x.dtype).view(-1, 1, 1)


class DepthwiseConv(nn.Conv2d):
    """A conv with one group per channel. Where the gradient of its weight is slow, it is computed in strips."""

    def forward(self, x: Tensor) -> Tensor:
        if is_traced(x):
            return super().forward(x)
        slow = x.device.type == "cpu" and self.kernel_size[0] > 3 and self.stride[0] == 1
        if slow and torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu"):
            return DepthwiseInStrips.apply(x, self.weight, self.bias)
        return super().forward(x)


class DepthwiseInStrips(torch.autograd.Function):
    """A depthwise conv of stride 1 that computes its weight's gradient in strips of three columns of the kernel.

    For that gradient oneDNN, torch's library on CPUs, has fast code for kernels of up to three columns. For wider ones
    it computes the gradient of a dense conv and keeps the diagonal: 4 to 15 times slower, and more than a tenth of a
    ConvNeXt's training step.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return functional.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        x, weight = ctx.saved_tensors
        channels, _, k, _ = weight.shape
        padded = functional.pad(x, [k // 2] * 4)
        strips = []
        for column in range(0, k, 3):
            columns = min(3, k - column)
            window = padded[..., column : column + grad.shape[-1] + columns - 1]  # that these columns are applied to
            strips.append(conv2d_weight(window, (channels, 1, k, columns), grad, groups=channels))
        grad_x = conv2d_input(x.shape, weight, grad, padding=k // 2, groups=channels)
        return grad_x, torch.cat(strips, dim=3), grad.sum((0, 2, 3)) if ctx.has_bias else None


def checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    """`block(x)` with gradient checkpointing (Chen et al., 2016): the backward pass, for which only `x` is kept, runs
    the block again. The results are the same to the bit; running statistics see the batch once."""
    if not torch.is_grad_enabled():
        return block(x)
    return checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), frozen_statistics(block)))


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Within this context, forward passes leave the running statistics of BatchNorms as they are."""
    before = []
    for inner in module.modules():
        if isinstance(inner, _BatchNorm) and inner.num_batches_tracked is not None:
            before.append((inner, inner.momentum, inner.num_batches_tracked.clone()))
            inner.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, batches in before:
            norm.momentum = momentum
            norm.get_buffer("num_batches_tracked").copy_(batches)
