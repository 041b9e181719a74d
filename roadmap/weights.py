"""Weights in and out: the state-dict layouts of torchvision, timm and the authors' released checkpoints.

A layout maps the names of our modules to theirs. timm and torchvision share that of ResNets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from roadmap.common.bounds import did_you_mean
from roadmap.conf import design
from roadmap.designs import Design
from roadmap.network import Network


class WeightsError(ValueError):
    """A state dict that does not fit the network. The message lists keys and shapes; the network is unchanged."""


def load_weights(network: Network, state: Mapping[str, Tensor], *, head: bool = True) -> str:
    """Copy a state dict in any known layout into a network; returns the layout's name.

    With `head=False` the classifier keeps its weights: the state dict may be for other classes.

    The layout is "ours", "torchvision" (for ResNets timm's too), "timm" or "authors". Checkpoints that wrap the state
    dict in {"model": ...} or {"state_dict": ...} are unwrapped. BatchNorms may lack `num_batches_tracked`, as in torch.

    Raises:
        WeightsError: if keys or shapes do not fit; the network is unchanged then.
    """
    state = _unwrapped(state)
    own = network.state_dict()
    layout = layout_of(network, state)
    names = {
        ours: theirs
        for ours, theirs in _keys(network, layout).items()
        if theirs in state or not ours.endswith(".num_batches_tracked")
    }
    if not head:
        classifier = {ours: theirs for ours, theirs in names.items() if ours.startswith("head.linear.")}
        names = {ours: theirs for ours, theirs in names.items() if ours not in classifier}
        state = {key: tensor for key, tensor in state.items() if key not in classifier.values()}

    wrong = [f"missing {key}" for key in names.values() if key not in state]
    wrong += [f"unexpected {key}" for key in state.keys() - set(names.values())]
    wrong += [
        f"{theirs} has shape {_shape(state[theirs])} for {_shape(own[ours])}"
        for ours, theirs in names.items()
        if theirs in state and _squeezed(state[theirs]) != _squeezed(own[ours])
    ]
    if wrong:
        more = f" and {len(wrong) - 6} more" if len(wrong) > 6 else ""
        raise WeightsError(f"these weights do not fit as the {layout} layout: {'; '.join(wrong[:6])}{more}")
    with torch.no_grad():
        for ours, theirs in names.items():
            own[ours].copy_(state[theirs].reshape(own[ours].shape))
    return layout


def layout_of(network: Network, state: Mapping[str, Tensor]) -> str:
    """The layout in which most of a state dict's keys are names of the network's modules."""
    state = _unwrapped(state)
    return max(layouts(network), key=lambda layout: len(state.keys() & set(_keys(network, layout).values())))


def classes_of(network: Network, state: Mapping[str, Tensor]) -> int | None:
    """The number of classes of a state dict of this kind of network; None if it has no classifier.

    Raises:
        WeightsError: if its classifier has the wrong shape.
    """
    state = _unwrapped(state)
    name = _keys(network, layout_of(network, state))["head.linear.weight"]
    if name not in state:
        return None
    if state[name].ndim < 2:
        raise WeightsError(f"{name} has shape {_shape(state[name])}, not one row per class")
    return len(state[name])


def _unwrapped(state: Mapping) -> Mapping[str, Tensor]:
    """Checkpoints often hold the state dict as {"model": ...} or {"state_dict": ...}.

    Raises:
        WeightsError: if there is none.
    """
    for wrapper in ("model", "state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping):
        raise WeightsError(f"these are not weights: {type(state).__name__}, not a state dict")
    if wrong := [name for name, tensor in state.items() if not isinstance(tensor, Tensor)]:
        raise WeightsError(f"these are not weights: {wrong[0]!r} is not a tensor")
    return state


def export_weights(network: Network, layout: str) -> dict[str, Tensor]:
    """The network's state dict in another layout, for `load_state_dict` of that library's network.

    Raises:
        WeightsError: if that library has no such network.
    """
    if layout not in (known := layouts(network)):
        raise WeightsError(f"this network has no {layout} layout, only {', '.join(known)}{did_you_mean(layout, known)}")
    exported, own, has_convs = {}, network.state_dict(), layout == "timm" and _has_convs_in_timm(network.design)
    for ours, theirs in _keys(network, layout).items():
        tensor = own[ours]
        if layout == "torchvision" and ours.endswith(".layer_scale.gamma"):
            tensor = tensor.view(-1, 1, 1)
        elif layout == "authors" and ".hidden_layer." in ours:
            tensor = tensor.view(1, 1, 1, -1)
        elif has_convs and re.search(r"\.pointwise\d\.weight$", ours):
            tensor = tensor[..., None, None]
        exported[theirs] = tensor.detach().clone(memory_format=torch.contiguous_format)
    return exported


def layouts(network: Network) -> list[str]:
    """The layouts of the network: always "ours"; others if it is a ResNet, a ConvNeXt or a ConvNeXt V2."""
    if _differs_in_size_alone(network.design, design("resnet50")):
        return ["ours", "torchvision", "timm"]
    if _differs_in_size_alone(network.design, design("convnext_tiny")):
        return ["ours", "torchvision", "timm", "authors"]
    if _is_v2(network.design):
        return ["ours", "timm", "authors"]
    return ["ours"]


def _is_v2(network: Design) -> bool:
    return _differs_in_size_alone(network, design("convnextv2_tiny"))


def _has_convs_in_timm(network: Design) -> bool:
    """Whether timm has 1x1 convs where we have linear layers: in ConvNeXt V2 from atto to nano."""
    return _is_v2(network) and network.width < design("convnextv2_tiny").width


def _differs_in_size_alone(design: Design, known: Design) -> bool:
    """Whether two designs have the same modules except for depths and width. Fields that add no module are ignored."""
    free = {name: getattr(known, name) for name in ("depths", "width", "drop_path", "init", "head_scale")}
    if design.layer_scale and known.layer_scale:
        free["layer_scale"] = known.layer_scale
    if [layer[1:] for layer in design.layers] == [layer[1:] for layer in known.layers]:  # their names are ignored too
        free["layers"] = known.layers
    return replace(design, **free) == known


def _resnet(network: Network) -> dict[str, str]:
    names = {"stem.conv": "conv1", "stem.norm": "bn1", "head.linear": "fc"}
    for s, b, block in _blocks(network):
        ours, theirs = f"stages.{s}.blocks.{b}", f"layer{s + 1}.{b}"
        for index, conv in enumerate(("pointwise1", "spatial", "pointwise2"), start=1):
            names[f"{ours}.branch.{conv}"] = f"{theirs}.conv{index}"
            names[f"{ours}.branch.{conv}_norm"] = f"{theirs}.bn{index}"
        if not isinstance(block.shortcut, nn.Identity):
            names[f"{ours}.shortcut.conv"] = f"{theirs}.downsample.0"
            names[f"{ours}.shortcut.norm"] = f"{theirs}.downsample.1"
    return names


def _convnext(
    network: Network,
    stem: tuple[str, str],
    downsample: Callable[[int], str],
    block: Callable[[int, int], str],
    branch: tuple[str, ...],
    head: tuple[str, str],
) -> dict[str, str]:
    """A layout of ConvNeXt, from the names of the stem's conv and norm; a downsampling; a block; its spatial conv,
    norm, two 1x1 convs, layer scale and, in V2, its response norm; the last norm and the classifier."""
    names = {"stem.conv": stem[0], "stem.norm": stem[1], "head.norm": head[0], "head.linear": head[1]}
    for s in range(1, 4):
        names[f"stages.{s}.downsample.norm"] = f"{downsample(s)}.0"
        names[f"stages.{s}.downsample.conv"] = f"{downsample(s)}.1"
    convs = ("branch.spatial", "branch.spatial_norm", "branch.pointwise1", "branch.pointwise2")
    modules = (*convs, "layer_scale", "branch.hidden_layer")
    for s, b, _ in _blocks(network):
        for ours, theirs in zip(modules, branch, strict=False):
            names[f"stages.{s}.blocks.{b}.{ours}"] = f"{block(s, b)}.{theirs}"
    return names


def _modules(network: Network, layout: str) -> dict[str, str]:
    """{our module: their module} for every module with parameters or buffers."""
    if "authors" not in layouts(network):
        return _resnet(network)
    if layout == "torchvision":
        return _convnext(
            network,
            stem=("features.0.0", "features.0.1"),
            downsample=lambda s: f"features.{2 * s}",
            block=lambda s, b: f"features.{2 * s + 1}.{b}",
            branch=("block.0", "block.2", "block.3", "block.5", "layer_scale"),
            head=("classifier.0", "classifier.2"),
        )
    if layout == "timm":
        return _convnext(
            network,
            stem=("stem.0", "stem.1"),
            downsample=lambda s: f"stages.{s}.downsample",
            block=lambda s, b: f"stages.{s}.blocks.{b}",
            branch=("conv_dw", "norm", "mlp.fc1", "mlp.fc2", "gamma", "mlp.grn"),
            head=("head.norm", "head.fc"),
        )
    return _convnext(
        network,
        stem=("downsample_layers.0.0", "downsample_layers.0.1"),
        downsample=lambda s: f"downsample_layers.{s}",
        block=lambda s, b: f"stages.{s}.{b}",
        branch=("dwconv", "norm", "pwconv1", "pwconv2", "gamma", "grn"),
        head=("norm", "head"),
    )


def _keys(network: Network, layout: str) -> dict[str, str]:
    """{our key: their key} of the state dict."""
    own = list(network.state_dict())
    if layout == "ours":
        return {key: key for key in own}
    modules = _modules(network, layout)
    keys = {}
    for key in own:
        module, _, leaf = key.rpartition(".")
        if layout == "authors" and module.endswith(".hidden_layer"):
            leaf = {"weight": "gamma", "bias": "beta"}[leaf]
        keys[key] = modules[module] if module.endswith(".layer_scale") else f"{modules[module]}.{leaf}"
    return keys


def _blocks(network: Network) -> Iterator[tuple[int, int, Any]]:
    for s, stage in enumerate(network.stages):
        for b, block in enumerate(cast(Iterable[Any], stage.blocks)):
            yield s, b, block


def _squeezed(tensor: Tensor) -> list[int]:
    """The shape without ones: a 1x1 conv's weight is (o, i, 1, 1) or (o, i), a layer scale's (c,) or (c, 1, 1), a
    response norm's (c,) or (1, 1, 1, c)."""
    return [length for length in tensor.shape if length != 1]


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
