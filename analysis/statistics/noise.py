"""How far a network's values scatter between seeds: an estimate for every network that also uses the others.

Three seeds say little about one network's noise, so each variance is shrunk towards that of all networks. But a network
that collapsed, or a single run that did, must not decide on the others: a network that scatters more than chance allows
is left out of the fit of the seeds' effects, counts in the common variance only as far as chance allows, and keeps its
own degrees of freedom. This is limma's robust moderation (Phipson et al. 2016) with a fixed prior, since three seeds
cannot show how much variances differ. docs/analysis.md has the simulations that chose the constants.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

PRIOR = 2.0
"""The most degrees of freedom with which the common variance counts, beside a network's own."""
DOUBTFUL = 0.5
"""Below this probability of a larger variance the common variance counts less, in proportion to the probability."""
OUTLIER = 0.01
"""The probability of a larger variance below which a network is an outlier."""
FEWEST = 4
"""The fewest networks with replicates that are used to estimate each other's noise."""
ROUNDS = 20
"""The most rounds of deciding which networks are outliers; two or three suffice."""


class Scores(dict[Any, pd.Series]):
    """The values of each network's runs, indexed by seed; and what is known about these values."""

    def __init__(
        self,
        values: Mapping[Any, pd.Series],
        least: float = 0.0,
        counted: bool = False,
        pooled: Iterable[Any] = (),
        collapsed: Iterable[Any] = (),
        stopped: Iterable[Any] = (),
        looks: int = 1,
    ) -> None:
        """
        Args:
            values: by network.
            least: the smallest standard deviation that a value can have: an accuracy's is one image.
            counted: the values are counted, not measured (multiply-adds), so that equal values are exact.
            pooled: networks whose noise is always used, besides that of the networks in a sum.
            collapsed: networks that did not train. Their noise and that of the others are estimated separately.
            stopped: networks of which runs were ended early for being low. Their other runs are a biased sample, so
                nothing is tested on them, and their noise is not used for the others.
            looks: planned looks at the results, among which the level of tests is split.
        """
        super().__init__(values)
        self.least, self.counted, self.looks = least, counted, looks
        self.pooled, self.collapsed, self.stopped = frozenset(pooled), frozenset(collapsed), frozenset(stopped)

    @property
    def separate(self) -> frozenset[Any]:
        """The networks whose noise says nothing of that of the others: those that collapsed, or of which runs were
        stopped, so that the others scatter too little."""
        return self.collapsed | self.stopped


class Noise(NamedTuple):
    """One entry per network."""

    variance: np.ndarray
    freedom: np.ndarray
    """Degrees of freedom of `variance`; 0 if it is unknown."""
    total: float
    """Degrees of freedom of all variances together: no sum has more."""
    outlier: np.ndarray
    """Whether the network scatters more than chance allows."""
    common: float
    """The variance of all networks, with outliers limited; NaN if each network is judged by its own runs."""

    def of(self, rows: list[int]) -> Noise:
        """The noise of these networks."""
        return self._replace(variance=self.variance[rows], freedom=self.freedom[rows], outlier=self.outlier[rows])


class Scatter(NamedTuple):
    """How far values are from what is fitted to them, one entry per network."""

    squares: np.ndarray
    freedom: np.ndarray
    larger: np.ndarray
    """The probability of a variance at least as large, given the median of all; 1 if there are too few networks."""
    collapsed: np.ndarray
    """Whether a network collapsed, so that it is not compared with the others."""

    @property
    def outlier(self) -> np.ndarray:
        """The networks that are judged by their own seeds alone."""
        return (self.larger < OUTLIER) | self.collapsed

    @property
    def pooled(self) -> np.ndarray:
        """The networks that are used to estimate each other's noise, if there are enough of them."""
        return (self.freedom > 0) & ~self.collapsed

    @property
    def is_constant(self) -> bool:
        """Whether most of these do not vary between seeds at all."""
        return bool(self.pooled.sum() >= FEWEST and not np.median(self.squares[self.pooled]))


def matrix(scores: Sequence[pd.Series]) -> np.ndarray:
    """The values of networks, one row per network and one column per seed; NaN where there is no run."""
    seeds = {seed: column for column, seed in enumerate({seed: None for values in scores for seed in values.index})}
    table = np.full((len(scores), len(seeds)), np.nan)
    for row, values in zip(table, scores, strict=True):
        row[[seeds[seed] for seed in values.index]] = values
    return table


def noise(
    values: np.ndarray,
    paired: bool = False,
    least: float = 0.0,
    counted: bool = False,
    collapsed: np.ndarray | None = None,
) -> Noise:
    """The noise of networks, from a `matrix` of their values; `least` and `counted` are those of `Scores`, and
    `collapsed` is whether each network collapsed.

    Paired, it is the residual of an additive model of networks and seeds: a seed fixes the order of the data and the
    augmentation, so it moves all networks alike, and contrasts of networks with the same seeds are free of that.
    """
    return moderate(scatter(values, paired, least, collapsed), least, counted)


