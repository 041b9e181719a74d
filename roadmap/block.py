"""The residual block, from ResNet's bottleneck to ConvNeXt's (Figure 4 of the paper)."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from roadmap.designs import ACTIVATIONS, BlockShape, Design
from roadmap.dotted import is_dotted
from roadmap.layers import DepthwiseConv, LayerNorm2d, LayerScale, PointwiseConv, PointwiseLinear
from roadmap.own import make, make_layer


class Block(nn.Module):
    """activation(shortcut(x) + drop_path(layer_scale(branch(x)))).

    Maps (N, c_in, H, W) to (N, c_out, H / stride, W / stride).
    """

    def __init__(self, design: Design, shape: BlockShape) -> None:
        super().__init__()
        self.branch = branch(design, shape)
        self.layer_scale = LayerScale(shape.c_out, design.layer_scale) if design.layer_scale else nn.Identity()
        self.drop_path = StochasticDepth(shape.drop_path, "row") if shape.drop_path else nn.Identity()
        same_shape = shape.stride == 1 and shape.c_in == shape.c_out
        self.shortcut = nn.Identity() if same_shape else projection(design, shape)
        self.activation = activation(design) if design.activation_placement == "all" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.shortcut(x) + self.drop_path(self.layer_scale(self.branch(x))))


def branch(design: Design, shape: BlockShape) -> nn.Sequential:
    """The residual branch: a spatial conv and two 1x1 convs, with norms, activations and user-defined layers where the
    design has them."""
    c_in, c_hidden, c_out = shape.c_in, shape.c_hidden, shape.c_out
    if design.spatial_conv == "middle":  # Figure 4 (a, b): ResNet, ResNeXt, MobileNetV2
        convs = [("pointwise1", c_in, c_hidden), ("spatial", c_hidden, c_hidden), ("pointwise2", c_hidden, c_out)]
    else:  # Figure 4 (c): ConvNeXt
        convs = [("spatial", c_in, c_in), ("pointwise1", c_in, c_hidden), ("pointwise2", c_hidden, c_out)]

    layers = nn.Sequential()
    for name, i, o in convs:
        last = name == "pointwise2"
        normed = design.norm_placement == "all" or name == "spatial"
        if last and design.activation_placement == "one":
            layers.add_module("act", activation(design))
        if last:
            add_layer(layers, design, "hidden", i)
        if name == "spatial":
            layers.add_module(name, spatial_conv(design, i, shape.stride, bias=has_bias(design, normed)))
        else:
            layers.add_module(name, pointwise_conv(design, i, o, bias=has_bias(design, normed)))
        if normed:
            layers.add_module(f"{name}_norm", norm2d(design, o))
        if name == "spatial":
            add_layer(layers, design, "spatial", o)
        if not last and design.activation_placement == "all":
            layers.add_module(f"{name}_act", activation(design))
    add_layer(layers, design, "output", c_out)
    return layers


def add_layer(branch: nn.Sequential, design: Design, position: str, channels: int) -> None:
    """Append the layer that `design.layers` has for this position, if any; it is named after the position."""
    for layer in design.layers:
        if layer.at == position:
            branch.add_module(f"{position}_layer", make_layer(layer, channels))


def projection(design: Design, shape: BlockShape) -> nn.Sequential:
    """The shortcut where the shape changes: a 1x1 conv with the stride, and a norm, which stays under fewer_norms."""
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
    """A 1x1 conv; in LayerNorm networks a linear layer, as in the authors' code: equivalent, and faster there."""
    if design.norm == "layer":
        return PointwiseLinear(c_in, c_out, bias=bias)
    return PointwiseConv(c_in, c_out, 1, bias=bias)


def norm2d(design: Design, channels: int) -> nn.Module:
    if is_dotted(design.norm):
        return make("norm", design.norm, channels)
    return LayerNorm2d(channels, eps=1e-6) if design.norm == "layer" else nn.BatchNorm2d(channels)


def activation(design: Design) -> nn.Module:
    if is_dotted(design.activation):
        return make("activation", design.activation)
    if design.activation == "relu":  # in place, unless a user-defined layer may need its output, which this overwrites
        return nn.ReLU(inplace=not design.dotted())
    return getattr(nn, ACTIVATIONS[design.activation])()
