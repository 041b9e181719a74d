"""What accuracy costs: which networks no other one beats."""

from __future__ import annotations

import pandas as pd

from analysis.statistics.comparison import Comparison, network_table
from analysis.statistics.ladder import caption

FRONTS = {"macs": True, "params": True, "images_per_second": False, "device_hours": True}
"""The costs that have a front, and whether less of them is better."""


def cost_table(comparison: Comparison) -> pd.DataFrame:
    """The rows of `network_table` that have finished runs, for the main metric against cost.

    And of each network: `title`, a rung's or the network's name; `adopted`, NA if it is no rung; and whether it is on
    the Pareto front, `front_macs`, `front_params`, `front_images_per_second`, `front_device_hours`. `attrs` has words
    for captions.
    """
    table = network_table(comparison)
    table = table[table["n"] > 0].reset_index(drop=True)
    rungs = {rung.name: rung for rung in comparison.road.rungs}
    found = [rungs.get(name) for name in table["rung"]]
    table["title"] = [rung.title if rung else name for rung, name in zip(found, table["network"], strict=True)]
    table["adopted"] = pd.array([rung.adopted if rung else None for rung in found], dtype="boolean")
    for cost, smaller_is_better in FRONTS.items():
        table[f"front_{cost}"] = pareto_front(table, cost, smaller_is_better=smaller_is_better)
    table.attrs = caption(comparison)
    return table


def pareto_front(table: pd.DataFrame, cost: str, value: str = "mean", smaller_is_better: bool = True) -> pd.Series:
    """The rows that no other is better than in one of `cost` and `value`, and as good in the other; more is better of
    `value`. Equal rows are on the front together; a row without both numbers is not. Means are compared as they are,
    without regard for their noise."""
    costs = table[cost].astype(float) * (1 if smaller_is_better else -1)
    points = pd.DataFrame({"cost": costs, "value": table[value].astype(float)}).dropna()
    ordered = points.sort_values(["cost", "value"], ascending=[True, False])
    best = ordered["value"].cummax()
    # of equal cost the best only, and better than all that cost less
    cheaper = best.groupby(ordered["cost"]).max().shift(fill_value=float("-inf"))
    front = (ordered["value"] == best) & (ordered["value"] > ordered["cost"].map(cheaper))
    return front.reindex(table.index, fill_value=False)
