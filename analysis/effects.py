"""What a step is worth, asked in four ways: on the road, taken back at its end, put in at its start, in any order."""

from __future__ import annotations

import pandas as pd

from analysis.comparison import Comparison, Steps
from analysis.estimates import compare
from analysis.ladder import caption, entitled
from analysis.shapley import shapley_from_orders
from roadmap.sets import add_one_in, adopted, leave_one_out, sections, unions

UNITS = {
    **{"top1": "points", "top5": "points", "macs": "multiply-adds", "params": "parameters", "activations": "values"},
    **{"images_per_second": "images/s", "train_seconds": "s", "wall_seconds": "s", "peak_memory_mb": "MB"},
}
"""What differences of a column are counted in."""
COLUMNS = ("step", "title", "section", "kind", "n", "effect", "low", "high", "p", "p_holm", "detectable", "verdict")


def effect_table(comparison: Comparison, value: str = "top1") -> pd.DataFrame:
    """A row a step and way of asking, for the steps that the paper adopted.

    `step`, `title`, `section`; `kind`:

    - "road": the ladder's change, from the rung before (of its family are the side branches, too);
    - "leave_one_out": all steps, minus all but this one;
    - "add_one_in": the modern recipe and this step, minus the modern recipe alone (not for the recipe itself);
    - "shapley": the mean gain over random orders (`shapley_from_orders`);

    `n`, the seeds of the side that has fewer, or the orders; `effect` in units of `value`, any numeric column of a run;
    its 95 % interval `low`, `high`, `p`, `p_holm`, `detectable` and `verdict` (`conclude`; a kind is a family of
    hypotheses), "not measured" where a side has no finished run. Kinds of which nothing is measured but what other
    studies happen to train are absent: the ladder's last rungs leave one out, its second adds one in, and so does one
    of the sections.

    `attrs` has words for captions, `value` and `unit`.
    """
    rungs = {rung.name: frozenset(rung.steps) for rung in comparison.rungs}
    before = {rung.name: rungs[rung.parent] for rung in comparison.rungs if rung.parent}
    start, *added = map(frozenset, add_one_in())
    every, *left = map(frozenset, leave_one_out())
    kinds = {
        "road": {step: (rungs[step], parent) for step, parent in before.items()},
        "leave_one_out": dict(zip(adopted(), ((every, rest) for rest in left), strict=True)),
        "add_one_in": dict(zip(adopted()[1:], ((more, start) for more in added), strict=True)),
    }
    scores = comparison.scores(value)
    elsewhere = {*rungs.values(), *map(frozenset, unions(sections().values()))}
    found = []
    for kind, sides in kinds.items():
        measured = {steps for pair in sides.values() for steps in pair} & set(scores)
        if measured and (kind == "road" or measured - elsewhere):
            found.append(_contrasts(scores, sides).assign(kind=kind))
    orders = shapley_from_orders(comparison, value)
    if len(orders):
        found.append(orders.rename(columns={"value": "effect", "orders": "n"}).assign(kind="shapley"))
    table = pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=list(COLUMNS))
    table = table[table["step"].isin(adopted())].reset_index(drop=True)  # the side branches go
    table = entitled(table, comparison)[list(COLUMNS)]
    table.attrs = caption(comparison) | {"value": value, "unit": UNITS.get(value, value)}
    return table


def _contrasts(scores: dict[Steps | str, pd.Series], sides: dict[str, tuple[Steps, Steps]]) -> pd.DataFrame:
    """A row a step: what is with it minus what is without it."""
    table = compare(scores, [{one: 1.0, other: -1.0} for one, other in sides.values()])
    table = table.rename(columns={"value": "effect"}).assign(step=list(sides))
    table["n"] = [min(len(scores.get(steps, ())) for steps in pair) for pair in sides.values()]
    table["verdict"] = table["verdict"].replace("", "not measured")
    return table
