"""How sure weighted sums of networks' means are. docs/analysis.md has the reasons and the simulations.

All that is reported of a comparison is such a sum: a rung's accuracy (weight 1), what a step changed (1 and -1), a
Shapley value (64 weights). Three seeds tell little of one network's noise, and the other networks say something about
it, so each variance is drawn towards that of all. It is drawn by a fixed weight: how much variances differ cannot be
learned from three seeds, and where it is learned all the same (Smyth, 2004), a noisy network gets changes "shown" that
are none, in one study of eight.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize, stats

Scores = Mapping[Hashable, pd.Series]
"""Of every network of a comparison, the values of its runs, indexed by seed."""
Weights = Mapping[Hashable, float]
"""The weights of networks' means in a sum."""

CONFIDENCE = 0.95
POWER = 0.8
"""The chance to show a change that `detectable` stands for."""
PRIOR = 2.0
"""Degrees of freedom that the variance of all networks counts for, beside a network's own."""
FEWEST = 4
"""Networks with replicates, from which they say something about each other's noise."""


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


class Noise(NamedTuple):
    """How far the values of a network's seeds scatter, one entry per network."""

    variance: np.ndarray
    freedom: np.ndarray
    """Degrees of freedom of `variance`; 0 where it is not known."""
    total: float
    """Of all variances together: no sum has more."""


def compare(
    scores: Scores, sums: Sequence[Weights], borrow: bool = False, confidence: float = CONFIDENCE
) -> pd.DataFrame:
    """What can be said of these weighted sums: `conclude` of `estimate`."""
    return conclude(estimate(scores, sums, borrow), confidence)


def conclude(estimates: Sequence[Estimate], confidence: float = CONFIDENCE) -> pd.DataFrame:
    """What can be said of estimates that are one family of hypotheses.

    Returns:
        A row an estimate: `value`; `low`, `high`, its confidence interval; `p`, of the hypothesis that it is 0, and
        `p_holm`, corrected for the number of them; `detectable`, the smallest value that would be shown (p < 0.05)
        with probability 0.8; `error`, `freedom`, `method` (`Estimate`); `verdict`: "up" or "down" if `p_holm` says so,
        "not distinguishable", "one seed" where nothing is known of the noise, "" where a network has no runs.
    """
    table = pd.DataFrame(estimates, columns=Estimate._fields)
    value, error, freedom = (table[name].to_numpy(float) for name in ("value", "error", "freedom"))
    margin = stats.t.ppf((1 + confidence) / 2, freedom) * error
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stats.t.sf(np.abs(value) / error, freedom)
    p = np.where(error == 0, np.where(value == 0, 1.0, 0.0), p)  # what never varies is sure
    table["low"], table["high"] = value - margin, value + margin
    table["p"], table["p_holm"] = p, adjust(pd.Series(p))
    table["detectable"] = [detectable(*one, confidence) for one in zip(error, freedom, strict=True)]
    table["verdict"] = [_verdict(*one, 1 - confidence) for one in zip(value, table["p_holm"], strict=True)]
    return table[["value", "low", "high", "p", "p_holm", "detectable", "error", "freedom", "method", "verdict"]]


def estimate(scores: Scores, sums: Sequence[Weights], borrow: bool = False) -> list[Estimate]:
    """Each sum with its standard error.

    Args:
        scores: of all networks of the comparison, also those in no sum: their noise is estimated together.
        borrow: a network with one seed has the noise of the others, instead of an unknown one.
    """
    scores = {key: values for key, values in scores.items() if len(values)}
    if not scores:
        return [Estimate() for _ in sums]
    values = _matrix(scores.values())
    place = {key: index for index, key in enumerate(scores)}
    few = (np.isfinite(values).sum(axis=1) > 1).sum() < FEWEST
    alone, paired = noise(values), None if few else noise(values, paired=True)
    return [_estimate(weights, place, values, alone, paired, borrow) for weights in sums]


