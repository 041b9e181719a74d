"""Where a network looked: HiResCAM (Draelos and Carin, 2020, arXiv 2011.08891), one formula for all.

For the maps A of a layer and the logit y of a class, the activation map is ReLU(sum over channels of dy/dA * A), by
position. Of the last maps before a global average pool and a linear classifier it is, up to a factor, the class
activation map of Zhou et al. (2016), and the same as Grad-CAM's (Selvaraju et al., 2017). Of earlier maps, Grad-CAM
averages the gradient over all positions first, and may point where the class was not decided; this does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from roadmap.network import Network

LEAST_SIDE = 4
"""Pixels of the smallest maps that are shown: the deepest stage with as many is taken."""
CHANNELS = {"NCHW": 1, "NHWC": 3}
"""{timm's name of a layout of maps: the dimension of their channels}."""

Head = Callable[[Tensor], Tensor]


def activation_map(network: nn.Module, image: Tensor, label: int) -> np.ndarray | None:
    """How much each position of the network's maps speaks for a class: (h, w), from 0 to 1, all 0 if none does. None of
    a network whose maps are not known.

    Args:
        image: (1, 3, H, W), normalised.
    """
    with torch.no_grad():
        divided = _divided(network, image)
    if divided is None:
        return None
    maps, channels, head = divided
    maps.requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(head(maps)[0, label], maps)
    positive = (gradient * maps.detach()).sum(channels).relu()[0]
    return (positive / positive.max().clamp(min=1e-12)).numpy()


def _divided(network: nn.Module, image: Tensor) -> tuple[Tensor, int, Head] | None:
    """The maps that are shown, (1, C, h, w) or (1, h, w, C); the dimension of their channels; and the rest of the
    network, from them to logits."""
    if isinstance(network, Network):
        maps = network.features(image)
        deepest = max((stage for stage, each in enumerate(maps) if min(each.shape[2:]) >= LEAST_SIDE), default=0)
        return maps[deepest], 1, nn.Sequential(*list(network.stages)[deepest + 1 :], network.head)
    if hasattr(network, "forward_features") and hasattr(network, "forward_head"):  # timm's models
        model = cast(Any, network)
        features = model.forward_features(image)
        channels = CHANNELS.get(getattr(model, "output_fmt", "NCHW"))  # models in NCHW do not say so
        if features.ndim == 4 and channels and features.shape[channels] == model.num_features:
            return features, channels, model.forward_head
    return None
