"""What was asked for: `road=`, `rung=`, `step=` and `design=` as one list of steps before Hydra composes; and, once it
has composed, what of the result those steps do not account for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf

from experiments.config.settings import SMALL, Data, Recipe
from experiments.errors import SettingsError
from roadmap.conf import Conf, flat, to_design
from roadmap.designs import Design
from roadmap.roads import Road, Steps, switches

WORDS = ("road", "rung", "step", "design")
"""Of a command line, that name a network; the settings that they come to are in `road`."""
REPLACED = ("road", "rung", "step", "road.name", "road.steps", "road.design")
COME_TO = {"road.steps": "rung= and step=", "road.design": "design="}
PARTS = ("subset", "holdout", "reduced_decoding")
"""Of the data: which dataset it is stands beside every result anyhow."""


def spelled_out(words: Sequence[str], conf: Conf, road: str = "convnext") -> list[str]:
    """A run's words, with one list of steps in place of a road, a rung and steps: `step=[...]`, which Hydra composes,
    and `road.name`, `road.steps` and `road.design`, which its configuration keeps. Other words stay as they are.

    `road` is the one that is meant where no word names one.

    Raises:
        SettingsError: if there is no such road, rung or step; if a rung is named twice, or steps contradict each other.
    """
    named = _named(words)
    if not named:
        return [*words]
    for override in named.values():
        if override.is_sweep_override():
            raise SettingsError(
                f"{override.input_line} asks for several runs; add -m, or take one value (a list is [a,b])"
            )
    road = _name(named, "road") or road
    rung, steps, design = _name(named, "rung"), _names(named.get("step")), _name(named, "design")
    if design and (rung is not None or steps):
        raise SettingsError(
            f"design={design} is a whole network, beside which no rung or step counts; name one of them"
        )
    try:
        steps = conf.in_order({*steps, *(conf.road(road)[rung].steps if rung is not None else ())}, road)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    listed = ",".join(steps)
    spelled = [f"road.name={road}", f"road.steps=[{listed}]", f"step=[{listed}]"]
    spelled += [f"road.design={design}"] if design else []
    first = next(index for index, word in enumerate(words) if _key(word) in (*REPLACED, "design"))
    before, after = words[:first], [word for word in words[first:] if _key(word) not in REPLACED]
    return [*before, *spelled, *after]  # together: flags may stand before and after overrides, not between them


def of_several(words: Sequence[str], conf: Conf, road: str = "convnext") -> list[str]:
    """The words of a multirun as Hydra's sweeper takes them: the road by its setting, and the rungs that a glob names.
    Each run is `spelled_out` once the sweeper has made its words.

    Raises:
        SettingsError: if there are to be several roads, or a glob names no rung.
    """
    named = _named(words, several=True)
    replaced = {}
    if "road" in named:
        if named["road"].is_sweep_override():
            raise SettingsError(f"{named['road'].input_line}: a study is of one road; start one for each")
        road = _name(named, "road") or road
        replaced["road"] = f"road.name={road}"
    if "rung" in named and isinstance(glob := named["rung"].value(), Glob):
        if not (names := glob.filter(list(conf.road(road).names))):
            raise SettingsError(f"{named['rung'].input_line} names no rung of the road {road}")
        replaced["rung"] = f"rung={','.join(names)}"
    return [replaced.get(_key(word), word) for word in words]


def searched(words: Sequence[str]) -> list[Path]:
    """The folders of `hydra.searchpath=[file://...]`."""
    [*_, paths] = [[], *(_parsed(word).value() for word in words if _key(word) == "hydra.searchpath")]
    if not isinstance(paths, list):
        raise SettingsError(f"hydra.searchpath takes a list, like [file:///home/me/my], not {paths}")
    return [Path(str(path).removeprefix("file://")) for path in paths if "pkg://" not in str(path)]


def _named(words: Sequence[str], *, several: bool = False) -> dict[str, Override]:
    """By key, the words that name a network; of `several` runs the last of a key, as in Hydra's sweeper."""
    found: dict[str, Override] = {}
    for word in words:
        if (key := _key(word)) in COME_TO:
            raise SettingsError(f"{key} is what {COME_TO[key]} comes to; say that")
        key = {"road.name": "road"}.get(key, key)
        if key not in WORDS:
            continue
        try:
            parsed = _parsed(word)
        except OverrideParseException:
            continue  # Hydra's own refusal has words
        if key in found and found[key].value() != parsed.value() and not several:
            raise SettingsError(f"{key} is chosen twice; name it once")
        found[key] = parsed
    return found


def _key(word: str) -> str | None:
    """Of an override: what stands before its `=`."""
    key, equals, _ = word.lstrip("+").partition("=")
    return key if equals and not word.startswith("-") else None


