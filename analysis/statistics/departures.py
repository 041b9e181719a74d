"""Every setting in which runs of the paper's steps depart from its tables, and what follows from the resolution."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import pandas as pd

from analysis.statistics.comparison import Comparison, begins
from analysis.statistics.context import feature_maps, published_recipe
from roadmap.conf import OURS, ladder, regimes

IMAGENET = "ImageNet-1K: 1,281,167 training images in 1,000 classes"
PAPER_RESOLUTION = 224
SMALL, WHOLE = 32, 384
"""Pixels up to which images are padded and cropped, not resized, and from which on all of an image is evaluated, not
its centre, unless the recipe says otherwise (experiments/data/transforms.py)."""
CROP = 0.875
"""What that centre is of the resized image's side."""
KERNELS = (3, 5, 7, 9, 11)
"""That the paper measures."""
OFF = (None, 0, "0", False, [], {}, "")
"""Values of a setting that is not used: the same as not naming it."""
Settings = Mapping[str, Any]


def _is_on(recipe: Settings, key: str) -> bool:
    return recipe.get(key) not in OFF


def _mixes(recipe: Settings) -> bool:
    return _is_on(recipe, "mixup") or _is_on(recipe, "cutmix")


def _resizes(recipe: Settings, resolution: int) -> bool:
    return resolution > SMALL or _is_on(recipe, "rand_augment") or _is_on(recipe, "crop_pct")


READ_IF: dict[str, Callable[[Settings, int], bool]] = {
    "momentum": lambda recipe, _: recipe.get("optimizer") != "adamw",
    **dict.fromkeys(("betas", "eps"), lambda recipe, _: recipe.get("optimizer") != "sgd"),
    "decay_norm_and_bias": lambda recipe, _: _is_on(recipe, "weight_decay"),
    "layer_decay": lambda recipe, _: recipe.get("layer_decay") != 1,  # of one layer's rate to the next's: the same
    **dict.fromkeys(("min_lr", "warmup"), lambda recipe, _: recipe.get("schedule") != "step"),
    "milestones": lambda recipe, _: recipe.get("schedule") == "step",
    "gamma": lambda recipe, _: recipe.get("schedule") == "step" and _is_on(recipe, "milestones"),
    "interpolation": _resizes,
    "crop_pct": lambda recipe, resolution: recipe.get("crop_pct") != CROP or not SMALL < resolution < WHOLE,
    **dict.fromkeys(("erasing_mode", "erasing_count"), lambda recipe, _: _is_on(recipe, "random_erasing")),
    **dict.fromkeys(("mixup_prob", "mixup_mode"), lambda recipe, _: _mixes(recipe)),
    "mixup_switch_prob": lambda recipe, _: _is_on(recipe, "mixup") and _is_on(recipe, "cutmix"),
}
"""Whether a recipe's setting makes a difference at a resolution, as in experiments/training/recipe.py and
experiments/data/transforms.py; one that is not listed always does. A record holds them all."""


class Departure(NamedTuple):
    """A setting that is not the paper's. `setting` is what one types to change it."""

    setting: str
    paper: str
    here: str


def departures(comparison: Comparison) -> dict[str, list[Departure]]:
    """By the recipe's name, in the road's order: how runs of the paper's steps depart from what it trains. On a road
    that does not begin with the paper's, those of its rungs only; networks of other steps depart from nothing."""
    context, paper = comparison.context, OURS.road()
    runs = comparison.runs[comparison.runs["set"].notna()].drop_duplicates("series")  # which differ in the seed alone
    rungs = {frozenset(rung.steps) for rung in paper.rungs if rung.steps}
    is_papers = {*paper.steps}.issuperset if begins(comparison.road, paper) else rungs.__contains__
    runs = runs[runs["set"].map(is_papers).astype(bool)]
    data = [] if context.on_imagenet else [Departure("data", IMAGENET, _dataset(comparison))]
    if context.data.get("holdout"):
        data.append(
            Departure("data.holdout", "none", f"evaluated on {context.data['holdout']:.0%} of the training images")
        )
    if context.data.get("reduced_decoding"):
        data.append(Departure("data.reduced_decoding", "off", "training JPEGs are decoded at a reduced scale"))
    if context.resolution != PAPER_RESOLUTION:
        data.append(Departure("resolution", f"{PAPER_RESOLUTION} px", f"{context.resolution} px"))
    if context.resolution <= SMALL:
        data.append(Departure("training crop", "random part, resized, flipped", "padded by 4, random crop, flipped"))
        if any(recipe.get("crop_pct") is None for recipe in runs["recipe"]):
            data.append(Departure("evaluation crop", "resized to 256 px, centre 224 px", "centre, padded"))
    return {
        name: [
            *data,
            *_recipe_departures(name, own["recipe"].tolist(), context.resolution),
            *_design_departures(comparison.road.published, own),
        ]
        for name, own in runs.groupby("recipe_name", sort=False)
    }