def scatter(
    values: np.ndarray, paired: bool = False, least: float = 0.0, collapsed: np.ndarray | None = None
) -> Scatter:
    """The residuals of networks' means, or, paired, of an additive model of networks and seeds, fitted to the networks
    that are no outliers."""
    present = ~np.isnan(values)
    counts = present.sum(axis=1)
    collapsed = np.zeros(len(values), bool) if collapsed is None else collapsed
    deviations = np.where(present, values - np.nanmean(values, axis=1, keepdims=True), 0.0)
    deviations[np.abs(deviations) <= 1e-10 * np.nanmax(np.abs(values), axis=1, keepdims=True)] = 0.0  # rounding
    # The first guess of the seeds' effects is a median, since a single run that is far off would move a mean.
    replicated = present & (counts[:, None] > 1) & ~collapsed[:, None]
    guess = np.ma.median(np.ma.masked_array(deviations, ~replicated), axis=0).filled(0.0) if paired else 0.0
    larger = _larger(_squares(guess, deviations, present), counts - 1.0, collapsed, least)
    for _ in range(ROUNDS):
        outlier = larger < OUTLIER
        squares, freedom = _residuals(deviations, present, outlier | collapsed, paired)
        larger = _larger(squares, freedom, collapsed, least)
        if ((larger < OUTLIER) == outlier).all():
            break
    return Scatter(squares, freedom, larger, collapsed)


def moderate(scattered: Scatter, least: float = 0.0, counted: bool = False) -> Noise:
    """Variances from sums of squares, each shrunk towards a common variance that has `PRIOR` degrees of freedom.

    It is shrunk less the less probable a variance as large as its own is by chance, and an outlier's not at all. With
    fewer than `FEWEST` networks, each keeps its own.
    """
    freedom, outlier = scattered.freedom, scattered.outlier
    known = freedom > 0
    total = float(freedom[~outlier].sum() or freedom.sum())
    if counted and not scattered.squares.any():
        return Noise(np.zeros(len(freedom)), np.full(len(freedom), total), total, outlier, 0.0)
    squares = np.maximum(scattered.squares, least**2 * freedom)
    variance = np.divide(squares, freedom, out=np.full(len(squares), np.nan), where=known)
    if scattered.is_constant:
        return Noise(variance, np.zeros(len(freedom)), total, outlier, np.nan)
    common, pooled = 0.0, scattered.pooled
    if pooled.sum() >= FEWEST:
        pooled_squares, pooled_freedom = squares[pooled], freedom[pooled]
        limits = _scale(pooled_squares, pooled_freedom) * stats.f.isf(OUTLIER, pooled_freedom, pooled_freedom.sum())
        common = np.minimum(pooled_squares, limits * pooled_freedom).sum() / pooled_freedom.sum()
    if not common:  # each keeps its own; measured values that agree do so by coincidence, and are not exact
        return Noise(variance, np.where(variance > 0, freedom, 0.0), total, outlier, np.nan)
    larger = np.ones(len(squares))
    larger[known] = stats.f.sf(variance[known] / common, freedom[known], total)
    prior = PRIOR * np.where(outlier, 0.0, np.minimum(larger / DOUBTFUL, 1.0))
    freedom = prior + freedom
    shrunk = np.divide(prior * common + squares, freedom, out=np.full(len(squares), np.nan), where=freedom > 0)
    return Noise(shrunk, freedom, total, outlier, common)


def _larger(squares: np.ndarray, freedom: np.ndarray, collapsed: np.ndarray, least: float) -> np.ndarray:
    """The probability of variances at least as large, given the median of all, which outliers hardly move."""
    larger, known = np.ones(len(squares)), (freedom > 0) & ~collapsed
    if known.sum() < FEWEST:
        return larger
    squares, freedom = np.maximum(squares, least**2 * freedom)[known], freedom[known]
    with np.errstate(divide="ignore", invalid="ignore"):  # most may be constant
        ratio = squares / freedom / _scale(squares, freedom)
    larger[known] = np.nan_to_num(stats.f.sf(ratio, freedom, freedom.sum()), nan=1.0)
    return larger


def _scale(squares: np.ndarray, freedom: np.ndarray) -> float:
    """A robust estimate of the networks' common variance."""
    return float(np.median(squares / stats.chi2.median(freedom)))


def _residuals(
    deviations: np.ndarray, present: np.ndarray, outlier: np.ndarray, paired: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Each network's residual sum of squares, and its degrees of freedom. Paired, given the least-squares effects of
    seeds on the networks that are no outliers."""
    counts = present.sum(axis=1)
    freedom = counts - 1.0
    if not paired:
        return _squares(0.0, deviations, present), freedom
    # Each network's part of the normal matrix, with its mean removed, also gives the degrees of freedom of the network
    # that the fit uses up.
    fitted = present & ~outlier[:, None]
    parts = fitted[:, :, None] * (np.eye(present.shape[1]) - fitted[:, None, :] / counts[:, None, None])
    inverse = np.linalg.pinv(parts.sum(axis=0), hermitian=True)
    effects = inverse @ (fitted * deviations).sum(axis=0)
    freedom = freedom - np.einsum("nij,ji->n", parts, inverse)
    return _squares(effects, deviations, present), np.where(freedom > 1e-6, freedom, 0.0)


def _squares(effects: np.ndarray | float, deviations: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Sums of squares, by network, of deviations from the mean after subtracting seeds' effects."""
    rest = np.where(present, deviations - effects, 0.0)
    rest = np.where(present, rest - rest.sum(axis=1, keepdims=True) / present.sum(axis=1, keepdims=True), 0.0)
    return (rest**2).sum(axis=1)
