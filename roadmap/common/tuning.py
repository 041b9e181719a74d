"""The rule by which a study chooses a value for each network: the launcher applies it, and the analysis checks it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TypeVar

T = TypeVar("T")


def best_value(scores: Mapping[T, Sequence[float]]) -> T | None:
    """The value with the highest mean score over its runs, and of equal ones the smallest.

    A score is NaN if the run diverged. Values with which fewer runs diverged come first: a rate that trains with some
    seeds only is not the best. None if no run of any value trained.
    """
    ranked = []
    for value in sorted(scores, key=lambda value: (isinstance(value, str), value)):
        trained = [score for score in scores[value] if not math.isnan(score)]
        if trained:
            ranked.append((len(trained) - len(scores[value]), fmean(trained), value))
    return max(ranked, key=lambda entry: entry[:2])[-1] if ranked else None
