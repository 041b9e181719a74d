"""The uncertainty of weighted sums of networks' means. docs/analysis.md has the reasons and the simulations.

Every number that is reported of a comparison is such a sum: a rung's accuracy (weight 1), the change of a step (1 and
-1), a Shapley value (64 weights). `analysis.statistics.noise` estimates how far a network's runs scatter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize, stats

from analysis.statistics.noise import FEWEST, Noise, Scores, matrix, noise

Weights = Mapping[Any, float]
"""The weights of networks' means in a sum."""

CONFIDENCE = 0.95
POWER = 0.95
"""The nominal power of `detectable`: the chance to show such a change if the noise and its degrees of freedom were as
estimated. In simulated ladders it is 0.70 with two seeds, 0.78 with three, and more with more (docs/analysis.md)."""
FEWEST_DEGREES = 3
"""With fewer degrees of freedom, the noise is too uncertain to say what would be detected."""
NEGLIGIBLE = ("p_negligible", "p_negligible_holm", "negligible")
"""The columns that a margin adds."""
ONE_SEED, NO_NOISE, SOME_STOPPED = "one seed", "noise unknown", "some stopped"


class Estimate(NamedTuple):
    """A weighted sum of means. NaN if there is none; `error` and `freedom` also if its noise is unknown."""

    value: float = math.nan
    error: float = math.nan
    """Standard error of `value`."""
    freedom: float = math.nan
    """Degrees of freedom of `error`."""
    method: str = ""
    """"t" for a single mean, "paired t" for a contrast of networks with the same seeds, else "Welch t"; "" if there is
    no error."""
    lacking: str = ""
    """Why there is no error: "one seed"; "noise unknown" if measured values agree by coincidence; or "some stopped" if
    runs of a network were ended early for being low, so that the mean of the others is too high."""


def compare(
    scores: Scores,
    sums: Sequence[Weights],
    borrow: bool = False,
    confidence: float = CONFIDENCE,
    margin: float | None = None,
) -> pd.DataFrame:
    """`conclude` for the `estimate` of each of these weighted sums, at one of the looks of `scores`. The change of a
    network that hardly trained is never negligible."""
    margins = None
    if margin is not None:
        margins = [math.nan if any(key in scores.collapsed for key in weights) else margin for weights in sums]
    return conclude(estimate(scores, sums, borrow), scores.looks, confidence, margins)


def conclude(
    estimates: Sequence[Estimate],
    looks: int,
    confidence: float = CONFIDENCE,
    margin: float | Sequence[float] | None = None,
) -> pd.DataFrame:
    """Intervals, p-values and verdicts for estimates that form one family of hypotheses.

    Args:
        looks: planned looks at the results, 1 without a plan. The level is split evenly: corrected p-values are so many
            times as large.
        margin: nearer than this to 0 an estimate is negligible; one for all or for each, NaN if that is not tested.

    Returns:
        One row per estimate: `value`; `low`, `high`, its confidence interval; `p`, of the hypothesis that it is 0, and
        `p_holm`, corrected for the number of hypotheses and of looks; `detectable`, the smallest value that would be
        shown about four times in five, at the level that the correction sets for the next value to be shown, NaN if the
        noise is too uncertain to say; `error`, `freedom`, `method` (`Estimate`); `verdict`: "up" or "down" if `p_holm`
        is small enough, else "not distinguishable", `Estimate.lacking` if there is no error, "" if a network has no
        runs.

        With a margin also `p_negligible`, of the hypothesis that the true value is not within ±`margin` (two one-sided
        tests); `p_negligible_holm`, corrected like `p_holm`, as a family of its own; and `negligible`, whether that is
        small enough. A value may be negligible and still have a verdict "up" or "down": small, but not 0.
    """
    table = pd.DataFrame(estimates, columns=Estimate._fields)
    value, error, freedom = (table[name].to_numpy(float) for name in ("value", "error", "freedom"))
    half_width = stats.t.ppf((1 + confidence) / 2, freedom) * error
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stats.t.sf(np.abs(value) / error, freedom)
    p = np.where(error == 0, np.where(value == 0, 1.0, 0.0), p)  # counts have no noise
    table["low"], table["high"] = value - half_width, value + half_width
    table["p"], table["p_holm"] = p, adjust(pd.Series(p), looks)
    limit = 1 - confidence
    unshown = int((table["p_holm"] >= limit).sum())
    level = limit / looks / max(unshown, 1)  # Holm's level for the next one
    well_known = np.where((freedom < FEWEST_DEGREES) & (error > 0), np.nan, error)
    table["detectable"] = [detectable(*row, 1 - level) for row in zip(well_known, freedom, strict=True)]
    table["verdict"] = [_verdict(*row, limit) for row in zip(value, table["p_holm"], table["lacking"], strict=True)]
    columns = ["value", "low", "high", "p", "p_holm", "detectable", "error", "freedom", "method", "verdict"]
    if margin is None:
        return table[columns]
    room = np.asarray(margin, float) - np.abs(value)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = stats.t.sf(room / error, freedom)
    p = np.where((error == 0) & ~np.isnan(room), np.where(room > 0, 0.0, 1.0), p)
    table["p_negligible"], table["p_negligible_holm"] = p, adjust(pd.Series(p), looks)
    table["negligible"] = table["p_negligible_holm"] < limit
    return table[[*columns, *NEGLIGIBLE]]


