"""Whether the noise of a comparison looks like what its intervals assume; docs/analysis.md says what happens if not."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from analysis.comparison import Comparison
from analysis.measures import measure
from analysis.noise import FEWEST, Scatter, matrix, scatter
from analysis.text import chance, listing

DOUBT = 0.01
"""The chance below which the report speaks of halves that differ."""
UNEQUAL = 0.05
"""And of variances: since the largest is left out, it does so in one sound study of a hundred."""
NAMED = 4
"""Networks that a sentence names."""


def noise_concerns(comparison: Comparison) -> list[str]:
    """Sentences on what the seeds of the road's rungs do that the statistics do not expect; empty if nothing."""
    scores, road = comparison.scores(), comparison.road
    rungs = [steps for steps in (frozenset(rung.steps) for rung in road.rungs) if len(scores.get(steps, ())) > 1]
    if len(rungs) < FEWEST:
        return []
    values = matrix([scores[steps] for steps in rungs])
    found = scatter(values, paired=True, least=scores.least)
    names = [road.name_of(steps) for steps in rungs]
    lines = [
        _on_outliers(names, found, measure(comparison.metric).unit),
        _on_variances(unequal_variances(found, scores.least)),
        _on_halves(seeds_by_half(values[~found.outlier])),
    ]
    return [line for line in lines if line]


def unequal_variances(found: Scatter, least: float = 0.0) -> float:
    """The p-value of Bartlett's test that networks have the same noise, all but the one that has the most: a single
    collapse is no sign that others differ. NaN for too few."""
    known = found.freedom > 0
    squares, freedom = found.squares[known], found.freedom[known]
    if len(freedom) <= FEWEST:
        return math.nan
    used = np.argsort(squares / freedom)[:-1]
    freedom, squares = freedom[used], np.maximum(squares[used], least**2 * freedom[used])
    if not squares.all():
        return math.nan
    total, groups = freedom.sum(), len(freedom)
    statistic = total * math.log(squares.sum() / total) - (freedom * np.log(squares / freedom)).sum()
    correction = 1 + ((1 / freedom).sum() - 1 / total) / (3 * (groups - 1))
    return float(stats.chi2.sf(statistic / correction, groups - 1))


def seeds_by_half(values: np.ndarray) -> float:
    """The p-value of the F test that a seed does the same to the first half of these networks as to the second; NaN
    for too few. Of networks, a row each in the road's order, those with all seeds count."""
    values = values[~np.isnan(values).any(axis=1)]
    networks, seeds = values.shape
    if networks < FEWEST or seeds < 2:
        return math.nan
    deviations = values - values.mean(axis=1, keepdims=True)
    together = _left(deviations)
    apart = sum(map(_left, np.array_split(deviations, 2)))
    extra, freedom = seeds - 1, (networks - 2) * (seeds - 1)
    if not apart > 0:
        return math.nan
    return float(stats.f.sf((together - apart) / extra / (apart / freedom), extra, freedom))


def _left(deviations: np.ndarray) -> float:
    return float(((deviations - deviations.mean(axis=0)) ** 2).sum())


def _on_outliers(names: list[str], found: Scatter, unit: str) -> str:
    if not found.outlier.any():
        return ""
    with np.errstate(invalid="ignore"):
        spread = np.sqrt(found.squares / found.freedom)
    others = math.sqrt(found.squares[~found.outlier].sum() / found.freedom[~found.outlier].sum())
    places = np.flatnonzero(found.outlier)
    words = [f"{names[place]} ({spread[place]:.2f})" for place in places[:NAMED]]
    more = [f"{len(places) - NAMED} more"] if len(places) > NAMED else []
    one, unit = len(places) == 1, f" {unit}" if unit else ""
    return (
        f"{listing(words + more)} {'varies' if one else 'vary'} far more between seeds than the other rungs "
        f"({others:.2f}{unit}): the intervals of changes from and to {'it' if one else 'them'} rest on "
        f"{'its' if one else 'their'} own seeds alone. By chance one network in a hundred does that."
    )


def _on_variances(p: float) -> str:
    if not p < UNEQUAL:
        return ""
    return (
        f"The rungs’ noise differs more than chance would have it (Bartlett’s test, p {_is(p)}). So few seeds do not "
        "tell which rungs are the noisy ones, so verdicts on them are wrong more often than in one study of twenty, "
        "and their intervals too narrow: more seeds would help."
    )


def _on_halves(p: float) -> str:
    if not p < DOUBT:
        return ""
    return (
        f"A seed does not do the same to the first half of the road as to the second (F test, p {_is(p)}), so a change "
        "from rungs of one half to rungs of the other is less sure than its interval says."
    )


def _is(p: float) -> str:
    text = chance(p)
    return text if text.startswith("<") else f"= {text}"
