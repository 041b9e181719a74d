"""The depthwise conv, and a faster gradient of its weight on CPUs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional
from torch.nn.grad import conv2d_input, conv2d_weight


class DepthwiseConv(nn.Conv2d):
    """A conv with a group a channel; where the gradient of its weight is slow, that is computed in strips."""

    def forward(self, x: Tensor) -> Tensor:
        slow = x.device.type == "cpu" and self.kernel_size[0] > 3 and self.stride[0] == 1
        if slow and torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu"):
            return DepthwiseInStrips.apply(x, self.weight, self.bias)
        return super().forward(x)


class DepthwiseInStrips(torch.autograd.Function):
    """A depthwise conv of stride 1 that computes its weight's gradient in strips of three columns of the kernel.

    For that gradient oneDNN, torch's library on CPUs, has fast code up to a width of three. Beyond, it computes a dense
    conv's and keeps the diagonal: 4 to 15 times slower, and more than a tenth of a ConvNeXt's training step.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return functional.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        x, weight = ctx.saved_tensors
        channels, _, k, _ = weight.shape
        padded = functional.pad(x, [k // 2] * 4)
        strips = []
        for column in range(0, k, 3):
            columns = min(3, k - column)
            seen = padded[..., column : column + grad.shape[-1] + columns - 1]  # by these columns of the kernel
            strips.append(conv2d_weight(seen, (channels, 1, k, columns), grad, groups=channels))
        grad_x = conv2d_input(x.shape, weight, grad, padding=k // 2, groups=channels)
        return grad_x, torch.cat(strips, dim=3), grad.sum((0, 2, 3)) if ctx.has_bias else None
