"""How far the values of a network's seeds scatter: an estimate for every network that uses what the others say.

Three seeds tell little of one network's noise, so each variance is drawn towards that of all networks. But a network
that collapsed, or one run that did, must not decide on the others: what scatters more than chance allows leaves the fit
of the seeds' effects, counts in the common variance as far as chance allows and no further, and stands on its own
degrees of freedom. This is limma's robust moderation (Phipson et al. 2016) with a fixed prior, since three seeds cannot
tell how much variances differ. docs/analysis.md has the simulations that chose the constants.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

PRIOR = 2.0
"""Degrees of freedom that the common variance counts for, at most, beside a network's own."""
DOUBTFUL = 0.5
"""From this chance of a larger variance downwards the common variance counts less, in proportion to the chance."""
OUTLIER = 0.01
"""The chance of a larger variance below which a network is an outlier."""
FEWEST = 4
"""Networks with replicates, from which they say something about each other's noise."""
ROUNDS = 20
"""The most rounds of deciding which networks are outliers; two or three suffice."""


class Scores(dict[Hashable, pd.Series]):
    """Of networks, the values of their runs, indexed by seed; and what is known of these values."""

    def __init__(
        self,
        values: Mapping[Hashable, pd.Series],
        least: float = 0.0,
        counted: bool = False,
        pooled: Iterable[Hashable] = (),
        collapsed: Iterable[Hashable] = (),
    ) -> None:
        """
        Args:
            values: by network.
            least: the smallest standard deviation that a value can have: an accuracy's is one image.
            counted: the values are counted, not measured (multiply-adds), so that equal ones are exact.
            pooled: networks whose noise is always used, besides those that are asked about.
            collapsed: networks that did not train. They neither say how far others scatter, nor are they given the
                others' noise.
        """
        super().__init__(values)
        self.least, self.counted = least, counted
        self.pooled, self.collapsed = frozenset(pooled), frozenset(collapsed)


class Noise(NamedTuple):
    """One entry per network."""

    variance: np.ndarray
    freedom: np.ndarray
    """Degrees of freedom of `variance`; 0 where it is not known."""
    total: float
    """Of all variances together: no sum has more."""
    outlier: np.ndarray
    """Whether the network scatters more than chance allows."""
    common: float
    """The variance of the networks together, outliers cut; NaN if each stands for itself."""

    def of(self, rows: list[int]) -> Noise:
        """That of these networks."""
        return self._replace(variance=self.variance[rows], freedom=self.freedom[rows], outlier=self.outlier[rows])


class Scatter(NamedTuple):
    """How far values lie from what is fitted to them, one entry per network."""

    squares: np.ndarray
    freedom: np.ndarray
    larger: np.ndarray
    """The chance of a variance as large or larger, beside the median of all; 1 where too few say something."""
    aside: np.ndarray
    """Whether a network is not to be compared with the others: it collapsed."""

    @property
    def outlier(self) -> np.ndarray:
        """The networks that stand on their own seeds alone."""
        return (self.larger < OUTLIER) | self.aside

    @property
    def pooled(self) -> np.ndarray:
        """The networks that say something about each other's noise, if there are enough of them."""
        return (self.freedom > 0) & ~self.aside

    @property
    def is_still(self) -> bool:
        """Whether most of these do not vary at all: their seeds are none."""
        return bool(self.pooled.sum() >= FEWEST and not np.median(self.squares[self.pooled]))


def matrix(scores: Sequence[pd.Series]) -> np.ndarray:
    """The values of networks, a row each, a column per seed; NaN where there is no run."""
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
    aside: np.ndarray | None = None,
) -> Noise:
    """The noise of networks, from a `matrix` of their values; `least` and `counted` are those of `Scores`, and `aside`
    says which networks collapsed.

    Paired, it is what networks and seeds, added up, leave over: a seed fixes the order of the data and the
    augmentation, so it moves all networks alike, and contrasts of networks with the same seeds are free of that.
    """
    return moderate(scatter(values, paired, least, aside), least, counted)


def scatter(values: np.ndarray, paired: bool = False, least: float = 0.0, aside: np.ndarray | None = None) -> Scatter:
    """What networks leave over of their values, or, paired, networks and seeds that are fitted to those networks which
    are no outliers."""
    there = ~np.isnan(values)
    counts = there.sum(axis=1)
    aside = np.zeros(len(values), bool) if aside is None else aside
    deviations = np.where(there, values - np.nanmean(values, axis=1, keepdims=True), 0.0)
    deviations[np.abs(deviations) <= 1e-10 * np.nanmax(np.abs(values), axis=1, keepdims=True)] = 0.0  # rounding
    # The first guess at the effects of seeds is a median: one run that is far off would move a mean.
    replicated = there & (counts[:, None] > 1) & ~aside[:, None]
    guess = np.ma.median(np.ma.masked_array(deviations, ~replicated), axis=0).filled(0.0) if paired else 0.0
    larger = _larger(_about(guess, deviations, there), counts - 1.0, aside, least)
    for _ in range(ROUNDS):
        outlier = larger < OUTLIER
        squares, freedom = _left_over(deviations, there, outlier | aside, paired)
        larger = _larger(squares, freedom, aside, least)
        if ((larger < OUTLIER) == outlier).all():
            break
    return Scatter(squares, freedom, larger, aside)


