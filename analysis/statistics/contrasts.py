"""Any network compared with any other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from analysis.sources.correct_images import Correct
from analysis.sources.rows import TOP1
from analysis.statistics.comparison import Comparison
from analysis.statistics.estimates import compare
from analysis.statistics.image_noise import image_noise


def contrast(
    comparison: Comparison,
    a: str | Iterable[str],
    b: str | Iterable[str],
    value: str | None = None,
    *,
    correct: Mapping[str, Correct] | None = None,
) -> pd.Series:
    """By how much the network `a` exceeds the network `b`: a single test, so there is no correction.

    `a` and `b`: a rung's name, a network's (`comparison.runs["network"]`), or a set of steps. `value`: the main metric,
    or any numeric column of a run.

    `network`, `reference`, the names of the two; `n`, `n_reference` seeds that finished; `mean`, `mean_reference`;
    `change`, their difference, in units of `value`; its 95 % interval `low`, `high`, `p`, `p_holm` (equal to it),
    `detectable`, `error`, `freedom`, `method`, `verdict` (`compare`); and `survivors`, whether some run of either
    diverged or was stopped early, so that the change is that of the runs that finished. With `Runs.correct`, also
    `images`, `image_error`, `other_low`, `other_high`, `other_p`, `other_p_holm`, `other_verdict`, for other images of
    the same kind (`image_noise`).

    Raises:
        ValueError: if there is no such network or value, none of its runs is finished, or both are the same.
    """
    first, second = comparison.key(a), comparison.key(b)
    if first == second:
        raise ValueError(f"{comparison.name(first)} is both of the networks to compare; name two")
    scores = comparison.scores(value)
    of_a, of_b = (scores.get(key, pd.Series(dtype=float)) for key in (first, second))
    sides = {
        **{"network": comparison.name(first), "reference": comparison.name(second)},
        **{"n": len(of_a), "n_reference": len(of_b), "mean": of_a.mean(), "mean_reference": of_b.mean()},
    }
    sums = [{first: 1.0, second: -1.0}]
    of_seeds = compare(scores, sums)
    table = of_seeds.rename(columns={"value": "change"})
    if correct and value in (None, TOP1):
        table = table.join(image_noise(comparison, correct, sums, of_seeds))
    (row,) = table.to_dict("records")
    return pd.Series(sides | row | {"survivors": comparison.has_survivors(first, second)})
