"""Any network against any other."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from analysis.comparison import Comparison
from analysis.estimates import compare


def contrast(
    comparison: Comparison, a: str | Iterable[str], b: str | Iterable[str], value: str | None = None
) -> pd.Series:
    """What the network `a` has more than the network `b`: a claim of its own, so nothing is corrected.

    `a` and `b`: a rung's name, a network's (`comparison.runs["network"]`), or a set of steps. `value`: the main metric,
    or any numeric column of a run.

    `network`, `reference`, the names of the two; `n`, `n_reference` seeds that trained; `mean`, `mean_reference`;
    `change`, their difference, in units of `value`; its 95 % interval `low`, `high`, `p`, `p_holm` (equal to it),
    `detectable`, `error`, `freedom`, `method`, `verdict` (`compare`); and `survivors`, whether some run of either
    diverged, so that the change is that of those that trained.

    Raises:
        ValueError: if there is no such network, none of its runs is finished, or the two are one.
    """
    first, second = comparison.key(a), comparison.key(b)
    if first == second:
        raise ValueError(f"{comparison.name(first)} is both of the networks to compare; name two")
    scores = comparison.scores(value)
    one, other = (scores.get(key, pd.Series(dtype=float)) for key in (first, second))
    sides = {
        **{"network": comparison.name(first), "reference": comparison.name(second)},
        **{"n": len(one), "n_reference": len(other), "mean": one.mean(), "mean_reference": other.mean()},
    }
    (row,) = compare(scores, [{first: 1.0, second: -1.0}]).rename(columns={"value": "change"}).to_dict("records")
    return pd.Series(sides | row | {"survivors": any(comparison.diverged[key] for key in (first, second))})