def moderate(left: Scatter, least: float = 0.0, counted: bool = False) -> Noise:
    """Variances from sums of squares, each drawn towards the common one as if that were known from `PRIOR` more.

    It is drawn less the less likely chance alone makes a variance as large as its own, and an outlier's not at all.
    With fewer than `FEWEST` to say something, each stands for itself.
    """
    freedom, outlier = left.freedom, left.outlier
    known = freedom > 0
    total = float(freedom[~outlier].sum() or freedom.sum())
    if counted and not left.squares.any():
        return Noise(np.zeros(len(freedom)), np.full(len(freedom), total), total, outlier, 0.0)
    squares = np.maximum(left.squares, least**2 * freedom)
    variance = np.divide(squares, freedom, out=np.full(len(squares), np.nan), where=known)
    if left.is_still:
        return Noise(variance, np.zeros(len(freedom)), total, outlier, np.nan)
    common, pooled = 0.0, left.pooled
    if pooled.sum() >= FEWEST:
        own, of_pooled = squares[pooled], freedom[pooled]
        limits = _scale(own, of_pooled) * stats.f.isf(OUTLIER, of_pooled, of_pooled.sum())
        common = np.minimum(own, limits * of_pooled).sum() / of_pooled.sum()
    if not common:  # each stands for itself; and measured values that agree are a coincidence, not certainty
        return Noise(variance, np.where(variance > 0, freedom, 0.0), total, outlier, np.nan)
    larger = np.ones(len(squares))
    larger[known] = stats.f.sf(variance[known] / common, freedom[known], total)
    prior = PRIOR * np.where(outlier, 0.0, np.minimum(larger / DOUBTFUL, 1.0))
    freedom = prior + freedom
    drawn = np.divide(prior * common + squares, freedom, out=np.full(len(squares), np.nan), where=freedom > 0)
    return Noise(drawn, freedom, total, outlier, common)


def _larger(squares: np.ndarray, freedom: np.ndarray, aside: np.ndarray, least: float) -> np.ndarray:
    """The chance of variances as large or larger, beside the median of all, which half of them cannot move."""
    chances, known = np.ones(len(squares)), (freedom > 0) & ~aside
    if known.sum() < FEWEST:
        return chances
    squares, freedom = np.maximum(squares, least**2 * freedom)[known], freedom[known]
    with np.errstate(divide="ignore", invalid="ignore"):  # most may have no noise
        ratio = squares / freedom / _scale(squares, freedom)
    chances[known] = np.nan_to_num(stats.f.sf(ratio, freedom, freedom.sum()), nan=1.0)
    return chances


def _scale(squares: np.ndarray, freedom: np.ndarray) -> float:
    """The variance that most networks have."""
    return float(np.median(squares / stats.chi2.median(freedom)))


def _left_over(
    deviations: np.ndarray, there: np.ndarray, outlier: np.ndarray, paired: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Each network's sum of squares, and its degrees of freedom. Paired, about the least-squares effects of seeds on
    the networks that are no outliers."""
    counts = there.sum(axis=1)
    freedom = counts - 1.0
    if not paired:
        return _about(0.0, deviations, there), freedom
    # Each network's part of the normal matrix, its mean taken out, also tells how many degrees of freedom of a network
    # the fit takes.
    fitted = there & ~outlier[:, None]
    parts = fitted[:, :, None] * (np.eye(there.shape[1]) - fitted[:, None, :] / counts[:, None, None])
    inverse = np.linalg.pinv(parts.sum(axis=0), hermitian=True)
    effects = inverse @ (fitted * deviations).sum(axis=0)
    freedom = freedom - np.einsum("nij,ji->n", parts, inverse)
    return _about(effects, deviations, there), np.where(freedom > 1e-6, freedom, 0.0)


def _about(effects: np.ndarray | float, deviations: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Sums of squares, by network, of what seeds' effects leave of deviations from the mean."""
    left = np.where(there, deviations - effects, 0.0)
    left = np.where(there, left - left.sum(axis=1, keepdims=True) / there.sum(axis=1, keepdims=True), 0.0)
    return (left**2).sum(axis=1)
