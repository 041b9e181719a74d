"""What a step is worth: on the road, removed at its end, added at its start, and averaged over orders; and what steps
are worth that are on no rung."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd

from analysis.measures import measure
from analysis.statistics.comparison import Comparison, Steps
from analysis.statistics.estimates import NEGLIGIBLE, compare
from analysis.statistics.ladder import caption, entitled
from analysis.statistics.noise import Scores
from analysis.statistics.shapley import has_sections, is_union, shapley_from_orders

COLUMNS = (
    *("step", "title", "section", "kind", "on", "n", "with", "without"),
    *("effect", "low", "high", "p", "p_holm", "detectable", "verdict", "survivors"),
)


class Pair(NamedTuple):
    """Two networks that differ in one step."""

    step: str
    with_step: Steps
    without: Steps


def effect_table(comparison: Comparison, value: str | None = None, *, margin: float | None = None) -> pd.DataFrame:
    """One row per step and kind of effect, for the adopted steps of the road and for steps that are on no rung of it.

    `step`, `title`, `section`; `kind`:

    - "road": the ladder's change, from the parent (the side branches belong to this family, too);
    - "leave_one_out": all steps, minus all but this one;
    - "add_one_in": the road's base and this step, minus the base alone (not for the base's own steps);
    - "shapley": the mean gain over random orders (`shapley_from_orders`);
    - "besides": for a step that is on no rung, every two measured networks that differ in it alone;
    - "elsewhere": for a step of the road, each measured rung and that rung with the step, unless another kind has it;

    `on`, the network without the step, as `Road.name_of` calls it (None for "shapley"); `n`, the seeds of the side with
    fewer, or the number of orders; `with` and `without`, the means of the two; `effect`, their difference, in units of
    `value`, the main metric or any numeric column of a run; its 95 % interval `low`, `high`, `p`, `p_holm`,
    `detectable` and `verdict` (`conclude`; a kind is a family of hypotheses), "not measured" where a side has no
    finished run; and `survivors`, whether some run of either side diverged or was stopped early, so that the effect is
    that of the runs that finished (not known for "shapley"). A kind is absent if only networks that belong to other
    studies are measured: the ladder's last rungs leave one step out, and its second rung and one of the sections add
    one. With a `margin`, in units of `value`, also `p_negligible`, `p_negligible_holm`, `negligible` (`conclude`).

    `attrs` has words for captions, `value`, `unit` and `margin`.
    """
    road, scores = comparison.road, comparison.scores(value)
    all_, base = frozenset(road.adopted), frozenset(road[road.base].steps)
    kinds = {
        "road": [
            Pair(rung.steps[-1], frozenset(rung.steps), frozenset(road[rung.parent].steps))
            for rung in road.rungs
            if rung.parent
        ],
        "leave_one_out": [Pair(step, all_, all_ - {step}) for step in road.adopted],
        "add_one_in": [Pair(step, base | {step}, base) for step in road.adopted if step not in base],
        "besides": _besides(comparison, scores),
    }
    ladder = {frozenset(rung.steps) for rung in road.rungs}
    sections = [*road.groups().values()] if has_sections(comparison) else []
    covered = ladder | {steps for kind in ("leave_one_out", "add_one_in") for pair in kinds[kind] for steps in pair[1:]}
    kinds["elsewhere"] = [
        pair
        for pair in _elsewhere(comparison, scores)
        if pair.with_step not in covered and not is_union(pair.with_step, sections)
    ]
    tables = []
    for kind, pairs in kinds.items():
        measured = {steps for pair in pairs for steps in pair[1:] if steps in scores}
        if kind in ("leave_one_out", "add_one_in"):
            measured = {steps for steps in measured if steps not in ladder and not is_union(steps, sections)}
        if measured:
            tables.append(_contrasts(comparison, scores, pairs, margin).assign(kind=kind))
    orders = shapley_from_orders(comparison, value, margin=margin)
    if len(orders):
        tables.append(orders.rename(columns={"value": "effect", "orders": "n"}).assign(kind="shapley"))
    columns = [*COLUMNS, *(() if margin is None else NEGLIGIBLE)]
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)
    table = entitled(table, comparison).reindex(columns=columns)
    table["survivors"] = table["survivors"].eq(True)
    value = value or comparison.metric
    table.attrs = caption(comparison) | {"value": value, "unit": measure(value).unit, "margin": margin}
    return table


def unpaired(comparison: Comparison) -> list[str]:
    """Steps on no rung whose effect is unknown yet: no two networks with finished runs differ in the step alone."""
    scores = comparison.scores()
    trained = {step for steps in comparison.runs["set"].dropna() for step in steps} - {*comparison.road.steps}
    return sorted(trained - {pair.step for pair in _besides(comparison, scores)})


def _besides(comparison: Comparison, scores: Scores) -> list[Pair]:
    """The measured pairs for steps that are on no rung, by step, in the road's order."""
    road = comparison.road
    order = {rung.name: index for index, rung in enumerate(road.rungs)}
    pairs = [
        Pair(step, steps, steps - {step})
        for steps in scores
        if not isinstance(steps, str)
        for step in steps.difference(road.steps)
        if steps - {step} in scores and comparison.same_code(steps, steps - {step})
    ]
    return sorted(
        pairs, key=lambda pair: (pair.step, order[road.nearest(pair.without).name], road.in_order(pair.without))
    )


def _elsewhere(comparison: Comparison, scores: Scores) -> list[Pair]:
    """Measured rungs, each with one more step of the road, by step, in the road's order."""
    road = comparison.road
    rungs = [frozenset(rung.steps) for rung in road.rungs]
    pairs = [Pair(step, rung | {step}, rung) for step in road.steps for rung in rungs if step not in rung]
    measured = (pair for pair in pairs if pair.with_step in scores and pair.without in scores)
    return [pair for pair in measured if comparison.same_code(pair.with_step, pair.without)]


def _contrasts(comparison: Comparison, scores: Scores, pairs: Iterable[Pair], margin: float | None) -> pd.DataFrame:
    """One row per pair: the network with the step minus the one without it. The road's side branches have no row, but
    belong to the same family of hypotheses."""
    road, pairs = comparison.road, list(pairs)
    table = compare(scores, [{pair.with_step: 1.0, pair.without: -1.0} for pair in pairs], margin=margin)
    table = table.rename(columns={"value": "effect"})
    table["step"] = [pair.step for pair in pairs]
    table["on"] = [road.name_of(pair.without) for pair in pairs]
    means = {steps: values.mean() for steps, values in scores.items()}
    table["with"] = [means.get(pair.with_step, math.nan) for pair in pairs]
    table["without"] = [means.get(pair.without, math.nan) for pair in pairs]
    table["n"] = [min(len(scores.get(steps, ())) for steps in pair[1:]) for pair in pairs]
    table["verdict"] = table["verdict"].replace("", "not measured")
    table["survivors"] = [comparison.has_survivors(*pair[1:]) for pair in pairs]
    table["survivors"] &= table["effect"].notna()
    branches = {frozenset(rung.steps) for rung in road.rungs if not rung.adopted}
    return table[[pair.with_step not in branches for pair in pairs]]
