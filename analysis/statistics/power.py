"""How many seeds a planned study needs: to show a change of a given size, or that there is none worth mentioning."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy import stats

from analysis.statistics.comparison import Comparison
from analysis.statistics.effects import effect_table
from analysis.statistics.estimates import CONFIDENCE
from analysis.statistics.factors import factors
from analysis.statistics.ladder import default_ladder
from analysis.statistics.noise import DOUBTFUL, FEWEST, PRIOR, Scores, matrix, noise

POWER = 0.8
"""The probability that a study with this many seeds shows the change."""
MOST_SEEDS = 100_000
"""More are not searched for."""
QUANTILES = (np.arange(2000) + 0.5) / 2000
"""Of the estimated variance, over which the power to show that a change is negligible is averaged."""


class RunNoise(NamedTuple):
    """The noise of a run, as records show it."""

    deviation: float
    """Standard deviation of a run's result, without what a seed adds to all networks."""
    freedom: float
    """Degrees of freedom of `deviation`."""
    networks: int
    """Networks with replicates that it is estimated from."""

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of `deviation`."""
        ends = stats.chi2.ppf([(1 + CONFIDENCE) / 2, (1 - CONFIDENCE) / 2], self.freedom)
        low, high = self.deviation * np.sqrt(self.freedom / ends)
        return float(low), float(high)


def run_noise(scores: Scores) -> RunNoise | None:
    """The noise that the networks of a comparison have in common; None where fewer than `FEWEST` have replicates."""
    replicated = {key: values for key, values in scores.items() if len(values) > 1 and key not in scores.separate}
    pooled = {key: values for key, values in replicated.items() if key in scores.pooled}
    used = pooled if len(pooled) >= FEWEST else replicated
    if len(used) < FEWEST:
        return None
    estimated = noise(matrix([*used.values()]), True, scores.least)
    return RunNoise(math.sqrt(estimated.common), estimated.total, len(used)) if estimated.common > 0 else None


def tests_of(comparison: Comparison) -> int:
    """The size of the largest family of changes that a report of these runs tests together, once all are done: those of
    the ladder, of leaving one out, of adding one in, or of added steps; or, of crossed switches, the main effects, the
    interactions, or the effects of one at each level of another. Means over random orders do not count: their noise is
    that of the orders."""
    runs = comparison.runs.assign(left_out="", score=50.0)
    done = replace(comparison, runs=runs)
    ladder = default_ladder(done)
    effects = effect_table(done)
    kinds = effects[effects["effect"].notna() & ~effects["kind"].isin(("road", "shapley"))]["kind"]
    families = [int(ladder["change"].notna().sum()), *kinds.value_counts().tolist()]
    if factorial := factors(done):
        families.append(int(factorial.effects["effect"].notna().sum()))
        families.append(int(factorial.interactions["interaction"].notna().sum()))
        simple = factorial.simple_effects[factorial.simple_effects["effect"].notna()]
        families += simple.groupby(["factor", "other"]).size().tolist()
    return max(families)


PowerOf = Callable[[int], float]
"""The power of a study with this many seeds."""


def seeds_needed(
    change: float, deviation: float, networks: int, tests: int = 1, looks: int = 1, power: float = POWER
) -> int | None:
    """The fewest seeds of each network that show a true change of this size with this probability.

    Args:
        change: the true change, in the unit of `deviation`.
        deviation: the standard deviation of a run's result, without what a seed adds to all networks.
        networks: networks of the study, all with the same seeds, which estimate each other's noise.
        tests: changes in the family. A change is shown if its p is below 0.05 / tests: the level that Holm's correction
            sets for the first of them to be shown. 1: by the change's own p.
        looks: planned looks at the results, among which the level is split.

    Returns:
        None if MOST_SEEDS are not enough.
    """
    level = _level(tests, looks)
    return _fewest(lambda seeds: power_to_show(change, deviation, seeds, networks, level), power)


def seeds_to_exclude(
    margin: float, deviation: float, networks: int, tests: int = 1, looks: int = 1, power: float = POWER
) -> int | None:
    """The fewest seeds of each network that show, if a change is truly 0, that it is negligible: within ±`margin`, by
    two one-sided tests. The other arguments, and the result, are those of `seeds_needed`."""
    level = _level(tests, looks)
    return _fewest(lambda seeds: power_to_exclude(margin, deviation, seeds, networks, level), power)


def power_to_show(change: float, deviation: float, seeds: int, networks: int, level: float) -> float:
    """The probability that a two-sided t test at this level shows a true change, by the noncentral t distribution."""
    freedom = planned_freedom(seeds, networks)
    limit, size = stats.t.isf(level / 2, freedom), abs(change) / _error(deviation, seeds)
    other_side = np.nan_to_num(stats.nct.cdf(-limit, freedom, size))  # scipy's NaN is a chance below 1e-12
    return float(stats.nct.sf(limit, freedom, size) + other_side)


def power_to_exclude(margin: float, deviation: float, seeds: int, networks: int, level: float) -> float:
    """The probability that two one-sided t tests, each at this level, show that a true change of 0 is within ±`margin`.

    Given the estimated standard error, the estimate must be nearer to 0 than `margin` less so many standard errors; the
    probability of that is averaged over the distribution of the estimated variance.
    """
    freedom, error = planned_freedom(seeds, networks), _error(deviation, seeds)
    estimated = error * np.sqrt(stats.chi2.ppf(QUANTILES, freedom) / freedom)
    reach = np.maximum(margin - stats.t.isf(level, freedom) * estimated, 0.0)
    return float((2 * stats.norm.cdf(reach / error) - 1).mean())


def planned_freedom(seeds: int, networks: int) -> float:
    """The degrees of freedom that `estimate` gives the change between two networks of a study without missing runs.

    The fit of networks and seeds leaves each network (seeds - 1) (networks - 1) / networks; the common variance counts
    as up to `PRIOR` more, on average three quarters of that; two networks that are as noisy have twice the sum
    (Satterthwaite), but no more than all networks together. With fewer than `FEWEST` networks it is the textbook's
    paired t: seeds - 1.
    """
    if networks < FEWEST:
        return seeds - 1
    own = (seeds - 1) * (networks - 1) / networks
    return min(2 * (PRIOR * (1 - DOUBTFUL / 2) + own), own * networks)


def _error(deviation: float, seeds: int) -> float:
    """The standard error of the difference of two means."""
    return deviation * math.sqrt(2 / seeds)


def _level(tests: int, looks: int) -> float:
    return (1 - CONFIDENCE) / max(tests, 1) / max(looks, 1)


def _fewest(power_of: PowerOf, power: float) -> int | None:
    """The smallest number of seeds with this power, which grows with their number: by bisection."""
    low, high = 1, 2
    while power_of(high) < power:
        low, high = high, 2 * high
        if low >= MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(middle) >= power else (middle, high)
    return high
