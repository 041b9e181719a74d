"""The residual block, from ResNet's bottleneck to ConvNeXt's (Figure 4 of the paper), and its layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from roadmap.depthwise import DepthwiseConv
from roadmap.designs import BlockShape, Design


class Block(nn.Module):
    """activation(shortcut(x) + drop_path(layer_scale(branch(x)))).

    Maps (N, c_in, H, W) to (N, c_out, H / stride, W / stride).
    """

    def __init__(self, design: Design, shape: BlockShape) -> None:
        super().__init__()
        self.branch = branch(design, shape)
        self.layer_scale = LayerScale(shape.c_out, design.layer_scale) if design.layer_scale else nn.Identity()
        self.drop_path = DropPath(shape.drop_path) if shape.drop_path else nn.Identity()
        same_shape = shape.stride == 1 and shape.c_in == shape.c_out
        self.shortcut = nn.Identity() if same_shape else projection(design, shape)
        self.activation = activation(design) if design.activations == "all" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.shortcut(x) + self.drop_path(self.layer_scale(self.branch(x))))


def branch(design: Design, shape: BlockShape) -> nn.Sequential:
    """The residual branch: a spatial conv and two 1x1 convs, with norms and activations where the design wants them."""
    c_in, c_hidden, c_out = shape.c_in, shape.c_hidden, shape.c_out
    if design.spatial_conv == "middle":  # Figure 4 (a, b): ResNet, ResNeXt, MobileNetV2
        convs = [("pointwise1", c_in, c_hidden), ("spatial", c_hidden, c_hidden), ("pointwise2", c_hidden, c_out)]
    else:  # Figure 4 (c): ConvNeXt
        convs = [("spatial", c_in, c_in), ("pointwise1", c_in, c_hidden), ("pointwise2", c_hidden, c_out)]

    layers = nn.Sequential()
    for name, i, o in convs:
        last = name == "pointwise2"
        normed = design.norms == "all" or name == "spatial"
        if last and design.activations == "one":
            layers.add_module("act", activation(design))
        if name == "spatial":
            layers.add_module(name, spatial_conv(design, i, shape.stride, bias=has_bias(design, normed)))
        else:
            layers.add_module(name, pointwise_conv(design, i, o, bias=has_bias(design, normed)))
        if normed:
            layers.add_module(f"{name}_norm", norm2d(design, o))
        if not last and design.activations == "all":
            layers.add_module(f"{name}_act", activation(design))
    return layers


def projection(design: Design, shape: BlockShape) -> nn.Sequential:
    """The shortcut where the shape changes: a 1x1 conv with the stride and a norm, which it keeps under fewer_norms."""
    layers = nn.Sequential()
    layers.add_module("conv", PointwiseConv(shape.c_in, shape.c_out, 1, shape.stride, bias=has_bias(design, True)))
    layers.add_module("norm", norm2d(design, shape.c_out))
    return layers


def has_bias(design: Design, normed: bool) -> bool:
    """A conv has a bias unless a BatchNorm, which has its own, follows directly."""
    return not (normed and design.norm == "batch")


def spatial_conv(design: Design, channels: int, stride: int, *, bias: bool) -> nn.Conv2d:
    k = design.kernel_size
    if design.groups == "depthwise":
        return DepthwiseConv(channels, channels, k, stride, padding=k // 2, groups=channels, bias=bias)
    return nn.Conv2d(channels, channels, k, stride, padding=k // 2, groups=design.groups, bias=bias)


def pointwise_conv(design: Design, c_in: int, c_out: int, *, bias: bool) -> nn.Module:
    """A 1x1 conv. As in the authors' code, a linear layer in LayerNorm networks: equal, and faster beside LayerNorm."""
    if design.norm == "layer":
        return PointwiseLinear(c_in, c_out, bias=bias)
    return PointwiseConv(c_in, c_out, 1, bias=bias)


def norm2d(design: Design, channels: int) -> nn.Module:
    return LayerNorm2d(channels, eps=1e-6) if design.norm == "layer" else nn.BatchNorm2d(channels)


def activation(design: Design) -> nn.Module:
    return nn.GELU() if design.activation == "gelu" else nn.ReLU(inplace=True)


# In channels-last memory, which `build` chooses, the permutations below are views: they cost nothing.


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class PointwiseLinear(nn.Linear):
    """A 1x1 conv of (N, C, H, W) as a linear layer over its channels; its weight is (c_out, c_in)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class PointwiseConv(nn.Conv2d):
    """A 1x1 conv of (N, C, H, W); on maps of a few pixels a matrix product, which is equal and up to twice as fast."""

    few_pixels = 16

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2] * x.shape[-1] > self.few_pixels:
            return super().forward(x)
        sampled = x[..., :: self.stride[0], :: self.stride[1]]
        product = functional.linear(sampled.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias)
        return product.permute(0, 3, 1, 2)


class LayerScale(nn.Module):
    """A learned factor a channel on (N, C, H, W), small at first (Touvron et al., 2021)."""

    def __init__(self, channels: int, init: float) -> None:
        super().__init__()
        self.init = init
        self.gamma = nn.Parameter(torch.full((channels,), init))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma.view(-1, 1, 1)


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., 2016): in training, zeroes a sample's branch with probability p, else divides by
    1 - p."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = x.new_empty((x.shape[0], 1, 1, 1)).bernoulli_(1 - self.p).div_(1 - self.p)
        return x * keep

    def extra_repr(self) -> str:
        return f"p={self.p:.3f}"
