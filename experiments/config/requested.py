"""What a run was requested by, its road and steps, and which of its settings these do not account for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.config.settings import SMALL, Data, Recipe
from experiments.errors import SettingsError
from roadmap.conf import Conf, flat, to_design
from roadmap.designs import Design
from roadmap.roads import Road, Steps, switches

PARTS = ("subset", "holdout", "reduced_decoding")
"""Settings of the data that count as differences; the dataset itself is named beside every result anyway."""


@dataclass(frozen=True)
class Requested:
    """The request, checked against the composed configuration: labels for a person, and provenance in the record."""

    road: Road
    steps: Steps | None
    """In the road's order; None if a named design was requested, or a network of timm's."""
    network: str
    """What the network is called: its nearest rung and what differs, a named design, or a model of timm's."""
    differs: dict[str, Any]
    """{setting: value} where the training differs from what the regime does with these steps."""

    @property
    def rung(self) -> str | None:
        """The rung whose network and recipe these are, if any."""
        if self.steps is None or any(key.startswith("design.") for key in self.differs):
            return None
        return next((rung.name for rung in self.road.rungs if rung.steps == self.steps), None)

    def to_json(self) -> dict[str, Any]:
        values = {"network": self.network, "rung": self.rung, "steps": self.steps, "differs": self.differs}
        return values | {"road": self.road.to_json()}


def requested(
    config: DictConfig, design: Design, recipe: Recipe, data: Data, init: str | None, conf: Conf
) -> Requested:
    """The request that a composed configuration comes from, and where it differs from it. A design that equals a rung's
    in every switch is that rung, however it was requested.

    Raises:
        SettingsError: if its road, regime, recipe or steps do not exist.
    """
    regime, name = config.regime.name, config.road.name
    try:
        road = conf.road(name, regime)
        steps, named = conf.in_order(config.road.steps, name), config.road.design
        differs = _differences(conf, (regime, steps, name), named, design, recipe)
        is_another = named or any(name == "recipe" or name.startswith("design.") for name in differs)
        if is_another and {*steps} <= {*road.steps}:  # else it is the network of these steps
            ladder = conf.ladder(regime, name, recipe.epochs)
            recipes = {rung.name: rung.recipe for rung in ladder}
            usual = recipe.name if recipe.name in recipes.values() else recipes[road.base]  # another is like the base's
            equal = [rung.steps for rung in ladder if (rung.design, rung.recipe) == (design, usual)]
            if equal and (named or steps not in equal):  # in a small regime several rungs may be one network
                steps, named = equal[-1], None
                differs = _differences(conf, (regime, steps, name), named, design, recipe)
        resolution = _compose(conf, regime, steps, name, recipe.name, named).resolution
    except ValueError as error:
        raise SettingsError(str(error)) from error
    if data.cache and config.resolution > SMALL and not recipe.rand_augment:  # which rounds the crops differently
        differs["data.cache"] = data.cache
    differs |= {f"data.{part}": value for part in PARTS if (value := getattr(data, part)) != getattr(Data(), part)}
    differs |= {"resolution": config.resolution} if config.resolution != resolution else {}
    differs |= {"init": init} if init else {}
    if config.model != "design":
        differs = {key: value for key, value in differs.items() if not key.startswith("design.")}
        return Requested(road, None, config.model, differs)
    network = " ".join([named, *switches(differs)]) if named else road.name_of(steps, differs)
    return Requested(road, None if named else steps, network, differs)


def _differences(
    conf: Conf, base: tuple[str, Steps, str], named: str | None, design: Design, recipe: Recipe
) -> dict[str, Any]:
    """{setting: value} of the recipe and the design where they are not those of `base`: regime, steps and road."""
    differs: dict[str, Any] = {}
    if recipe.name != _compose(conf, *base, None, named).recipe.name:
        differs["recipe"] = recipe.name
    expected = _compose(conf, *base, recipe.name, named)
    shape = {"depths": [*design.depths], "width": design.width}
    differs |= {f"design.{key}": value for key, value in shape.items() if value != expected.design[key]}
    switches, usual = _expected(conf, *base, recipe.name, named, design.depths, design.width, recipe.epochs)
    usual = usual | {"epochs": expected.recipe.epochs}
    actual = flat(design.to_json())  # each setting of a layer is a switch
    differs |= {f"design.{key}": actual.get(key) for key in actual | switches if actual.get(key) != switches.get(key)}
    return differs | {f"recipe.{key}": value for key, value in asdict(recipe).items() if value != usual[key]}


@cache
def _compose(conf: Conf, regime: str, steps: Steps, road: str, recipe: str | None, design: str | None) -> DictConfig:
    return conf.compose(regime, steps, road, recipe, design)


@cache
def _expected(
    conf: Conf,
    regime: str,
    steps: Steps,
    road: str,
    recipe: str,
    named: str | None,
    depths: tuple,
    width: int,
    epochs: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The switches and the recipe of a network of these depths and width, trained for so many epochs: some settings
    follow these."""
    config = OmegaConf.merge(
        _compose(conf, regime, steps, road, recipe, named),
        {"design": {"depths": [*depths], "width": width}, "recipe": {"epochs": epochs}},
    )
    values: Any = OmegaConf.to_container(config.recipe, resolve=True)
    return flat(to_design(config.design).to_json()), asdict(Recipe()) | values
