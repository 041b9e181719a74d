"""The network of a `Design` and a number of classes: stem, four stages, head."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import groupby
from typing import cast

import torch
from torch import Tensor, nn

from roadmap.block import Block, activation, has_bias, norm2d
from roadmap.designs import Design
from roadmap.dotted import is_dotted
from roadmap.layers import checkpointed


class Network(nn.Sequential):
    """stem -> stages -> head: (N, 3, H, W) images to (N, num_classes) logits. `design` describes it."""

    stem: nn.Sequential
    stages: nn.Sequential
    head: nn.Sequential

    def __init__(self, design: Design, num_classes: int) -> None:
        super().__init__()
        self.design = design
        self.add_module("stem", stem(design))
        self.add_module("stages", stages(design))
        self.add_module("head", head(design, num_classes))

    @property
    def channels(self) -> tuple[int, ...]:
        """Of the four stages' output maps."""
        return tuple([*shapes][-1].c_out for _, shapes in groupby(self.design.blocks(), key=lambda shape: shape.stage))

    @property
    def classifier(self) -> nn.Linear:
        return cast(nn.Linear, self.head.linear)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)

    def features(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) images to the four stages' output maps: (N, channels[i], H / r, W / r), where
        the reduction r is `stem_stride * 2**i`."""
        maps = [self.stem(x)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """From a parameter's name to its layer, for layer-wise learning-rate decay; timm's interface.

        Layer 0 is the stem, layers 1 and 2 are stages 1 and 2; in stage 3 every three blocks are a layer; then come
        stage 4 and the head. Downsampling belongs to the layer after it. (A.2: for depths 3-3-27-3, 12 and the head.)
        """
        last = 3 + math.ceil(self.design.depths[2] / 3)

        def layer(name: str) -> int:
            part, *path = name.split(".")
            if part != "stages":
                return {"stem": 0, "head": last + 1}[part]
            block = int(path[2]) if path[1] == "blocks" else 0
            return (1, 2, 3 + block // 3, last)[int(path[0])]

        return layer

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the inputs of residual blocks for the backward pass, which runs each block again: less memory, a
        third more time, the same results. timm's interface."""
        for module in self.modules():
            if isinstance(module, Blocks):
                module.grad_checkpointing = enable


class Blocks(nn.Sequential):
    """The residual blocks of a stage, with gradient checkpointing if that is set."""

    grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        for block in self:
            x = checkpointed(block, x) if self.grad_checkpointing else block(x)
        return x


def build(design: Design, num_classes: int = 1000) -> Network:
    """The network of a design, initialised from torch's global random state, in channels-last memory.

    Its convolutions then run in channels-last, whatever the memory layout of the images.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, not {num_classes}")
    network = Network(design, num_classes)
    initialise(network)
    return network.to(memory_format=torch.channels_last)


def stem(design: Design) -> nn.Sequential:
    """(N, 3, H, W) to (N, w, H/s, W/s) with the design's `stem_stride` s, 4 in the paper (2.2). Under separate
    downsampling it has no activation."""
    patchify, s = design.stem == "patchify", design.stem_stride
    size, stride, padding = (s, s, 0) if patchify else (7, 2, 3) if s == 4 else (3, 1, 1)
    layers = nn.Sequential()
    layers.add_module("conv", nn.Conv2d(3, design.width, size, stride, padding, bias=has_bias(design, True)))
    layers.add_module("norm", norm2d(design, design.width))
    if design.downsampling == "block":
        layers.add_module("act", activation(design))
    if not patchify:
        layers.add_module("pool", nn.MaxPool2d(3, 2, padding=1))
    return layers


def stages(design: Design) -> nn.Sequential:
    """Four stages of residual blocks; each after the first halves the resolution and doubles the channels."""
    layers = nn.Sequential()
    c_in = design.width
    for index, group in groupby(design.blocks(), key=lambda shape: shape.stage):
        shapes = list(group)
        stage = nn.Sequential()
        if design.downsampling == "separate" and index > 0:
            stage.add_module("downsample", downsample(design, c_in, shapes[0].c_in))
        stage.add_module("blocks", Blocks(*(Block(design, shape) for shape in shapes)))
        layers.append(stage)
        c_in = shapes[-1].c_out
    return layers


def downsample(design: Design, c_in: int, c_out: int) -> nn.Sequential:
    """Between stages (2.6, separate downsampling layers): a norm, then a 2x2 conv of stride 2."""
    layers = nn.Sequential()
    layers.add_module("norm", norm2d(design, c_in))
    layers.add_module("conv", nn.Conv2d(c_in, c_out, 2, stride=2))
    return layers


def head(design: Design, num_classes: int) -> nn.Sequential:
    """Global average pool, a norm under separate downsampling, classifier."""
    *_, last = design.blocks()
    layers = nn.Sequential()
    layers.add_module("pool", nn.AdaptiveAvgPool2d(1))
    normed = design.downsampling == "separate"
    if normed and is_dotted(design.norm):  # which takes maps
        layers.add_module("norm", norm2d(design, last.c_out))
    layers.add_module("flatten", nn.Flatten())
    if normed and not is_dotted(design.norm):
        norm = nn.LayerNorm(last.c_out, eps=1e-6) if design.norm == "layer" else nn.BatchNorm1d(last.c_out)
        layers.add_module("norm", norm)
    layers.add_module("linear", nn.Linear(last.c_out, num_classes))
    return layers


@torch.no_grad()
def initialise(network: Network) -> None:
    """Draw the weights as the design's `init` says, and scale the classifier's by `head_scale`.

    Norms and layer scales keep the values that they are constructed with; so does everything user-defined: a layer of
    `design.layers`, a norm or an activation given by its dotted path.
    """
    design, classifier, custom = network.design, network.classifier, user_defined(network)
    for module in network.modules():
        if module in custom or not isinstance(module, (nn.Conv2d, nn.Linear)):
            continue
        if design.init == "truncated_normal":
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif module is not classifier:  # torchvision's ResNet leaves the classifier at torch's default
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    classifier.weight.mul_(design.head_scale)
    classifier.bias.mul_(design.head_scale)


def user_defined(network: Network) -> set[nn.Module]:
    """All modules whose classes the design gives by dotted path, and the modules inside them."""
    design = network.design
    names = [f"{layer.at}_layer" for layer in design.layers]
    names += ["norm"] if is_dotted(design.norm) else []
    names += ["act", "activation"] if is_dotted(design.activation) else []
    return {
        inner for name, module in network.named_modules() if name.endswith(tuple(names)) for inner in module.modules()
    }
