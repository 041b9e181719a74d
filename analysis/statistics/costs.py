"""What accuracy costs: networks and their Pareto fronts."""

from __future__ import annotations

import pandas as pd

from analysis.statistics.comparison import Comparison, network_table
from analysis.statistics.ladder import caption

FRONTS = {"macs": True, "params": True, "images_per_second": False, "device_hours": True}
"""The costs that have a front, and whether less of them is better."""


def cost_table(comparison: Comparison) -> pd.DataFrame:
    """The rows of `network_table` that have finished runs, to plot the main metric against cost.

    For each network also: `title`, a rung's or the network's name; `adopted`, NA if it is no rung; and whether it is on
    the Pareto front, `front_macs`, `front_params`, `front_images_per_second`, `front_device_hours`. `attrs` has words
    for captions.
    """
    table = network_table(comparison)
    table = table[table["n"] > 0].reset_index(drop=True)
    rungs = {rung.name: rung for rung in comparison.road.rungs}
    of_rows = [rungs.get(name) for name in table["rung"]]
    table["title"] = [rung.title if rung else name for rung, name in zip(of_rows, table["network"], strict=True)]
    table["adopted"] = pd.array([rung.adopted if rung else None for rung in of_rows], dtype="boolean")
    for cost, smaller_is_better in FRONTS.items():
        table[f"front_{cost}"] = pareto_front(table, cost, smaller_is_better=smaller_is_better)
    table.attrs = caption(comparison)
    return table


def pareto_front(table: pd.DataFrame, cost: str, value: str = "mean", smaller_is_better: bool = True) -> pd.Series:
    """Whether a row is on the Pareto front of `cost` and `value` (more is better): no other row is better in one of the
    two and at least as good in the other. Equal rows are on the front together; a row that lacks a number is not on it.
    Means are compared as they are, regardless of their noise."""
    costs = table[cost].astype(float) * (1 if smaller_is_better else -1)
    points = pd.DataFrame({"cost": costs, "value": table[value].astype(float)}).dropna()
    ordered = points.sort_values(["cost", "value"], ascending=[True, False])
    best = ordered["value"].cummax()
    # The best of equal cost, if it is better than all that cost less.
    cheaper = best.groupby(ordered["cost"]).max().shift(fill_value=float("-inf"))
    front = (ordered["value"] == best) & (ordered["value"] > ordered["cost"].map(cheaper))
    return front.reindex(table.index, fill_value=False)
