"""How sure weighted sums of networks' means are. docs/analysis.md has the reasons and the simulations.

All that is reported of a comparison is such a sum: a rung's accuracy (weight 1), what a step changed (1 and -1), a
Shapley value (64 weights). `analysis.statistics.noise` says how far a network's runs scatter.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize, stats

from analysis.statistics.noise import FEWEST, Noise, Scores, matrix, noise

Weights = Mapping[Hashable, float]
"""The weights of networks' means in a sum."""

CONFIDENCE = 0.95
POWER = 0.95
"""The chance to show a change that `detectable` stands for, if the noise and its degrees of freedom were what they are
taken to be. In simulated ladders it is 0.70 with two seeds, 0.78 with three, and more with more (docs/analysis.md)."""
FEWEST_DEGREES = 3
"""Of freedom: with fewer, the noise is known too badly to say what would be detected."""
ONE_SEED, NO_NOISE = "one seed", "noise unknown"


class Estimate(NamedTuple):
    """A weighted sum of means. NaN where there is none, or where nothing is known of its noise."""

    value: float = math.nan
    error: float = math.nan
    """Its standard error."""
    freedom: float = math.nan
    """Degrees of freedom of `error`."""
    method: str = ""
    """"t" for a single mean, "paired t" for a contrast of networks that have the same seeds, else "Welch t"; ""
    where there is no error."""
    lacking: str = ""
    """Why there is no error: "one seed"; "noise unknown", where measured values agree by coincidence."""


def compare(
    scores: Scores, sums: Sequence[Weights], borrow: bool = False, confidence: float = CONFIDENCE
) -> pd.DataFrame:
    """What can be said of these weighted sums: `conclude` of `estimate`."""
    return conclude(estimate(scores, sums, borrow), confidence)


def conclude(estimates: Sequence[Estimate], confidence: float = CONFIDENCE) -> pd.DataFrame:
    """What can be said of estimates that are one family of hypotheses.

    Returns:
        A row per estimate: `value`; `low`, `high`, its confidence interval; `p`, of the hypothesis that it is 0, and
        `p_holm`, corrected for the number of them; `detectable`, the smallest value that would be shown about four
        times in five, after the correction as it stands for those that are not shown, NaN where the noise is known too
        badly to say; `error`, `freedom`, `method` (`Estimate`); `verdict`: "up" or "down" if `p_holm` says so, "not
        distinguishable", `Estimate.lacking` where there is no error, "" where a network has no runs.
    """
    table = pd.DataFrame(estimates, columns=Estimate._fields)
    value, error, freedom = (table[name].to_numpy(float) for name in ("value", "error", "freedom"))
    margin = stats.t.ppf((1 + confidence) / 2, freedom) * error
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stats.t.sf(np.abs(value) / error, freedom)
    p = np.where(error == 0, np.where(value == 0, 1.0, 0.0), p)  # what is counted is sure
    table["low"], table["high"] = value - margin, value + margin
    table["p"], table["p_holm"] = p, adjust(pd.Series(p))
    limit = 1 - confidence
    unshown = int((table["p_holm"] >= limit).sum())
    level = limit / max(unshown, 1)  # what Holm asks of the next one
    well_known = np.where((freedom < FEWEST_DEGREES) & (error > 0), np.nan, error)
    table["detectable"] = [detectable(*one, 1 - level) for one in zip(well_known, freedom, strict=True)]
    verdicts = zip(value, table["p_holm"], table["lacking"], strict=True)
    table["verdict"] = [_verdict(*one, limit) for one in verdicts]
    return table[["value", "low", "high", "p", "p_holm", "detectable", "error", "freedom", "method", "verdict"]]


