"""The ladder: what each step changed, over seeds, beside the published ladder."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from analysis.sources.correct_images import Correct
from analysis.sources.rows import TOP1
from analysis.statistics.comparison import Comparison, Steps, network_table
from analysis.statistics.contrasts import contrast
from analysis.statistics.estimates import NEGLIGIBLE, compare
from analysis.statistics.image_noise import COLUMNS as IMAGES
from analysis.statistics.image_noise import image_noise
from analysis.statistics.pairs import pairs_of
from analysis.statistics.provenance import describe
from analysis.text import step_name
from roadmap.conf import OURS
from roadmap.roads import Road

MEASURED = (
    *("n", "diverged", "stopped", "left_out", "mean", "std", "mean_low", "mean_high"),
    *("macs", "params", "activations", "images_per_second", "train_seconds", "peak_memory_mb", "device_hours"),
)
COUNTS = ["n", "diverged", "stopped", "left_out"]
FLAGS = ["survivors", "collapsed"]
CHANGES = ("change", "low", "high", "p", "p_holm", "detectable", "error", "freedom", "method", "verdict", "survivors")


def ladder_table(
    comparison: Comparison,
    reference: str | Iterable[str] | None = None,
    *,
    nearest: bool = False,
    correct: Mapping[str, Correct] | None = None,
    margin: float | None = None,
) -> pd.DataFrame:
    """One row per rung, in the road's order, measured or not.

    `rung`, `parent`, `title`, `section`, `adopted`; `reference`, what it is compared with: the parent, or the network
    given as `reference` by a rung's name, its own (`comparison.runs["network"]`) or its steps; `published_top1`,
    `published_std`, `published_change`, `published_gflops`, NaN where nothing was published; `n` seeds that finished,
    `diverged`, those that did not train, `stopped`, those that `stop_below` ended early, and `left_out` runs, these or
    not done; `mean`, `std` (n - 1) of the main metric, `mean_low`, `mean_high` (its 95 % interval); `macs`, `params`,
    ... (`network_table`); `change` (points) with its 95 % interval `low`, `high`, `p`, `p_holm`, `detectable`, `error`,
    `method` (`compare`), and `verdict`, which says what is missing if there is no change; `survivors`, whether some run
    of either side diverged or was stopped early, so that the change is that of the runs that finished; and `collapsed`,
    whether the rung hardly trained (`Comparison.collapsed`). With `Runs.correct`, also the change for other images of
    the same kind: `images`, `image_error`, `other_low`, `other_high`, `other_p`, `other_p_holm`, `other_verdict`
    (`image_noise`). With a `margin` (points), also whether the change is negligible, for other seeds on these images:
    `p_negligible`, `p_negligible_holm`, `negligible` (`conclude`).

    With `nearest`, for a study that skips rungs, such as one of the ends of sections: only the rungs with runs, and as
    the parent of each its nearest ancestor that has finished, here and in the published numbers; `title` says what
    lies between the two: a step, a section, or "gelu to layer_norm".

    `attrs` has words for captions (`caption`); `titles`, of the rungs by name; `margin`; `reference`, the title of the
    network given as `reference`, or ""; `gaps`, whether `nearest` skipped a rung; and `ends`, the road's last adopted
    rung against its first (`contrast`, as a dict), None unless both are measured.

    Raises:
        ValueError: if none of the reference's runs is finished.
    """
    ends, whole = _ends(comparison, correct), comparison.road
    if nearest:
        comparison = _without_gaps(comparison)
    road, scores = comparison.road, comparison.scores()
    key = None if reference is None else comparison.key(reference)
    name = "" if key is None else comparison.name(key)
    table = _published(road, name)
    if comparison.metric != TOP1:  # the paper's accuracies cannot be compared with another metric
        table[["published_top1", "published_std", "published_change"]] = math.nan
    steps = {rung.name: frozenset(rung.steps) for rung in road.rungs}
    references: list[Any] = [steps.get(rung.parent or "") if key is None else key for rung in road.rungs]
    pairs: list[tuple[Any, Any]] = [
        (rung, None if rung == from_ else from_) for rung, from_ in zip(steps.values(), references, strict=True)
    ]
    sums = [{rung: 1.0, from_: -1.0} for rung, from_ in pairs]
    of_seeds = compare(scores, sums, margin=margin)
    changes = of_seeds.rename(columns={"value": "change"})
    changes["verdict"] = [
        verdict or _why_no_change(*pair, scores, comparison)
        for verdict, pair in zip(changes["verdict"], pairs, strict=True)
    ]
    changes["survivors"] = [comparison.has_survivors(*pair) for pair in pairs]
    changes["survivors"] &= changes["change"].notna()
    added = () if margin is None else NEGLIGIBLE
    networks = network_table(comparison)
    networks = networks[networks["set"].notna()].set_index("set")[list(MEASURED)]
    table = table.join(networks.reindex(list(steps.values())).set_axis(table.index)).join(changes[[*CHANGES, *added]])
    table = table.join(image_noise(comparison, correct or {}, sums, of_seeds))
    table[COUNTS] = table[COUNTS].fillna(0).astype(int)
    table["collapsed"] = [rung in comparison.collapsed for rung in steps.values()]
    title = road[name].title if name in road.names else name
    table.attrs = caption(comparison) | {"reference": title, "ends": ends, "margin": margin}
    table.attrs["gaps"] = any(rung.parent not in (None, whole[rung.name].parent) for rung in road.rungs)
    table.attrs["titles"] = {rung.name: rung.title for rung in whole.rungs}
    return table


def _without_gaps(comparison: Comparison) -> Comparison:
    """The comparison on a road that has the rungs with runs alone; the parent of each is its nearest ancestor with
    finished runs."""
    road, scores, trained = comparison.road, comparison.scores(), {*comparison.runs["set"]}
    pairs = pairs_of(road, [], lambda rung, ancestor: rung in trained and ancestor in scores)
    before = {pair.network: pair for pair in pairs if pair.kind == "road"}
    names = {frozenset(rung.steps): rung.name for rung in road.rungs}
    rungs = []
    for rung in road.rungs:
        steps = frozenset(rung.steps)
        if pair := before.get(steps):
            network = rung.title.removeprefix(step_name(rung.title))  # in brackets, as at the end of the paper's road
            rungs.append(replace(rung, parent=names[pair.reference], title=f"{pair.title}{network}"))
        elif steps in trained:
            rungs.append(replace(rung, parent=None))
    road = replace(road, rungs=tuple(rungs) or road.rungs)
    return replace(comparison, context=replace(comparison.context, road=road))


def default_reference(ladder: pd.DataFrame) -> str | None:
    """The rung to compare all others with if no measured rung's parent is measured: the first, if there are at least
    two. None: compare each rung with its parent."""
    measured = ladder["rung"][ladder["n"] > 0]
    return measured.iloc[0] if len(measured) > 1 and not ladder["parent"][measured.index].isin(measured).any() else None


def skips_rungs(ladder: pd.DataFrame) -> bool:
    """Whether some rung with finished runs has an ancestor that has some, too, but a parent without any run, as in a
    study of the ends of sections. It is then best compared with that ancestor."""
    parents = dict(zip(ladder["rung"], ladder["parent"], strict=True))
    measured = {*ladder["rung"][ladder["n"] > 0]}
    with_runs = measured | {*ladder["rung"][ladder["left_out"] > 0]}
    for rung in measured:
        parent = parents[rung]
        if parent in with_runs:
            continue
        while parent in parents and parent not in measured:
            parent = parents[parent]
        if parent in measured:
            return True
    return False


def default_ladder(comparison: Comparison, **settings: Any) -> pd.DataFrame:
    """The ladder with the changes that a study of these rungs has to offer: from the parents; where some are not in it,
    from the nearest rungs that are; where all are missing, from the first rung (`attrs["by_default"]`)."""
    ladder = ladder_table(comparison, **settings)
    if start := default_reference(ladder):
        ladder = ladder_table(comparison, start, **settings)
        ladder.attrs["by_default"] = True
    elif skips_rungs(ladder):
        ladder = ladder_table(comparison, nearest=True, **settings)
    return ladder


def compared_with(ladder: pd.DataFrame) -> str:
    """What the changes are from, for captions."""
    if reference := ladder.attrs.get("reference"):
        return f"“{reference}”"
    return "the nearest rung in the study" if ladder.attrs.get("gaps") else "the parent step"


def included(ladder: pd.DataFrame) -> pd.DataFrame:
    """The rungs of a study: those with any run, finished or not. All of a ladder without runs, such as a published
    one."""
    rungs = ladder[(ladder["n"] > 0) | (ladder["left_out"] > 0)]
    return ladder if rungs.empty else named(rungs.reset_index(drop=True))


def named(ladder: pd.DataFrame) -> pd.DataFrame:
    """The ladder with `title` as the name of a change: the step's, or, with one reference for all, the rung's."""
    return ladder.assign(title=ladder["rung"]) if ladder.attrs.get("reference") else ladder


def _ends(comparison: Comparison, correct: Mapping[str, Correct] | None) -> dict[str, Any] | None:
    first, last = (frozenset(steps) for steps in (comparison.road.rungs[0].steps, comparison.road.adopted))
    measured = comparison.scores()
    if first == last or first not in measured or last not in measured:
        return None
    return contrast(comparison, last, first, correct=correct).to_dict()


def caption(comparison: Comparison) -> dict[str, Any]:
    """Words for captions, in the `attrs` of every table.

    `title`, `scale`, `about`, `dataset`; `metric`, the column's name; `road`, its title, `sections`, {number: title},
    `references`, and `published`, the regime whose published numbers the road has, or ""; `looks`, how many were
    planned.
    """
    context, road = comparison.context, comparison.road
    return {
        "title": context.title,
        "scale": context.scale,
        "about": describe(comparison),
        "dataset": context.dataset,
        "metric": context.metric,
        "looks": comparison.looks,
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
    """A table with a column `step`, and its `title` and `section` added; a step on no rung has its name as title."""
    rungs = sorted(comparison.road.rungs, key=lambda rung: rung.adopted)  # of two with the same step, the adopted one
    titles = {rung.step: rung.title for rung in rungs}
    sections = {rung.step: rung.section for rung in rungs}
    return table.assign(
        title=[titles.get(step, step) for step in table["step"]],
        section=[sections.get(step, "") for step in table["step"]],
    )


def published_ladder(regime: str = "resnet50") -> pd.DataFrame:
    """The columns of `ladder_table` from the paper's numbers alone: `resnet50` (Table 10) or `resnet200` (Table 11).

    Raises:
        ValueError: if there is no such regime.
    """
    road = OURS.road(regime=regime)
    table = _published(road)
    table[COUNTS] = 0
    table[FLAGS] = False
    table = table.reindex(columns=list(dict.fromkeys([*table.columns, *MEASURED, *CHANGES, *IMAGES])))
    table.attrs = {
        "title": f"{regime} on ImageNet-1K, as published",
        "scale": f"{regime} on ImageNet-1K, 224 px: the paper's own numbers",
        "about": "arXiv 2201.03545, Table 10" if regime != "resnet200" else "arXiv 2201.03545, Table 11",
        "dataset": "ImageNet-1K",
        "metric": "top1",
        **_of_road(road),
        **{"reference": "", "ends": None},
    }
    return table


def _published(road: Road, reference: str | None = None) -> pd.DataFrame:
    """The columns that are known of every rung before anything is trained; NaN where nothing was published."""
    top1 = {rung.name: rung.published.top1 if rung.published else math.nan for rung in road.rungs}
    references: dict[str, Any] = {
        rung.name: (reference or rung.parent) if rung.name != reference else None for rung in road.rungs
    }
    rows = [
        {
            "rung": rung.name,
            **{name: getattr(rung, name) for name in ("parent", "title", "section", "adopted")},
            "reference": references[rung.name],
            "published_top1": top1[rung.name],
            "published_std": rung.published.std if rung.published else None,
            "published_change": top1[rung.name] - top1.get(references[rung.name], math.nan),
            "published_gflops": rung.published.gflops if rung.published else None,
        }
        for rung in road.rungs
    ]
    table = pd.DataFrame(rows)
    numbers = [name for name in table if name.startswith("published")]
    table[numbers] = table[numbers].astype(float)
    table["published_change"] = table["published_change"].round(2)
    return table


def _why_no_change(rung: Steps, reference: Steps | str | None, scores: Container, comparison: Comparison) -> str:
    if rung not in scores:
        return _outcome(rung, comparison) or "no finished run"
    if reference is None:
        return "start"
    return f"parent {_outcome(reference, comparison) or 'missing'}"


def _outcome(key: Steps | str, comparison: Comparison) -> str:
    """What became of the runs of a network of which none finished; "" if nothing yet."""
    return "diverged" if comparison.diverged[key] else "stopped" if comparison.stopped[key] else ""
