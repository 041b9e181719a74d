"""How far series of seeds differ, and how sure that is. docs/analysis.md has the reasons.

Three seeds tell little about a step's own noise, and sixteen steps tell much about the noise of steps. So each
variance is drawn towards what all of them say, as far as they agree: Smyth's moderated t (2004), whose intervals are
Student's where the steps' noises differ widely, and those of a pooled estimate where they are alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

CONFIDENCE = 0.95
POWER = 0.8
"""The chance to show a change that `detectable` stands for."""
FEWEST = 4
"""Variances from which something is said about the spread of variances."""


class Estimate(NamedTuple):
    """A mean of seeds, or a difference of two, before it is known how sure it is. NaN where there is none."""

    value: float = math.nan
    variance: float = math.nan
    """Of one seed's value, or of one pair's difference."""
    share: float = math.nan
    """The estimate's variance is this share of it: 1 / n."""
    freedom: float = 0.0
    """Degrees of freedom of `variance`; 0: one seed, no noise known."""
    method: str = ""
    """"t", "paired t", "Welch t", or "" where seeds are too few for an interval."""


def mean(values: pd.Series) -> Estimate:
    """The mean of seeds."""
    if values.empty:
        return Estimate()
    if len(values) < 2:
        return Estimate(values.mean())
    return Estimate(values.mean(), values.var(ddof=1), 1 / len(values), len(values) - 1, "t")


def difference(values: pd.Series, before: pd.Series) -> Estimate:
    """Mean of `values` minus mean of `before`, both indexed by seed.

    The same seeds on both sides are paired, for a seed fixes the order of the data and the augmentation; other seeds
    are independent samples of unequal variance (Welch). With a single seed on a side its noise is not known.
    """
    if values.empty or before.empty:
        return Estimate()
    value = values.mean() - before.mean()
    if min(len(values), len(before)) < 2:
        return Estimate(value)
    if set(values.index) == set(before.index):
        return mean(values - before)._replace(value=value, method="paired t")
    squares = np.array([stats.sem(values) ** 2, stats.sem(before) ** 2])
    counts = np.array([len(values), len(before)])
    share = (1 / counts).sum() / 2  # so that `variance` is one pair's, as above
    # Welch and Satterthwaite's degrees of freedom; where neither side varies, any serve
    freedom = squares.sum() ** 2 / (squares**2 / (counts - 1)).sum() if squares.any() else counts.sum() - 2
    return Estimate(value, squares.sum() / share, share, float(freedom), "Welch t")


def compare(estimates: Sequence[Estimate], confidence: float = CONFIDENCE) -> pd.DataFrame:
    """What can be said of these estimates, which are of one kind: their noises are moderated together.

    Returns:
        A row an estimate: `value`; `low`, `high`, its confidence interval; `p`, of the hypothesis that it is 0, and
        `p_holm`, corrected for the number of them; `detectable`, the smallest value that would be shown (p < 0.05)
        with probability 0.8; `error`, `freedom`, `method`; `verdict`: "up" or "down" if `p_holm` says so, "not
        distinguishable", "one seed" where nothing is known of the noise, "" where there is no estimate.
    """
    table = pd.DataFrame(estimates, columns=Estimate._fields)
    variance, freedom = moderate(table["variance"].to_numpy(float), table["freedom"].to_numpy(float))
    known = freedom > 0
    error = np.sqrt(variance * table["share"])
    safe = np.where(known, freedom, 1.0)
    margin = (stats.t.ppf((1 + confidence) / 2, safe) * error).where(known)
    p = pd.Series(_p(table["value"].to_numpy(), error.to_numpy(), safe)).where(known)
    holm = adjust(p)
    return pd.DataFrame(
        {
            "value": table["value"],
            "low": table["value"] - margin,
            "high": table["value"] + margin,
            "p": p,
            "p_holm": holm,
            "detectable": [
                detectable(*one) if sure else math.nan for *one, sure in zip(error, safe, known, strict=True)
            ],
            "error": error.where(known),
            "freedom": np.where(known, freedom, math.nan),
            "method": table["method"],
            "verdict": [_verdict(*one, 1 - confidence) for one in zip(table["value"], holm, strict=True)],
        }
    )


def moderate(variance: np.ndarray, freedom: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each variance drawn towards what all of them say, and the degrees of freedom that it then has.

    The variances are taken as s0^2 chi^2(d) / d-distributed around true ones, which scatter around s0^2 like a scaled
    inverse chi^2 with d0 degrees of freedom; d0 and s0^2 are estimated from the moments of log variances (Smyth,
    "Linear models and empirical Bayes methods", 2004, section 6.2). With fewer than four of them nothing is changed.
    """
    usable = (freedom > 0) & (variance > 0)
    if usable.sum() < FEWEST:
        return variance, freedom
    found, d = variance[usable], freedom[usable]
    logs = np.log(found) - special.digamma(d / 2) + np.log(d / 2)
    spread = logs.var(ddof=1) - special.polygamma(1, d / 2).mean()
    known = freedom > 0
    if spread <= 0:  # no more than chance scatters them: one noise for all
        pooled = np.average(found, weights=d)
        return np.where(known, pooled, variance), np.where(known, d.sum(), 0.0)
    d0 = 2 * _inverse_trigamma(spread)
    s0 = math.exp(logs.mean() + special.digamma(d0 / 2) - math.log(d0 / 2))
    drawn = (d0 * s0 + freedom * variance) / (d0 + freedom)
    # one step's noise can be known no better than if all were one
    return np.where(known, drawn, variance), np.where(known, np.minimum(d0 + freedom, d.sum()), 0.0)


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
        return 0.0
    limit = stats.t.ppf((1 + confidence) / 2, freedom)

    def lacking(size: float) -> float:
        other_side = np.nan_to_num(stats.nct.cdf(-limit, freedom, size))  # scipy's NaN is a chance below 1e-12
        return stats.nct.sf(limit, freedom, size) + other_side - power

    return error * optimize.brentq(lacking, 0.0, 2 * limit + 5)


def _p(value: np.ndarray, error: np.ndarray, freedom: np.ndarray) -> np.ndarray:
    """Two-sided. Values that never varied are sure: 0 for a change, 1 for none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.abs(value) / error
    return np.where(error > 0, 2 * stats.t.sf(ratio, freedom), np.where(value == 0, 1.0, 0.0))


def _verdict(value: float, p_holm: float, limit: float) -> str:
    if math.isnan(value):
        return ""
    if math.isnan(p_holm):
        return "one seed"
    if p_holm >= limit:
        return "not distinguishable"
    return "up" if value > 0 else "down"


def _inverse_trigamma(value: float) -> float:
    return optimize.brentq(lambda log: special.polygamma(1, math.exp(log)) - value, math.log(1e-6), math.log(1e8))