@cache
def _parsed(word: str) -> Override:
    [override] = OverridesParser.create().parse_overrides([word])
    return override


def _names(override: Override | None) -> list[str]:
    value = override.value() if override else None
    return [str(one) for one in (value if isinstance(value, list) else [value]) if one is not None]


def _name(named: dict[str, Override], key: str) -> str | None:
    names = _names(named.get(key))
    return names[0] if names else None


@dataclass(frozen=True)
class Requested:
    """What was asked for, checked against what was composed: labels for a person, and provenance in the record."""

    road: Road
    steps: Steps | None
    """In the road's order; None if a named design was asked for, or a network that is not ours."""
    network: str
    """What the network is called: its nearest rung and what differs, a named design, or a model of timm's."""
    differs: dict[str, Any]
    """{setting: value} where the training differs from what the regime does with these steps."""

    @property
    def rung(self) -> str | None:
        """The rung whose network and recipe these are, if any."""
        exact = self.steps is not None and not any(key.startswith("design.") for key in self.differs)
        return next((rung.name for rung in self.road.rungs if exact and rung.steps == self.steps), None)

    def to_json(self) -> dict[str, Any]:
        values = {"network": self.network, "rung": self.rung, "steps": self.steps, "differs": self.differs}
        return values | {"road": self.road.to_json()}


def requested(
    config: DictConfig, design: Design, recipe: Recipe, data: Data, init: str | None, conf: Conf
) -> Requested:
    """What a composed configuration was asked for by, and where it differs. If its design is a rung's to the last
    switch, it is that rung, however it was asked for.

    Raises:
        SettingsError: if its road, regime, recipe or steps are none.
    """
    regime, asked = config.regime.name, config.road
    try:
        road = conf.road(asked.name, regime)
        steps, named = conf.in_order(asked.steps, asked.name), asked.design
        differs = _differences(conf, regime, steps, asked.name, named, design, recipe)
        if (differs or named) and {*steps} <= {*road.steps}:
            ladder = conf.ladder(regime, asked.name)
            recipes = {rung.name: rung.recipe for rung in ladder}
            usual = recipe.name if recipe.name in recipes.values() else recipes[road.base]  # another is like the base's
            equal = [rung.steps for rung in ladder if (rung.design, rung.recipe) == (design, usual)]
            if equal and (named or steps not in equal):  # in a small regime several rungs may be one network
                steps, named = equal[-1], None
                differs = _differences(conf, regime, steps, asked.name, named, design, recipe)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    expected = _composed(conf, regime, steps, asked.name, recipe.name, named)
    if data.cache and config.resolution > SMALL and not recipe.rand_augment:  # which rounds the crops otherwise
        differs["data.cache"] = data.cache
    differs |= {f"data.{name}": value for name in PARTS if (value := getattr(data, name)) != getattr(Data(), name)}
    differs |= {"resolution": config.resolution} if config.resolution != expected.resolution else {}
    differs |= {"init": init} if init else {}
    if config.model != "design":
        differs = {key: value for key, value in differs.items() if not key.startswith("design.")}
        return Requested(road, None, config.model, differs)
    network = " ".join([named, *switches(differs)]) if named else road.name_of(steps, differs)
    return Requested(road, None if named else steps, network, differs)


def _differences(
    conf: Conf, regime: str, steps: Steps, road: str, named: str | None, design: Design, recipe: Recipe
) -> dict[str, Any]:
    """The recipe, switches and its settings that are not what these steps make of them."""
    as_asked = _composed(conf, regime, steps, road, None, named).recipe.name
    found = {"recipe": recipe.name} if recipe.name != as_asked else {}
    expected = _composed(conf, regime, steps, road, recipe.name, named)
    switch = flat(to_design(expected.design).to_json())
    own = flat(design.to_json())  # each setting of a layer is a switch
    shape = {"depths": own["depths"], "width": design.width}
    found |= {f"design.{key}": value for key, value in shape.items() if value != switch[key]}
    if any(f"design.{key}" in found for key in shape):  # which some settings follow
        expected = OmegaConf.merge(expected, {"design": shape})
        switch = flat(to_design(expected.design).to_json())
    usual = asdict(Recipe()) | OmegaConf.to_container(expected.recipe, resolve=True)
    found |= {f"design.{key}": own.get(key) for key in own | switch if own.get(key) != switch.get(key)}
    return found | {f"recipe.{key}": value for key, value in asdict(recipe).items() if value != usual[key]}


@cache
def _composed(conf: Conf, regime: str, steps: Steps, road: str, recipe: str | None, design: str | None) -> DictConfig:
    return conf.compose(regime, steps, road, recipe, design)
