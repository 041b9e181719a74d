"""Whether the noise of a comparison looks like what its intervals assume; docs/analysis.md says what happens if not."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from analysis.measures import measure
from analysis.statistics.comparison import Comparison
from analysis.statistics.noise import FEWEST, Scatter, matrix, scatter
from analysis.text import equals
from roadmap.common.words import shortened

DOUBT = 0.01
"""The chance below which an outlier, of all networks together, or a difference of halves is spoken of."""
UNEQUAL = 0.05
"""The chance below which unequal variances are: as the largest is left out, in one sound study of sixty."""
NAMED = 4
"""The most networks that a sentence names."""


def noise_concerns(comparison: Comparison) -> list[str]:
    """Sentences on what seeds do that the statistics do not expect: to the networks of a comparison, one by one, and to
    the road's rungs together. Empty if nothing."""
    scores, road = comparison.scores(), comparison.road
    beside = _on_collapsed(comparison)
    replicated = [key for key, values in scores.items() if len(values) > 1]
    rungs = [steps for steps in (frozenset(rung.steps) for rung in road.rungs) if steps in replicated]
    keys = [*rungs, *(key for key in replicated if key not in rungs)]
    if len(keys) < FEWEST:
        return beside
    values, collapsed = matrix([scores[key] for key in keys]), np.array([key in scores.collapsed for key in keys])
    names, unit = [*map(comparison.name, keys)], measure(comparison.metric).unit
    return concerns(values, len(rungs), names, scores.least, unit, collapsed) + beside


def _on_collapsed(comparison: Comparison) -> list[str]:
    """On networks that are no rungs: the findings speak of those that are."""
    rungs = {frozenset(rung.steps) for rung in comparison.road.rungs}
    means = [mean for key, mean in comparison.collapsed.items() if key not in rungs]
    if not means:
        return []
    one, reach = len(means) == 1, " to ".join(dict.fromkeys(f"{end:.2f} %" for end in (min(means), max(means))))
    return [f"{len(means)} {'network' if one else 'networks'} beside the rungs hardly trained ({reach})."]


def concerns(
    values: np.ndarray,
    rungs: int,
    names: Sequence[str] | None = None,
    least: float = 0.0,
    unit: str = "points",
    collapsed: np.ndarray | None = None,
) -> list[str]:
    """`noise_concerns` of a `matrix` of values whose first rows are the rungs, in the road's order."""
    everyone = scatter(values, True, least, collapsed)
    if everyone.is_still:
        return [
            "Most networks have the same result with every seed. Does the seed reach the runs? Nothing has an interval."
        ]
    lines = _on_outliers(names or [*map(str, range(len(values)))], everyone, unit)
    if not rungs:
        return lines
    road = scatter(values[:rungs], True, least, everyone.aside[:rungs])
    if (p := unequal_variances(road, least)) < UNEQUAL:
        lines.append(
            f"The rungs’ noise differs more than chance would have it (Bartlett’s test, p {equals(p)}). So few seeds "
            "do not tell which rungs are the noisy ones, so verdicts on them are wrong more often than in one study of "
            "twenty, and their intervals too narrow: more seeds would help."
        )
    if (p := seeds_by_half(values[:rungs][~road.outlier])) < DOUBT:
        lines.append(
            f"A seed does not do the same to the first half of the road as to the second (F test, p {equals(p)}), so a "
            "change from rungs of one half to rungs of the other is less sure than its interval says."
        )
    return lines


def unequal_variances(scattered: Scatter, least: float = 0.0) -> float:
    """The p-value of Bartlett's test that networks have the same noise, all but the one that has the most: a single
    collapse is no sign that others differ. NaN for too few."""
    known = (scattered.freedom > 0) & ~scattered.aside
    squares, freedom = scattered.squares[known], scattered.freedom[known]
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


def _on_outliers(names: Sequence[str], scattered: Scatter, unit: str) -> list[str]:
    places = np.flatnonzero((scattered.larger < DOUBT / len(names)) & ~scattered.aside)
    if not len(places):
        return []
    squares, freedom = scattered.squares, np.maximum(scattered.freedom, 1)
    others = math.sqrt(squares[~scattered.outlier].sum() / scattered.freedom[~scattered.outlier].sum())
    words = [f"{names[place]} ({math.sqrt(squares[place] / freedom[place]):.2f})" for place in places]
    one, unit = len(places) == 1, f" {unit}" if unit else ""
    return [
        f"{shortened(words, NAMED)} {'varies' if one else 'vary'} far more between seeds than other networks do "
        f"({others:.2f}{unit}), so changes from and to {'it' if one else 'them'} are judged by "
        f"{'its' if one else 'their'} own seeds alone."
    ]
