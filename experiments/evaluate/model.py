"""What `experiments.evaluate` evaluates: weights, their network, and how images are transformed for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from experiments.config.code_digest import code_of
from experiments.config.initial_weights import Init
from experiments.config.settings import RESOLUTION
from experiments.config.timm_names import PREFIX, check_timm_name
from experiments.errors import SettingsError
from experiments.records.of_weights import run_config
from experiments.training.models import load_timm_model, read_weights, torchvision_weights
from roadmap.conf import OURS, to_design
from roadmap.conf import design as named
from roadmap.designs import Design, DesignError
from roadmap.network import build
from roadmap.own import foreign, try_out
from roadmap.weights import WeightsError, classes_of, load_weights

NAMED = [name for name in OURS.options("design") if "depths" in OURS.load("design", name)]
"""The complete designs; the others are families, of any depth and width."""


State = Mapping[str, Tensor]


@dataclass(frozen=True)
class TransformSettings:
    """How images are transformed for a network; see `transforms.evaluation_transform`."""

    resolution: int = 224
    interpolation: str = "bicubic"
    crop_pct: float | None = None
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD


@dataclass(frozen=True)
class EvaluatedModel:
    """A network with its weights, and how images were transformed for it where it was trained or published."""

    network: nn.Module
    description: str
    """For a person: which network this is, and where its weights come from."""
    classes: int
    transform: TransformSettings


def find_model(init: Init, model: str | None, design: Design | None, *, trust: bool = False) -> EvaluatedModel:
    """The network of some weights. Of published weights, it is the design of that name or the library's model; of a
    file, `model` (timm:NAME) or `design` if given, else the run's to which it belongs, else the named design that fits.

    Raises:
        SettingsError: if the weights can't be loaded, or fit no such network; or if a run's record names code for its
            network and there is no `trust`.
    """
    config = run_config(init.file) if init.file and not (model or design) else None
    try:
        if init.file is None:
            return _published(init)
        state = read_weights(init)
        if model:
            return _timm_model(init, state, model, TransformSettings())
        if design:
            return _designed(init, state, design, TransformSettings(), "design")
        if config and config["model"] == "design":
            return _designed(init, state, _recorded_design(config, trust), _recorded_transform(config), "design")
        if config:
            return _timm_model(init, state, _recorded_model(config), _recorded_transform(config))
        return _detected(init, state)
    except WeightsError as error:
        raise SettingsError(f"weights={init.source}: {error}") from error
    except DesignError as error:
        raise SettingsError(f"weights={init.source}: design.{error}") from error


def _published(init: Init) -> EvaluatedModel:
    library, _, name = init.source.partition(":")
    model, state = name.partition(".")[0], read_weights(init)
    if library == "torchvision":
        preset = torchvision_weights(name).transforms()
        [resize], [resolution] = preset.resize_size, preset.crop_size
        crop_pct = resolution / (resize + 0.5)  # half a pixel more, or rounding could make it one less
        mean, std = tuple(preset.mean), tuple(preset.std)
        transform = TransformSettings(resolution, preset.interpolation.value, crop_pct, mean, std)
    else:
        transform = timm_transform(name)
    if model in NAMED:
        return _designed(init, state, named(model), transform, f"roadmap's {model}")
    if library == "timm":
        return _timm_model(init, state, f"timm:{model}", transform)
    import torchvision

    network = torchvision.models.get_model(model)
    network.load_state_dict(state)
    with torch.inference_mode():
        classes = network.eval()(torch.zeros(1, 3, transform.resolution, transform.resolution)).shape[1]
    return EvaluatedModel(network, f"torchvision's {model}, {init.source}", classes, transform)


def timm_transform(name: str) -> TransformSettings:
    """What timm's MODEL.TAG was evaluated with. From 384 px on, images that were squashed have no crop_pct."""
    pretrained: Any = timm.get_pretrained_cfg(name)
    config = timm.data.resolve_data_config(pretrained_cfg=pretrained.to_dict())
    resolution, squashed = config["input_size"][-1], config["crop_mode"] == "squash"
    crop_pct = None if squashed and resolution >= 384 else config["crop_pct"]
    return TransformSettings(resolution, config["interpolation"], crop_pct, config["mean"], config["std"])


