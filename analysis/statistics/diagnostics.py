"""Whether the noise of a comparison is as its intervals assume; docs/analysis.md says what happens if it is not."""

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
"""The p-value below which an outlier (corrected for the number of networks) or a difference of halves is reported."""
UNEQUAL = 0.05
"""The p-value below which unequal variances are reported; without the largest, that is one sound study in sixty."""
NAMED = 4
"""The most networks that a sentence names."""


def noise_concerns(comparison: Comparison) -> list[str]:
    """Sentences on how the noise departs from what the statistics assume: for single networks of a comparison, and for
    all of the road's rungs. Empty if it does not."""
    scores, road = comparison.scores(), comparison.road
    beside = _on_collapsed_networks(comparison)
    replicated = [key for key, values in scores.items() if len(values) > 1]
    rungs = [steps for steps in (frozenset(rung.steps) for rung in road.rungs) if steps in replicated]
    keys = [*rungs, *(key for key in replicated if key not in rungs)]
    if len(keys) < FEWEST:
        return beside
    values, collapsed = matrix([scores[key] for key in keys]), np.array([key in scores.separate for key in keys])
    names, unit = [*map(comparison.name, keys)], measure(comparison.metric).unit
    return concerns(values, len(rungs), names, scores.least, unit, collapsed) + beside


def _on_collapsed_networks(comparison: Comparison) -> list[str]:
    """A sentence on those that are no rungs; the report's findings name the rungs."""
    rungs = {frozenset(rung.steps) for rung in comparison.road.rungs}
    means = [mean for key, mean in comparison.collapsed.items() if key not in rungs]
    if not means:
        return []
    reach = " to ".join(dict.fromkeys(f"{end:.2f} %" for end in (min(means), max(means))))
    return [f"{len(means)} {'network' if len(means) == 1 else 'networks'} beside the rungs hardly trained ({reach})."]


def concerns(
    values: np.ndarray,
    rungs: int,
    names: Sequence[str] | None = None,
    least: float = 0.0,
    unit: str = "points",
    collapsed: np.ndarray | None = None,
) -> list[str]:
    """`noise_concerns` of a `matrix` of values whose first rows are the rungs, in the road's order."""
    networks = scatter(values, True, least, collapsed)
    if networks.is_constant:
        return [
            "Most networks have the same result with every seed. Does the seed reach the runs? Nothing has an interval."
        ]
    lines = _on_outliers(names or [*map(str, range(len(values)))], networks, unit)
    if not rungs:
        return lines
    road = scatter(values[:rungs], True, least, networks.collapsed[:rungs])
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
    """The p-value of Bartlett's test that networks have the same noise, without the noisiest one: a single collapse is
    no sign that others differ. NaN for too few."""
    known = scattered.pooled
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
    """The p-value of the F test that seeds have the same effects on the first half of these networks as on the second;
    NaN for too few. One row per network, in the road's order; only those with all seeds count."""
    values = values[~np.isnan(values).any(axis=1)]
    networks, seeds = values.shape
    if networks < FEWEST or seeds < 2:
        return math.nan
    deviations = values - values.mean(axis=1, keepdims=True)
    together = _residual_squares(deviations)
    apart = sum(map(_residual_squares, np.array_split(deviations, 2)))
    extra, freedom = seeds - 1, (networks - 2) * (seeds - 1)
    if not apart > 0:
        return math.nan
    return float(stats.f.sf((together - apart) / extra / (apart / freedom), extra, freedom))


def _residual_squares(deviations: np.ndarray) -> float:
    return float(((deviations - deviations.mean(axis=0)) ** 2).sum())


def _on_outliers(names: Sequence[str], scattered: Scatter, unit: str) -> list[str]:
    outliers = np.flatnonzero((scattered.larger < DOUBT / len(names)) & ~scattered.collapsed).tolist()
    if not outliers:
        return []
    squares, freedom, usual = scattered.squares, np.maximum(scattered.freedom, 1), ~scattered.outlier
    deviation = math.sqrt(squares[usual].sum() / scattered.freedom[usual].sum())
    words = [f"{names[row]} ({math.sqrt(squares[row] / freedom[row]):.2f})" for row in outliers]
    vary, them, their = ("varies", "it", "its") if len(outliers) == 1 else ("vary", "them", "their")
    return [
        f"{shortened(words, NAMED)} {vary} far more between seeds than other networks do "
        f"({f'{deviation:.2f} {unit}'.strip()}), so changes from and to {them} are judged by {their} own seeds alone."
    ]
