"""The settings in which runs of the paper's steps differ from the paper, and the effects of the resolution."""

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
"""Up to SMALL pixels, images are padded and cropped instead of resized; from WHOLE pixels on, the whole image is
evaluated instead of its centre, unless the recipe says otherwise (experiments/data/transforms.py)."""
CROP = 0.875
"""The side of the centre crop, as a fraction of the resized image's."""
KERNELS = (3, 5, 7, 9, 11)
"""The kernel sizes that the paper measures."""
OFF: tuple[Any, ...] = (None, 0, "0", False, [], {}, "")
"""Values that turn a setting off, like leaving it out."""
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
"""Whether a recipe's setting has an effect at a resolution, as in experiments/training/recipe.py and
experiments/data/transforms.py; one that is not listed always has. A record contains them all."""


class Departure(NamedTuple):
    """A setting that differs from the paper's; `setting` is its name on the command line."""

    setting: str
    paper: str
    here: str


def departures(comparison: Comparison) -> dict[str, list[Departure]]:
    """By recipe, in the road's order: how the training of runs of the paper's steps differs from the paper's. On a road
    that does not begin with the paper's, only runs of the paper's rungs are compared."""
    context, paper = comparison.context, OURS.road()
    runs = comparison.runs[comparison.runs["set"].notna()].drop_duplicates("series")  # the rest differ in the seed
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
            *_recipe_departures(name, of_recipe["recipe"].tolist(), context.resolution),
            *_design_departures(comparison.road.published, of_recipe),
        ]
        for name, of_recipe in runs.groupby("recipe_name", sort=False)
    }


def kernel_note(resolution: int, stem_stride: int = 4) -> str | None:
    """A sentence on which of the paper's kernels are equivalent at a small resolution; None if none are.

    Kernel k reaches k // 2 pixels to each side, so on a map of m pixels, what exceeds 2m - 1 only multiplies padding.
    """
    maps = feature_maps(resolution, stem_stride)
    stages_that_differ = sum(2 * side - 1 > 7 for side in maps)
    if all(2 * side - 1 >= KERNELS[-1] for side in maps):
        return None
    stages = {0: "in no stage", 1: "in the first stage only", 4: "in every stage"}
    where = stages.get(stages_that_differ, f"in the first {stages_that_differ} stages only")
    sides = "-".join(map(str, maps))
    return f"At {resolution} px the stages' feature maps are {sides} pixels wide, so kernels above 7 differ {where}."


def _recipe_departures(name: str, recipes: list[Settings], resolution: int) -> list[Departure]:
    paper = published_recipe(name)
    if not paper:
        return [Departure("recipe", "the paper has no such recipe", name)]
    settings = dict.fromkeys(key for recipe in (paper, *recipes) for key in recipe if key != "name")
    differing = []
    for key in settings:
        is_read = READ_IF.get(key, lambda *_: True)
        here = [recipe.get(key) for recipe in recipes if is_read(recipe, resolution)]
        published = paper.get(key) if is_read(paper, PAPER_RESOLUTION) else None
        if not all(_same(value, published) for value in here):
            differing.append(Departure(f"recipe.{key}", _text(published), _texts(here)))
    return differing


def _design_departures(published: str | None, runs: pd.DataFrame) -> list[Departure]:
    """Those of the networks: a regime may keep the proportions of the published one at another size."""
    if published not in regimes():
        return []
    designs = {frozenset(rung.steps): rung.design.to_json() for rung in ladder(published)}
    runs = runs[runs["set"].isin([*designs])]
    differing = []
    for key in next(iter(designs.values())):
        paper = [designs[steps][key] for steps in runs["set"]]
        here = [design.get(key) for design in runs["design"]]
        if not all(map(_same, here, paper)):
            differing.append(Departure(f"design.{key}", _texts(paper), _texts(here)))
    return differing


def _same(a: Any, b: Any) -> bool:
    if a in OFF and b in OFF:
        return True
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    return a == b or (_number(a) is not None and _number(a) == _number(b))


def _number(value: Any) -> float | None:
    """A number, also if it is written as a fraction of the run, "20/300"."""
    try:
        return float(Fraction(str(value)))
    except (ValueError, ZeroDivisionError):
        return None


def _texts(values: list[Any]) -> str:
    """The distinct values, in order."""
    return ", ".join(dict.fromkeys(map(_text, values)))


def _text(value: Any) -> str:
    if value in OFF:
        return "none"
    if isinstance(value, bool):
        return "yes"
    if isinstance(value, (list, tuple)):
        whole = all(isinstance(element, int) for element in value)
        return ("-" if whole else ", ").join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _dataset(comparison: Comparison) -> str:
    images, classes = comparison.train_images, comparison.context.data.get("num_classes")
    counts = [f"{images:,} training images" if images else None, f"in {classes:,} classes" if classes else None]
    return f"{comparison.context.dataset}: {' '.join(filter(None, counts))}"