def estimate(scores: Scores, sums: Sequence[Weights], borrow: bool = False) -> list[Estimate]:
    """Each sum with its standard error.

    Args:
        scores: of the networks of the comparison. The noise of those in the sums, and of the pooled ones, is
            estimated together; what the others did does not matter.
        borrow: a network with one seed has the noise of the others, instead of an unknown one; unless it collapsed.
    """
    asked = scores.pooled.union(*sums)
    keys = [key for key, values in scores.items() if key in asked and len(values)]
    if not keys:
        return [Estimate() for _ in sums]
    values = matrix([scores[key] for key in keys])
    collapsed = np.array([key in scores.collapsed for key in keys])
    few = ((np.isfinite(values).sum(axis=1) > 1) & ~collapsed).sum() < FEWEST
    about = scores.least, scores.counted, collapsed
    alone, paired = noise(values, False, *about), noise(values, True, *about)
    places = {key: place for place, key in enumerate(keys)}
    found = []
    for weights in sums:
        if not all(key in places for key in weights):
            found.append(Estimate())
            continue
        rows = [places[key] for key in weights]
        own, weight = values[rows], np.fromiter(weights.values(), float)
        there = ~np.isnan(own)
        # What a seed adds to every network leaves a contrast of networks that share their seeds.
        pairs = bool(abs(weight.sum()) < 1e-9 and (there == there[0]).all())
        if pairs and few:  # each contrast stands for itself: the textbook's paired t
            of_rows = noise(own, True, scores.least, scores.counted)
        else:
            of_rows = (paired if pairs else alone).of(rows)
        borrows = np.array([borrow and key not in scores.collapsed for key in weights])
        found.append(_estimate(weight, own, of_rows, pairs, borrows | (scores.counted & (of_rows.variance == 0))))
    return found


def _estimate(weight: np.ndarray, values: np.ndarray, noise: Noise, pairs: bool, alone: np.ndarray) -> Estimate:
    """A sum of the means of these rows. `alone`: whether a network's noise is known if it has a single seed."""
    counts, means = np.isfinite(values).sum(axis=1), np.nanmean(values, axis=1)
    value = float(weight @ means)
    value = value if abs(value) > 1e-12 * float(np.abs(weight) @ np.abs(means)) else 0.0  # but for rounding
    if not ((counts > 1) | alone).all():
        return Estimate(value, lacking=ONE_SEED)
    if not (noise.freedom > 0).all():
        return Estimate(value, lacking=ONE_SEED if (counts == 1).any() else NO_NOISE)
    method = "paired t" if pairs else "t" if len(weight) == 1 else "Welch t"
    parts = weight**2 * noise.variance / counts
    error = math.sqrt(parts.sum())
    # Welch and Satterthwaite's degrees of freedom; where nothing varies, any serve
    satterthwaite = parts.sum() ** 2 / (parts**2 / noise.freedom).sum() if error else math.inf
    return Estimate(value, error, min(satterthwaite, noise.total), method)


def adjust(p: pd.Series) -> pd.Series:
    """Holm's correction of the p-values that are there."""
    from statsmodels.stats.multitest import multipletests  # here: half a second that a run table does not need

    there = p.dropna()
    if there.empty:
        return p
    return pd.Series(multipletests(there, method="holm")[1], there.index).reindex(p.index)


def detectable(error: float, freedom: float, confidence: float = CONFIDENCE, power: float = POWER) -> float:
    """The smallest true change that an estimate with this standard error would show to be none of chance.

    "Would show": with probability `power`, by a two-sided t test at 1 - `confidence`, of this change alone.
    """
    if not error > 0:
        return error
    return error * _detectable_errors(round(freedom, 1), confidence, power)  # tenths of a degree change it by 1 in 100


@cache
def _detectable_errors(freedom: float, confidence: float, power: float) -> float:
    """`detectable` in standard errors."""
    limit = stats.t.ppf((1 + confidence) / 2, freedom)

    def lacking(size: float) -> float:
        other_side = np.nan_to_num(stats.nct.cdf(-limit, freedom, size))  # scipy's NaN is a chance below 1e-12
        return stats.nct.sf(limit, freedom, size) + other_side - power

    most = limit
    while lacking(most) < 0:
        most *= 2
    return optimize.brentq(lacking, 0.0, most)


def _verdict(value: float, p_holm: float, lacking: str, limit: float) -> str:
    if math.isnan(value):
        return ""
    if math.isnan(p_holm):
        return lacking
    if p_holm >= limit:
        return "not distinguishable"
    return "up" if value > 0 else "down"
