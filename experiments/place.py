"""Where a network stands on the road: its rung, the steps that make it, and what else differs."""

from __future__ import annotations

from dataclasses import asdict, fields
from functools import cache
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from experiments.settings import Data, Recipe
from roadmap.designs import Design
from roadmap.steps import Rung, compose, ladder, to_design

PARTS = ("subset", "holdout")
"""Of the data: which dataset it is stands beside every result anyhow."""


class Place(NamedTuple):
    """Labels for a person, derived from what is trained, so that they cannot contradict it."""

    rung: str | None
    """The rung whose network and recipe these are, if any."""
    steps: tuple[str, ...] | None
    """The steps that are on, in the paper's order; None if the network is no set of steps."""
    differs: dict[str, Any]
    """{setting: value} where the training differs from what the regime does with these steps."""


def find_place(
    regime: str, design: Design, recipe: Recipe, data: Data, resolution: int, init: str | None = None
) -> Place:
    """The place of a network in a regime. A recipe that is not the ladder's counts as the modern one that it extends,
    and is named among the differences; what is no set of steps differs from the recipe as the regime uses it."""
    ours = recipe.name if recipe.name in ("original", "modern") else "modern"
    rungs = {(rung.design, rung.recipe): rung for rung in _ladder(regime)}
    rung = rungs.get((design, ours))
    steps = rung.steps if rung else steps_of(regime, design, ours)
    differs = {"recipe": recipe.name} if recipe.name != ours else {}
    differs |= _differences(regime, steps or (), design, recipe, data, resolution)
    return Place(rung.name if rung else None, steps, differs | ({"init": init} if init else {}))


@cache
def steps_of(regime: str, design: Design, recipe: str) -> tuple[str, ...] | None:
    """The steps that make this design in this regime, in the paper's order; None if none do."""
    has = asdict(design) | {"recipe": recipe}
    on = [step for step, sign in _signs(regime).items() if sign and sign.items() <= has.items()]
    return tuple(on) if to_design(compose(regime, on).design) == design else None


@cache
def _signs(regime: str) -> dict[str, dict[str, Any]]:
    """{step: what tells that it is on}: the values of the design that it sets, or the recipe."""
    start = to_design(compose(regime, ()).design)
    signs = {}
    for step in (rung.name for rung in _ladder(regime)[1:]):
        flipped = compose(regime, [step])
        target = to_design(flipped.design)
        changed = [one.name for one in fields(Design) if getattr(target, one.name) != getattr(start, one.name)]
        telling = [name for name in changed if name != "width"] or changed  # a later step may widen further
        if step == "modern_recipe":
            signs[step] = {"recipe": flipped.recipe.name}
        else:
            signs[step] = {name: getattr(target, name) for name in telling}
    return signs


def _differences(
    regime: str, steps: tuple[str, ...], design: Design, recipe: Recipe, data: Data, resolution: int
) -> dict[str, Any]:
    usual, size = _usual(regime, steps, design.depths, design.width, recipe.name)
    different = {f"recipe.{name}": value for name, value in asdict(recipe).items() if value != usual[name]}
    different |= {f"data.{name}": value for name in PARTS if (value := getattr(data, name)) != getattr(Data(), name)}
    return different if resolution == size else different | {"resolution": resolution}


@cache
def _usual(
    regime: str, steps: tuple[str, ...], depths: tuple[int, ...], width: int, recipe: str
) -> tuple[dict[str, Any], int]:
    """The recipe's settings and the resolution as the regime has them for these steps and this recipe."""
    shape = {"design": {"depths": list(depths), "width": width}}  # which some settings follow
    expected = OmegaConf.merge(compose(regime, steps, recipe), shape)
    return asdict(Recipe()) | OmegaConf.to_container(expected.recipe, resolve=True), expected.resolution


@cache
def _ladder(regime: str) -> tuple[Rung, ...]:
    return ladder(regime)