def estimate(scores: Scores, sums: Sequence[Weights], borrow: bool = False) -> list[Estimate]:
    """Each sum with its standard error.

    Args:
        scores: the values of the networks of a comparison. The noise of those in the sums, and of the pooled ones, is
            estimated together; the others do not matter.
        borrow: take a network with one seed to be as noisy as the others, instead of its noise being unknown; unless
            it collapsed.
    """
    involved = scores.pooled.union(*sums)
    keys = [key for key, values in scores.items() if key in involved and len(values)]
    if not keys:
        return [Estimate() for _ in sums]
    values = matrix([scores[key] for key in keys])
    collapsed = np.array([key in scores.separate for key in keys])
    few = ((np.isfinite(values).sum(axis=1) > 1) & ~collapsed).sum() < FEWEST
    settings = scores.least, scores.counted, collapsed
    unpaired_noise, paired_noise = noise(values, False, *settings), noise(values, True, *settings)
    row_of = {key: row for row, key in enumerate(keys)}
    estimates = []
    for weights in sums:
        if not all(key in row_of for key in weights):
            estimates.append(Estimate())
            continue
        rows = [row_of[key] for key in weights]
        is_biased = not scores.stopped.isdisjoint(weights)
        selected, weight = values[rows], np.fromiter(weights.values(), float)
        present = ~np.isnan(selected)
        # What a seed adds to every network cancels in a contrast of networks that share their seeds.
        paired = bool(abs(weight.sum()) < 1e-9 and (present == present[0]).all())
        if paired and few:  # the textbook's paired t, of this contrast alone
            of_rows = noise(selected, True, scores.least, scores.counted)
        else:
            of_rows = (paired_noise if paired else unpaired_noise).of(rows)
        borrows = np.array([borrow and key not in scores.collapsed for key in weights])
        one_suffices = borrows | (scores.counted & (of_rows.variance == 0))
        result = _estimate(weight, selected, of_rows, paired, one_suffices)
        estimates.append(Estimate(result.value, lacking=SOME_STOPPED) if is_biased else result)
    return estimates


def _estimate(weight: np.ndarray, values: np.ndarray, noise: Noise, paired: bool, one_suffices: np.ndarray) -> Estimate:
    """A sum of the means of these rows. `one_suffices`: whether one seed of a network is enough."""
    counts, means = np.isfinite(values).sum(axis=1), np.nanmean(values, axis=1)
    value = float(weight @ means)
    value = value if abs(value) > 1e-12 * float(np.abs(weight) @ np.abs(means)) else 0.0  # a rounding error
    if not ((counts > 1) | one_suffices).all():
        return Estimate(value, lacking=ONE_SEED)
    if not (noise.freedom > 0).all():
        return Estimate(value, lacking=ONE_SEED if (counts == 1).any() else NO_NOISE)
    method = "paired t" if paired else "t" if len(weight) == 1 else "Welch t"
    parts = weight**2 * noise.variance / counts
    error = math.sqrt(parts.sum())
    # Welch and Satterthwaite's degrees of freedom; if nothing varies, any will do
    satterthwaite = parts.sum() ** 2 / (parts**2 / noise.freedom).sum() if error else math.inf
    return Estimate(value, error, min(satterthwaite, noise.total), method)


def adjust(p: pd.Series, looks: int) -> pd.Series:
    """Holm's correction of the p-values that are not NaN, at one of several planned looks."""
    from statsmodels.stats.multitest import multipletests  # here: half a second that a run table does not need

    known = p.dropna()
    if known.empty:
        return p
    corrected = np.minimum(looks * multipletests(known, method="holm")[1], 1.0)
    return pd.Series(corrected, known.index).reindex(p.index)


def detectable(error: float, freedom: float, confidence: float = CONFIDENCE, power: float = POWER) -> float:
    """The smallest true change that an estimate with this standard error would show to be significant.

    "Would show": with probability `power`, in a two-sided t test of this change alone at the level 1 - `confidence`.
    """
    if not error > 0:
        return error
    # Cached for each tenth of a degree of freedom, which changes it by up to 1 %.
    return error * _detectable_errors(round(freedom, 1), confidence, power)


@cache
def _detectable_errors(freedom: float, confidence: float, power: float) -> float:
    """`detectable`, in standard errors."""
    limit = stats.t.ppf((1 + confidence) / 2, freedom)

    def excess_power(size: float) -> float:
        other_side = np.nan_to_num(stats.nct.cdf(-limit, freedom, size))  # scipy's NaN is a chance below 1e-12
        return stats.nct.sf(limit, freedom, size) + other_side - power

    upper = limit
    while excess_power(upper) < 0:
        upper *= 2
    return optimize.brentq(excess_power, 0.0, upper)


def _verdict(value: float, p_holm: float, lacking: str, limit: float) -> str:
    if math.isnan(value):
        return ""
    if math.isnan(p_holm):
        return lacking
    if p_holm >= limit:
        return "not distinguishable"
    return "up" if value > 0 else "down"
