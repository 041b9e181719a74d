"""How far two series of seeds differ, and how sure that is."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

CONFIDENCE = 0.95


class Change(NamedTuple):
    """A difference of two means, in the values' unit, with its confidence interval. NaN where there is none."""

    change: float = math.nan
    low: float = math.nan
    high: float = math.nan
    method: str = ""
    """"paired t", "Welch t", or "" where seeds are too few for an interval."""

    @property
    def verdict(self) -> str:
        """What the interval says, in plain words."""
        if math.isnan(self.change):
            return ""
        if math.isnan(self.low):
            return "one seed"
        return "up" if self.low > 0 else "down" if self.high < 0 else "not distinguishable"


def change(values: pd.Series, before: pd.Series, confidence: float = CONFIDENCE) -> Change:
    """Mean of `values` minus mean of `before`, both indexed by seed, with Student's t interval.

    The same seeds on both sides are paired, for a seed fixes the order of the data and the augmentation; other seeds
    are independent samples of unequal variance (Welch). With a single seed on a side there is no interval.
    """
    if values.empty or before.empty:
        return Change()
    paired = set(values.index) == set(before.index)
    method = "paired t" if paired else "Welch t"
    difference = values.mean() - before.mean()
    if min(len(values), len(before)) < 2:
        return Change(difference)
    error, freedom = _paired_error(values - before) if paired else _welch_error(values, before)
    margin = stats.t.ppf((1 + confidence) / 2, freedom) * error if error else 0.0
    return Change(difference, difference - margin, difference + margin, method)


def _paired_error(differences: pd.Series) -> tuple[float, float]:
    """Standard error of the mean difference, and its degrees of freedom."""
    return float(stats.sem(differences)), len(differences) - 1


def _welch_error(values: pd.Series, before: pd.Series) -> tuple[float, float]:
    """Standard error of the difference of means, and Welch and Satterthwaite's degrees of freedom."""
    squares = np.array([stats.sem(values) ** 2, stats.sem(before) ** 2])
    if not squares.any():
        return 0.0, 1.0
    return float(np.sqrt(squares.sum())), float(
        squares.sum() ** 2 / (squares**2 / [len(values) - 1, len(before) - 1]).sum()
    )
