"""What a network costs: multiply-adds, parameters and activations, counted on the meta device, without weights."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from roadmap.designs import Design
from roadmap.network import build


class Cost(NamedTuple):
    """Of the forward pass of one image."""

    macs: int
    """Multiply-adds of convolutions and matrix products; the paper calls them FLOPs."""
    params: int
    activations: int
    """Elements of the outputs of all convolutional and linear layers (Radosavovic et al., 2020)."""


@cache
def cost(design: Design, resolution: int = 224, num_classes: int = 1000) -> Cost:
    """The cost of a design's network for square images of `resolution` pixels."""
    with torch.device("meta"):
        return count(build(design, num_classes), resolution)


def count(network: nn.Module, resolution: int) -> Cost:
    """The cost of any network on the meta device, which is left in eval mode."""
    activations = 0

    def add(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal activations
        activations += output.numel()

    hooks = [m.register_forward_hook(add) for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network.eval()(torch.empty(1, 3, resolution, resolution, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return Cost(
        macs=counter.get_total_flops() // 2,
        params=sum(parameter.numel() for parameter in network.parameters()),
        activations=activations,
    )