def _estimate(
    weights: Weights,
    place: Mapping[Hashable, int],
    values: np.ndarray,
    alone: Noise,
    paired: Noise | None,
    borrow: bool,
) -> Estimate:
    if not all(key in place for key in weights):
        return Estimate()
    index = [place[key] for key in weights]
    weight = np.fromiter(weights.values(), float)
    own = values[index]
    there = ~np.isnan(own)
    counts = there.sum(axis=1)
    means = np.nanmean(own, axis=1)
    value = float(weight @ means)
    value = value if abs(value) > 1e-12 * float(np.abs(weight) @ np.abs(means)) else 0.0  # but for rounding
    # What a seed adds to every network leaves a contrast of networks that share their seeds.
    pairs = abs(weight.sum()) < 1e-9 and (there == there[0]).all()
    if pairs and paired is None:  # so few networks that each contrast stands for itself: the textbook's paired t
        found, rows = noise(own, paired=True), slice(None)
    else:
        found, rows = (paired if pairs else alone), index
    variance, freedom = found.variance[rows], found.freedom[rows]
    sure = (freedom > 0) & ((counts > 1) | borrow | (variance == 0))
    if not sure.all():
        return Estimate(value)
    method = "paired t" if pairs else "t" if len(index) == 1 else "Welch t"
    parts = weight**2 * variance / counts
    error = math.sqrt(parts.sum())
    # Welch and Satterthwaite's degrees of freedom; where nothing varies, any serve
    satterthwaite = parts.sum() ** 2 / (parts**2 / freedom).sum() if error else math.inf
    return Estimate(value, error, min(satterthwaite, found.total), method)


def noise(values: np.ndarray, paired: bool = False) -> Noise:
    """The noise of networks, moderated: a matrix of networks and seeds, NaN where there is no run.

    Paired, it is what networks and seeds, added up, leave over: a seed fixes the order of the data and the
    augmentation, so it moves all networks alike, and contrasts of networks with the same seeds are free of that.
    """
    there = ~np.isnan(values)
    counts = there.sum(axis=1)
    own = np.where(there, values - np.nanmean(values, axis=1, keepdims=True), 0.0)
    freedom = counts - 1.0
    if paired:
        # Least squares for the effects of seeds, once each network's mean is taken out. `design` is each network's
        # part of the normal matrix, so it also tells how many degrees of freedom of a network the fit takes.
        shared = there[:, :, None] * there[:, None, :] / counts[:, None, None]
        design = there[:, :, None] * np.eye(values.shape[1]) - shared
        inverse = np.linalg.pinv(design.sum(axis=0), hermitian=True)
        effects = there * (inverse @ own.sum(axis=0))
        own = np.where(there, own - effects + effects.sum(axis=1, keepdims=True) / counts[:, None], 0.0)
        freedom = freedom - np.einsum("nij,ji->n", design, inverse)
        freedom = np.where(freedom > 1e-6, freedom, 0.0)
    squares = (own**2).sum(axis=1)
    scale = np.nanmax(np.abs(values), axis=1) ** 2
    squares = np.where(squares > 1e-20 * scale, squares, 0.0)  # equal values, but for rounding
    return moderate(squares, freedom)


def moderate(squares: np.ndarray, freedom: np.ndarray) -> Noise:
    """Variances from sums of squares, each drawn towards that of all as if that were known from `PRIOR` more squares.

    With fewer than `FEWEST` to say something, or if none varies, each stands for itself.
    """
    replicated, total = freedom > 0, float(freedom.sum())
    variance = np.divide(squares, freedom, out=np.full(len(squares), np.nan), where=replicated)
    if replicated.any() and not squares[replicated].any():  # not noise that is small, but none: multiply-adds, say
        return Noise(np.zeros(len(squares)), np.full(len(squares), total), total)
    if replicated.sum() < FEWEST:
        return Noise(variance, freedom, total)
    common = squares[replicated].sum() / freedom[replicated].sum()
    return Noise((PRIOR * common + squares) / (PRIOR + freedom), PRIOR + freedom, total)


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


def _matrix(scores: Sequence[pd.Series]) -> np.ndarray:
    """Networks and seeds, NaN where there is no run."""
    seeds = {seed: column for column, seed in enumerate({seed: None for values in scores for seed in values.index})}
    matrix = np.full((len(scores), len(seeds)), np.nan)
    for row, values in zip(matrix, scores, strict=True):
        row[[seeds[seed] for seed in values.index]] = values
    return matrix


def _verdict(value: float, p_holm: float, limit: float) -> str:
    if math.isnan(value):
        return ""
    if math.isnan(p_holm):
        return "one seed"
    if p_holm >= limit:
        return "not distinguishable"
    return "up" if value > 0 else "down"
