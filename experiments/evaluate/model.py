"""What `experiments.evaluate` evaluates: whose weights, in which network, and how images are made ready for them."""

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
from experiments.training.models import load_model_of_timm, read_weights, torchvision_weights
from roadmap.conf import OURS, to_design
from roadmap.conf import design as named
from roadmap.designs import Design, DesignError
from roadmap.network import build
from roadmap.own import foreign, try_out
from roadmap.weights import WeightsError, classes_of, load_weights

NAMED = [name for name in OURS.options("design") if "depths" in OURS.load("design", name)]
"""The designs that say everything; the others are kinds, of any depth and width."""


@dataclass(frozen=True)
class Preparation:
    """How images are made ready; see `transforms.evaluation_transform`."""

    resolution: int = 224
    interpolation: str = "bicubic"
    crop_pct: float | None = None
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD


@dataclass(frozen=True)
class EvaluatedModel:
    """A network with its weights, and how its makers prepare images for it."""

    network: nn.Module
    what: str
    """For a person: which network this is, and where its weights come from."""
    classes: int
    preparation: Preparation


def find_model(init: Init, model: str | None, design: Design | None, *, trust: bool = False) -> EvaluatedModel:
    """The network of some weights: the run's; of published ones ours of that name, or else the library's own; of
    another file the named design that it fits, unless `model` (timm:NAME) or `design` say what it is.

    Raises:
        SettingsError: if the weights can't be had, or fit no network that is known or stated; or if only a run's record
            names code for its network, and there is no `trust`.
    """
    config = run_config(init.file) if init.file and not (model or design) else None
    try:
        if init.file is None:
            return _published(init)
        state = read_weights(init)
        if model:
            return _of_timm(init, state, model, Preparation())
        if design:
            return _ours(init, state, design, Preparation(), "design")
        if config and config["model"] == "design":
            return _ours(init, state, _recorded_design(config, trust), _preparation_of(config), "design")
        if config:
            return _of_timm(init, state, _recorded_model(config), _preparation_of(config))
        return _fitting(init, state)
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
        crop_pct = resolution / (resize + 0.5)  # half a pixel, lest rounding make it one less
        how = Preparation(resolution, preset.interpolation.value, crop_pct, tuple(preset.mean), tuple(preset.std))
    else:
        how = preparation_of_timm(name)
    if model in NAMED:
        return _ours(init, state, named(model), how, f"our {model}")
    if library == "timm":
        return _of_timm(init, state, f"timm:{model}", how)
    import torchvision

    network = torchvision.models.get_model(model)
    network.load_state_dict(state)
    with torch.inference_mode():
        classes = network.eval()(torch.zeros(1, 3, how.resolution, how.resolution)).shape[1]
    return EvaluatedModel(network, f"torchvision's {model}, {init.source}", classes, how)


def preparation_of_timm(name: str) -> Preparation:
    """What timm's MODEL.TAG was evaluated with. Some at 384 px were squashed, which here is no crop_pct."""
    found = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    resolution, squashed = found["input_size"][-1], found["crop_mode"] == "squash"
    crop_pct = None if squashed and resolution >= 384 else found["crop_pct"]
    return Preparation(resolution, found["interpolation"], crop_pct, found["mean"], found["std"])


def _recorded_model(config: Mapping[str, Any]) -> str:
    """The model of timm's in a run's config.json, which may be anybody's: nothing but a name that timm has.

    Raises:
        SettingsError: if it is none.
    """
    try:
        check_timm_name(config["model"])
    except SettingsError as error:
        raise SettingsError(f"the config.json beside these weights: {error}") from error
    return config["model"]


def _recorded_design(config: Mapping[str, Any], trust: bool) -> Design:
    """The design in a run's config.json, which may be anybody's: code that it names runs only with `trust`.

    Raises:
        DesignError: if there can't be such a design.
        SettingsError: if it names code, or code that is another now.
    """
    design = to_design(config["design"])
    if not trust and (paths := foreign(design)):
        raise SettingsError(
            f"the config.json beside these weights names {', '.join(paths)}, which is not of torch.nn, timm.layers or "
            "roadmap and would be run; trust=true runs it"
        )
    recorded = config.get("code")
    for path, digest in code_of(design).items() if isinstance(recorded, Mapping) else ():
        if recorded.get(path) != digest:
            raise SettingsError(f"the code of {path} is not what these weights were trained with; bring that back")
    return design


def _preparation_of(config: Mapping[str, Any]) -> Preparation:
    """How a run whose config.json this is prepares images.

    Raises:
        SettingsError: if that says something impossible.
    """
    recipe = config["recipe"]
    how = Preparation(config["resolution"], recipe.get("interpolation"), recipe.get("crop_pct"))
    crop = 1 if how.crop_pct is None else how.crop_pct
    is_possible = isinstance(crop, float | int) and 0 < crop <= 1 and not RESOLUTION.problem(how.resolution / crop)
    if not is_possible or how.interpolation not in ("bilinear", "bicubic"):
        raise SettingsError(
            "the config.json beside these weights does not say how its images are prepared; move the weights away "
            "from it, and say design=..., resolution=..., interpolation=... and crop_pct=..."
        )
    return how


def _of_timm(init: Init, state: Mapping[str, Tensor], model: str, how: Preparation) -> EvaluatedModel:
    network = timm.create_model(model.removeprefix(PREFIX))
    classes, _ = load_model_of_timm(network, state, adapt=True)
    return EvaluatedModel(network, f"{model}, {init.source}", classes, how)


def _fitting(init: Init, state: Mapping[str, Tensor]) -> EvaluatedModel:
    for name in NAMED:
        try:
            return _ours(init, state, named(name), Preparation(), name)
        except WeightsError:
            continue
    raise WeightsError(f"these fit none of {', '.join(NAMED)}; say design=NAME with its switches, or model=timm:NAME")


def _ours(init: Init, state: Mapping[str, Tensor], design: Design, how: Preparation, name: str) -> EvaluatedModel:
    if (least := 3 * sum(design.depths)) > len(state):  # a block has three convs; thousands take minutes to build
        raise WeightsError(f"these are {len(state)} tensors, and depths={[*design.depths]} has {least} or more")
    with torch.device("meta"):
        classes = max(classes_of(build(design, 1), state) or 0, 1)
        network = build(design, classes)
    load_weights(network, state)  # refused, if they don't fit, before there is anything to fill
    if design.dotted():  # what isn't ours may hold more than weights, so it has to be made as it is
        try_out(design, how.resolution)
        network = build(design, classes)
    else:
        network = network.to_empty(device="cpu")
    layout = load_weights(network, state)
    return EvaluatedModel(network, f"{name}, {init.source} ({layout} layout)", classes, how)