def _recorded_model(config: Mapping[str, Any]) -> str:
    """The timm model in a run's config.json, which may come from anywhere: so it must be a name that timm has.

    Raises:
        SettingsError: if it is not.
    """
    try:
        check_timm_name(config["model"])
    except SettingsError as error:
        raise SettingsError(f"the config.json beside these weights: {error}") from error
    return config["model"]


def _recorded_design(config: Mapping[str, Any], trust: bool) -> Design:
    """The design in a run's config.json, which may come from anywhere: code that it names runs only with `trust`.

    Raises:
        DesignError: if the design is invalid.
        SettingsError: if it names code without `trust`, or code that has changed.
    """
    design = to_design(config["design"])
    if not trust and (paths := foreign(design)):
        raise SettingsError(
            f"the config.json beside these weights names {', '.join(paths)}, which is not of torch.nn, timm.layers or "
            "roadmap and would be run; trust=true (--trust in experiments.export and experiments.demo) allows that"
        )
    recorded = config.get("code")
    if isinstance(recorded, Mapping):
        for path, digest in code_of(design).items():
            if recorded.get(path) != digest:
                raise SettingsError(f"the code of {path} has changed since these weights were trained; restore it")
    return design


def _recorded_transform(config: Mapping[str, Any]) -> TransformSettings:
    """How the run of a config.json transforms images for evaluation.

    Raises:
        SettingsError: if that is missing or impossible.
    """
    recipe = config["recipe"]
    transform = TransformSettings(config["resolution"], recipe.get("interpolation"), recipe.get("crop_pct"))
    crop = 1 if transform.crop_pct is None else transform.crop_pct
    is_possible = isinstance(crop, float | int) and 0 < crop <= 1
    is_possible = is_possible and not RESOLUTION.problem(transform.resolution / crop)
    if not is_possible or transform.interpolation not in ("bilinear", "bicubic"):
        raise SettingsError(
            "the config.json beside these weights does not say how its images are transformed; move the weights away "
            "from it, and set design=..., resolution=..., interpolation=... and crop_pct=..."
        )
    return transform


def _timm_model(init: Init, state: State, model: str, transform: TransformSettings) -> EvaluatedModel:
    network = timm.create_model(model.removeprefix(PREFIX))
    classes, _ = load_timm_model(network, state, adapt=True)
    return EvaluatedModel(network, f"{model}, {init.source}", classes, transform)


def _detected(init: Init, state: State) -> EvaluatedModel:
    """The named design that a state dict fits. They differ in depths, widths and keys, so that it fits one at most; and
    each is tried on the meta device, since which keys it has depends on the design and the layout."""
    for name in NAMED:
        try:
            return _designed(init, state, named(name), TransformSettings(), name)
        except WeightsError:
            continue
    raise WeightsError(f"these fit none of {', '.join(NAMED)}; set design=NAME and its switches, or model=timm:NAME")


def _designed(init: Init, state: State, design: Design, transform: TransformSettings, name: str) -> EvaluatedModel:
    if (least := 3 * sum(design.depths)) > len(state):  # a block has three convs; thousands take minutes to build
        raise WeightsError(f"these are {len(state)} tensors, and depths={[*design.depths]} has {least} or more")
    with torch.device("meta"):
        classes = max(classes_of(build(design, 1), state) or 0, 1)
        network = build(design, classes)
    load_weights(network, state)  # raises if they don't fit, before any memory is allocated
    if design.dotted():  # user-defined layers may have more than weights, which only their constructors give them
        try_out(design, transform.resolution)
        network = build(design, classes)
    else:
        network = network.to_empty(device="cpu")
    layout = load_weights(network, state)
    return EvaluatedModel(network, f"{name}, {init.source} ({layout} layout)", classes, transform)
