"""The same effects on several datasets, and their mean: does a step help elsewhere, too?"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.measures import measure
from analysis.statistics.comparison import Comparison
from analysis.statistics.context import canonical
from analysis.statistics.estimates import Estimate, conclude
from analysis.statistics.factors import factors
from analysis.statistics.ladder import caption, default_ladder, default_reference
from analysis.text import step_name

MEAN = "mean"
"""The dataset of the rows that have the mean over datasets."""
COLUMNS = (
    "effect",
    "dataset",
    "datasets",
    "value",
    "low",
    "high",
    "error",
    "p",
    "p_holm",
    "verdict",
    "tau",
    "i2",
    "p_heterogeneity",
)
SAME_IMAGES = {"fashion_mnist_sample": "fashion_mnist", "imagenette_320": "imagenette", "imagenette_160": "imagenette"}
"""Datasets that have some or all of the images of another one: their results are not independent."""


def by_dataset(comparisons: Sequence[Comparison]) -> list[list[Comparison]]:
    """The comparisons that differ in their dataset, and the resolution, alone: groups of at least two datasets. Of
    several that share images, the first."""
    groups: dict[str, dict[str, Comparison]] = {}
    for comparison in comparisons:
        context = comparison.context
        shared = vars(context) | {
            "road": [(rung.name, rung.parent, rung.steps) for rung in context.road.rungs],
            "differs": {key: value for key, value in context.differs.items() if key != "resolution"},
            "data": {key: context.data.get(key) for key in ("subset", "holdout")},
            **dict.fromkeys(("resolution", "version", "road_name")),
        }
        name = context.data["name"]
        groups.setdefault(canonical(shared), {}).setdefault(SAME_IMAGES.get(name, name), comparison)
    return [list(group.values()) for group in groups.values() if len(group) > 1]


def across_datasets(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """Each effect by dataset, and its mean over them: of the ladder's steps, or what a study that skips rungs has
    instead (`default_ladder`), and of crossed switches (`factors`), where at least two of the datasets have it.

    The mean is that of a random-effects model: the datasets are a sample of datasets like them, on which true effects
    differ with standard deviation tau (estimated after Paule and Mandel). The interval is Hartung and Knapp's, from
    Student's t with one degree of freedom fewer than datasets, and never narrower than the model's own: with two or
    three datasets it is wide.

    One row per effect and dataset, then one for the mean: `effect`, a name; `dataset`, "mean" for the mean; `datasets`,
    how many; `value`, in units of the main metric; its 95 % interval `low`, `high`; `error`, `p`, `p_holm`, `verdict`:
    of a dataset, those of its own table; of the means, one family of hypotheses, corrected for the looks of the dataset
    with the most; and for the means `tau`, in the same unit, `i2`, the percentage of the variance between estimates
    that is due to it (Higgins' I²), and `p_heterogeneity`, of the hypothesis that the true effects are equal (Welch's
    test). `attrs` has words for captions.

    Raises:
        ValueError: if the comparisons are not of at least two datasets, or differ in more than their dataset.
    """
    groups = by_dataset(comparisons)
    if len(groups) != 1 or len(groups[0]) != len(comparisons):
        raise ValueError("comparisons of at least two datasets are needed, with all other settings the same")
    names = [comparison.context.dataset for comparison in comparisons]
    looks = max(comparison.looks for comparison in comparisons)
    measured = pd.concat(
        [_effects(comparison).assign(dataset=name) for comparison, name in zip(comparisons, names, strict=True)]
    )
    rows, means = [], []
    for effect, table in measured.groupby("effect", sort=False):
        known = table[table["error"] > 0]
        if len(known) > 1:
            mean, heterogeneity = _combined(known)
            means.append(mean)
            rows += [
                *table.to_dict("records"),
                {"effect": effect, "dataset": MEAN, "datasets": len(known), **heterogeneity},
            ]
    result = pd.DataFrame(rows).reindex(columns=list(COLUMNS))
    if means:
        of_mean = result.index[result["dataset"] == MEAN]
        judged = conclude(means, looks).set_axis(of_mean)
        for name in ("value", "low", "high", "error", "p", "p_holm", "verdict"):
            result.loc[of_mean, name] = judged[name]
    metric = comparisons[0].metric
    result.attrs = caption(comparisons[0]) | {
        "value": metric,
        "unit": measure(metric).unit,
        "names": names,
        "looks": looks,
    }
    return result


def _effects(comparison: Comparison) -> pd.DataFrame:
    """The changes of the ladder and the main effects of crossed switches that have a value."""
    ladder = default_ladder(comparison)
    titles = ladder["title"].map(step_name)
    if ladder.attrs.get("by_default"):  # no steps, but how far each rung is from the first
        titles = f"{default_reference(ladder)} to " + ladder["rung"]
    steps = ladder.assign(effect=titles.mask(titles.duplicated(keep=False), ladder["rung"]), value=ladder["change"])
    tables = [steps]
    if factorial := factors(comparison):
        effects = factorial.effects
        tables.append(
            effects.assign(effect=[factorial.change(row) for row in effects.itertuples()], value=effects["effect"])
        )
    columns = ["effect", "value", "low", "high", "error", "freedom", "p", "p_holm", "verdict"]
    known = [pd.DataFrame(table[columns].to_dict("list")) for table in tables]  # without attrs
    return pd.concat([table[table["value"].notna()] for table in known], ignore_index=True)


def _combined(effects: pd.DataFrame) -> tuple[Estimate, dict[str, Any]]:
    """The random-effects mean, and how much the effects differ."""
    from statsmodels.stats.meta_analysis import combine_effects  # here: half a second that other reports do not need

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of intervals that are not used
        combined = combine_effects(effects["value"].to_numpy(float), effects["error"].to_numpy(float) ** 2)
    tau_squared = max(float(combined.tau2), 0.0)
    error = max(combined.sd_eff_w_re, combined.sd_eff_w_re_hksj)
    mean = Estimate(float(combined.mean_effect_re), float(error), len(effects) - 1, "Hartung-Knapp")
    heterogeneity = {
        "tau": math.sqrt(tau_squared),
        "i2": 100 * max(float(combined.i2), 0.0),
        "p_heterogeneity": _heterogeneity(effects),
    }
    return mean, heterogeneity


def _heterogeneity(effects: pd.DataFrame) -> float:
    """The p-value of Welch's test (1951) that the true effects are equal. Cochran's Q takes their errors to be known,
    which those of three seeds are not."""
    value, freedom = effects["value"].to_numpy(float), effects["freedom"].to_numpy(float)
    weights = 1 / effects["error"].to_numpy(float) ** 2
    count, mean = len(value), np.average(value, weights=weights)
    spread = ((1 - weights / weights.sum()) ** 2 / freedom).sum()
    between = (weights * (value - mean) ** 2).sum() / (count - 1)
    f = between / (1 + 2 * (count - 2) / (count**2 - 1) * spread)
    return float(stats.f.sf(f, count - 1, (count**2 - 1) / (3 * spread))) if spread else 1.0
