"""A network's weights for timm's network of the same architecture, where timm has one."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf
from torch import nn

from experiments.config.timm_names import PREFIX
from experiments.evaluate.model import NAMED, EvaluatedModel
from experiments.export.images import resized_to
from experiments.export.programs import TOLERANCE, ExportError, difference
from roadmap.conf import design as named
from roadmap.designs import Design
from roadmap.network import Network
from roadmap.weights import export_weights, layouts

RESNET_WIDTH = 64
"""Of the stem: timm's ResNets have no other."""


class NotInTimmError(ExportError):
    """timm has no such network."""


def timm_arguments(model: str, network: nn.Module, classes: int) -> tuple[str, dict[str, Any]]:
    """The name and arguments with which `timm.create_model` makes the network; `model` is the run's.

    Raises:
        NotInTimmError: if it has none.
    """
    if not isinstance(network, Network):
        return model.removeprefix(PREFIX), {"num_classes": classes}
    if "timm" not in layouts(network):
        raise NotInTimmError("timm has no such network")
    design, is_resnet = network.design, "authors" not in layouts(network)
    if is_resnet and design.width != RESNET_WIDTH:
        raise NotInTimmError(f"timm's ResNets are all {RESNET_WIDTH} channels wide, this one {design.width}")
    for name in NAMED:
        if _same(design, named(name)):
            return name, {"num_classes": classes}
    depths = list(design.depths)
    if is_resnet:
        return "resnet50", {"layers": depths, "num_classes": classes}
    sizes = {"depths": depths, "dims": [design.width * 2**stage for stage in range(4)]}
    if not design.layers:
        return "convnext_tiny", sizes | {"num_classes": classes}
    small = design.width < named("convnextv2_tiny").width
    return "convnextv2_nano" if small else "convnextv2_tiny", sizes | {"num_classes": classes}


def _same(design: Design, known: Design) -> bool:
    """Whether two designs of networks that timm has are of one family and size."""
    return (design.depths, design.width, len(design.layers), design.stem) == (
        known.depths,
        known.width,
        len(known.layers),
        known.stem,
    )


def to_timm(name: str, arguments: dict[str, Any], model: EvaluatedModel) -> tuple[list[bytes], float]:
    """The contents of model.safetensors and config.json, from which timm makes the network and its transform; and the
    largest difference of its logits, relative to the largest of ours.

    Raises:
        ExportError: if that is larger than TOLERANCE.
    """
    network, transform = model.network, model.transform
    state = export_weights(network, "timm") if isinstance(network, Network) else network.state_dict()
    theirs = timm.create_model(name, **arguments).eval()
    theirs.load_state_dict(state)
    images = torch.randn(2, 3, transform.resolution, transform.resolution, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        largest = difference(theirs(images), network(images))
    if not largest <= TOLERANCE:
        raise ExportError(f"timm's logits differ from the network's by {largest:.1e} of the largest logit")
    size = resized_to(transform)
    crop_pct = transform.resolution / size if isinstance(size, int) else 1.0
    data: dict[str, Any] = {"interpolation": transform.interpolation}
    data |= {"input_size": (3, transform.resolution, transform.resolution)}
    data |= {"mean": transform.mean, "std": transform.std, "crop_pct": crop_pct}
    data |= {"crop_mode": "squash" if isinstance(size, tuple) else "center"}
    with tempfile.TemporaryDirectory() as folder:
        save_for_hf(theirs, folder, safe_serialization=True, data_config=data)
        return [Path(folder, name).read_bytes() for name in ("model.safetensors", "config.json")], largest
