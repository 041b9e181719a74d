"""The ladder: what each step changed, against its parent, over seeds, with the published ladder beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.comparison import Comparison, network_table
from analysis.correct import Correct
from analysis.estimates import compare
from analysis.images import COLUMNS as IMAGES
from analysis.images import image_noise
from analysis.provenance import describe
from roadmap.conf import OURS
from roadmap.roads import Road, Rung

MEASURED = (
    *("n", "left_out", "mean", "std", "mean_low", "mean_high"),
    *("macs", "params", "activations", "images_per_second", "train_seconds", "peak_memory_mb", "device_hours"),
)
CHANGES = ("change", "low", "high", "p", "p_holm", "detectable", "error", "method", "verdict")


def ladder_table(comparison: Comparison, correct: Mapping[str, Correct] | None = None) -> pd.DataFrame:
    """One row per rung, in the road's order, measured or not.

    `rung`, `parent`, `title`, `section`, `adopted`; `n` seeds, `left_out` runs; `mean`, `std` (n - 1) of the main
    metric, `mean_low`, `mean_high` (its 95 % interval); `macs`, `params`, ... (`network_table`); `change` from the
    parent (points) with its 95 % interval `low`, `high`, `p`, `p_holm`, `detectable`, `error`, `method` (`compare`),
    and `verdict`, which says what is lacking where there is no change; `published_top1`, `published_std`,
    `published_change`, `published_gflops`, NaN where nothing was published; and with `Runs.correct` what can be said of
    the change for other images of the same kind: `images`, `image_error`, `other_low`, `other_high`, `other_p`,
    `other_p_holm`, `other_verdict` (`image_noise`).

    `attrs` has words for captions (`caption`).
    """
    rungs = comparison.road.rungs
    scores = comparison.scores()
    steps = {rung.name: frozenset(rung.steps) for rung in rungs}
    sums = [{steps[rung.name]: 1.0, steps.get(rung.parent): -1.0} for rung in rungs]
    of_seeds = compare(scores, sums)
    changes = of_seeds.rename(columns={"value": "change"})
    changes["verdict"] = [
        verdict or _why_no_change(rung, measured=steps[rung.name] in scores)
        for verdict, rung in zip(changes["verdict"], rungs, strict=True)
    ]
    networks = network_table(comparison)
    networks = networks[networks["set"].notna()].set_index("set")[list(MEASURED)]
    table = _published(comparison.road)
    table = table.join(networks.reindex(list(steps.values())).set_axis(table.index)).join(changes[list(CHANGES)])
    table = table.join(image_noise(comparison, correct or {}, sums, of_seeds))
    table[["n", "left_out"]] = table[["n", "left_out"]].fillna(0).astype(int)
    table.attrs = caption(comparison)
    return table


def caption(comparison: Comparison) -> dict[str, Any]:
    """Words for captions, which `attrs` of every table has.

    `title`, `scale`, `about`, `dataset`; `metric`, the column's name; and of the road `road`, its title, `sections`,
    {number: title}, `references`, and `published`, the regime whose published numbers it has, or "".
    """
    context, road = comparison.context, comparison.road
    return {
        "title": context.title,
        "scale": context.scale,
        "about": describe(comparison),
        "dataset": context.dataset,
        "metric": context.metric,
        **_of_road(road),
    }


def _of_road(road: Road) -> dict[str, Any]:
    return {
        "road": road.title,
        "sections": dict(road.sections),
        "references": road.references,
        "published": road.published or "",
    }


def entitled(table: pd.DataFrame, comparison: Comparison) -> pd.DataFrame:
    """A table that has a `step`, with its `title` and `section` beside it; a step on no rung is called by its name."""
    rungs = sorted(comparison.road.rungs, key=lambda rung: rung.adopted)  # of two with one step the adopted one
    known = {rung.step: (rung.title, rung.section) for rung in rungs}
    words = [known.get(step, (step, "")) for step in table["step"]]
    return table.assign(title=[title for title, _ in words], section=[section for _, section in words])


def published_ladder(regime: str = "resnet50") -> pd.DataFrame:
    """The columns of `ladder_table` from the paper's numbers alone: `resnet50` (Table 10) or `resnet200` (Table 11).

    Raises:
        ValueError: if there is no such regime.
    """
    road = OURS.road(regime=regime)
    table = _published(road)
    table[["n", "left_out"]] = 0
    table = table.reindex(
        columns=[*table.columns, *(name for name in MEASURED + CHANGES + IMAGES if name not in table)]
    )
    table.attrs = {
        "title": f"{regime} on ImageNet-1K, as published",
        "scale": f"{regime} on ImageNet-1K, 224 px: the paper's own numbers",
        "about": "arXiv 2201.03545, Table 10" if regime != "resnet200" else "arXiv 2201.03545, Table 11",
        "dataset": "ImageNet-1K",
        "metric": "top1",
        **_of_road(road),
    }
    return table


def _published(road: Road) -> pd.DataFrame:
    """What is known of every rung before anything is trained; NaN where nothing was published."""
    top1 = {rung.name: rung.published.top1 if rung.published else math.nan for rung in road.rungs}
    rows = [
        {
            "rung": rung.name,
            **{name: getattr(rung, name) for name in ("parent", "title", "section", "adopted")},
            "published_top1": top1[rung.name],
            "published_std": rung.published.std if rung.published else None,
            "published_change": top1[rung.name] - top1[rung.parent] if rung.parent else math.nan,
            "published_gflops": rung.published.gflops if rung.published else None,
        }
        for rung in road.rungs
    ]
    table = pd.DataFrame(rows)
    numbers = [name for name in table if name.startswith("published")]
    table[numbers] = table[numbers].astype(float)
    table["published_change"] = table["published_change"].round(2)
    return table


def _why_no_change(rung: Rung, measured: bool) -> str:
    if not measured:
        return "no finished run"
    return "start" if rung.parent is None else "parent missing"