def kernel_note(resolution: int) -> str | None:
    """Which of the paper's kernels a small resolution cannot tell apart, or None if it tells all.

    Kernel k reaches k // 2 pixels to each side, so on a map of m pixels every k beyond 2m - 1 multiplies padding alone.
    """
    maps = feature_maps(resolution)
    telling = sum(2 * side - 1 > 7 for side in maps)
    if all(2 * side - 1 >= KERNELS[-1] for side in maps):
        return None
    stages = {0: "in no stage", 1: "in the first stage only", 4: "in every stage"}
    where = stages.get(telling, f"in the first {telling} stages only")
    sides = "-".join(map(str, maps))
    return f"At {resolution} px the stages' feature maps are {sides} pixels wide, so kernels above 7 differ {where}."


def _recipe_departures(name: str, recipes: list[Settings], resolution: int) -> list[Departure]:
    paper = published_recipe(name)
    if not paper:
        return [Departure("recipe", "the paper has no such recipe", name)]
    settings = dict.fromkeys(key for recipe in (paper, *recipes) for key in recipe if key != "name")
    found = []
    for key in settings:
        is_read = READ_IF.get(key, lambda *_: True)
        here = [recipe.get(key) for recipe in recipes if is_read(recipe, resolution)]
        there = paper.get(key) if is_read(paper, PAPER_RESOLUTION) else None
        if not all(_same(value, there) for value in here):
            found.append(Departure(f"recipe.{key}", _text(there), _texts(here)))
    return found


def _design_departures(published: str | None, runs: pd.DataFrame) -> list[Departure]:
    """The networks' own: a regime may keep the proportions of the published one at another size."""
    if published not in regimes():
        return []
    designs = {frozenset(rung.steps): rung.design.to_json() for rung in ladder(published)}
    runs = runs[runs["set"].isin([*designs])]
    found = []
    for key in next(iter(designs.values())):
        pairs = [
            (designs[steps][key], design.get(key)) for steps, design in zip(runs["set"], runs["design"], strict=True)
        ]
        if not all(_same(here, paper) for paper, here in pairs):
            paper, here = ([one[side] for one in pairs] for side in (0, 1))
            found.append(Departure(f"design.{key}", _texts(paper), _texts(here)))
    return found


def _same(one: Any, other: Any) -> bool:
    if one in OFF and other in OFF:
        return True
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other or (_number(one) is not None and _number(one) == _number(other))


def _number(value: Any) -> float | None:
    """A number, or a fraction of the run as it is written, "20/300"."""
    try:
        return float(Fraction(str(value)))
    except (ValueError, ZeroDivisionError):
        return None


def _texts(values: list[Any]) -> str:
    """The values, each once, in order."""
    return ", ".join(dict.fromkeys(map(_text, values)))


def _text(value: Any) -> str:
    if value in OFF:
        return "none"
    if isinstance(value, bool):
        return "yes"
    if isinstance(value, (list, tuple)):
        whole = all(isinstance(one, int) for one in value)
        return ("-" if whole else ", ").join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _dataset(comparison: Comparison) -> str:
    images, classes = comparison.train_images, comparison.context.data.get("num_classes")
    counts = [f"{images:,} training images" if images else None, f"in {classes:,} classes" if classes else None]
    return f"{comparison.context.dataset}: {' '.join(filter(None, counts))}"
