"""How a measured ladder agrees with the published one: step by step, and in the order of its rungs."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from analysis.estimates import CONFIDENCE

SEEDS = 3
"""Of the published standard deviations."""
DRAWS = 2000
FEWEST_RUNGS = 3
"""That have an order to speak of."""


class Agreement(NamedTuple):
    """Counts of steps, of the adopted ones and the side branches together, and how alike the order of the rungs is."""

    clear: int
    """Published changes beyond twice their noise; the next four counts are among these."""
    measured: int
    same_sign: int
    confirmed: int
    """The same sign, and the verdict says so."""
    contradicted: int
    """The verdict says the opposite."""
    unknown: int
    """Published changes whose noise the paper does not tell."""
    tau: float
    """Kendall's tau-b of measured and published accuracies, with its interval. NaN for fewer than three rungs."""
    tau_low: float
    tau_high: float
    rho: float
    """Spearman's rho of the same."""
    rho_low: float
    rho_high: float


def paper_table(ladder: pd.DataFrame) -> pd.DataFrame:
    """One row per step whose change was published: a rung of `ladder_table` with a parent.

    `rung`, `title`, `section`, `adopted`; measured: `change` (points), its 95 % interval `low`, `high`, `verdict`;
    published: `published_change`, its standard deviation `published_noise` (both rungs' over seeds, NaN where one is
    not told), `clear` (beyond twice that; NA); and `same_sign` (NA where nothing is measured, or a change is 0).
    `attrs` are the ladder's.
    """
    deviation = ladder.set_index("rung")["published_std"]
    table = ladder[ladder["published_change"].notna()].reset_index(drop=True)
    table["published_noise"] = np.hypot(table["published_std"], table["reference"].map(deviation))
    clear = table["published_change"].abs() > 2 * table["published_noise"]
    table["clear"] = clear.astype("boolean").where(table["published_noise"].notna())
    product = table["change"].astype(float) * table["published_change"]
    table["same_sign"] = (product > 0).astype("boolean").where(product.notna() & (product != 0))
    columns = ["rung", "title", "section", "adopted", "change", "low", "high", "verdict"]
    columns += ["published_change", "published_noise", "clear", "same_sign"]
    return table[columns]


def agreement(ladder: pd.DataFrame) -> Agreement:
    """What `paper_table` adds up to, and the rank correlations of measured and published accuracies.

    The rungs are fixed, so the intervals are of what noise does to the ranks: accuracies are drawn around the measured
    ones, as wide as their intervals, and around the published ones with their standard error. Noise makes rankings
    look less alike than they are: a correlation of means is nearer to 0 than that of true accuracies, and those of
    draws are nearer still. So an interval has the draws' quantiles and their reflections at the estimate, and is rather
    too wide (docs/analysis.md). Only where the true order is the paper's to the last rung it is too low: differences
    below the noise cannot show that. NaN where a rung has one seed; a published rung without a noise is taken as exact.
    """
    table = paper_table(ladder)
    clear = table[table["clear"].fillna(False).astype(bool)]
    says = clear["verdict"].map({"up": 1, "down": -1}).astype(float) * np.sign(clear["published_change"])
    return Agreement(
        clear=len(clear),
        measured=int(clear["change"].notna().sum()),
        same_sign=int(clear["same_sign"].sum()),
        confirmed=int((says > 0).sum()),
        contradicted=int((says < 0).sum()),
        unknown=int(table["published_noise"].isna().sum()),
        **_ranks(ladder),
    )


def kendall(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Kendall's tau-b along the last axis: of every row at once, which `scipy.stats.kendalltau` is slow at."""
    first, second = np.triu_indices(one.shape[-1], 1)
    signs = [np.sign(values[..., first] - values[..., second]) for values in (one, other)]
    untied = [(sign**2).sum(axis=-1) for sign in signs]
    return (signs[0] * signs[1]).sum(axis=-1) / np.sqrt(untied[0] * untied[1])


def spearman(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Spearman's rho along the last axis."""
    ranks = [stats.rankdata(values, axis=-1) for values in (one, other)]
    ranks = [rank - rank.mean(axis=-1, keepdims=True) for rank in ranks]
    squares = [(rank**2).sum(axis=-1) for rank in ranks]
    return (ranks[0] * ranks[1]).sum(axis=-1) / np.sqrt(squares[0] * squares[1])


def _ranks(ladder: pd.DataFrame) -> dict[str, float]:
    measured = ladder[ladder["mean"].notna() & ladder["published_top1"].notna()]
    names = [f"{name}{end}" for name in ("tau", "rho") for end in ("", "_low", "_high")]
    if len(measured) < FEWEST_RUNGS:
        return dict.fromkeys(names, math.nan)
    here, there = (measured[name].to_numpy(float) for name in ("mean", "published_top1"))
    # Normal draws whose 95 % are the interval, whatever the degrees of freedom that made it.
    width = (measured["mean_high"] - measured["mean_low"]).to_numpy(float)
    noise_here = width / 2 / stats.norm.ppf((1 + CONFIDENCE) / 2)
    noise_there = np.nan_to_num(measured["published_std"].to_numpy(float)) / math.sqrt(SEEDS)
    generator = np.random.default_rng(0)
    drawn_here, drawn_there = (
        values + noise * generator.standard_normal((DRAWS, len(values)))
        for values, noise in ((here, noise_here), (there, noise_there))
    )
    found = []
    for correlation in (kendall, spearman):
        with np.errstate(invalid="ignore"):  # all rungs alike have no order
            value, drawn = float(correlation(here, there)), correlation(drawn_here, drawn_there)
        low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist()
        if np.isnan([value, *noise_here]).any():
            low = high = math.nan
        found += [value, max(min(low, 2 * value - high), -1.0), min(max(high, 2 * value - low), 1.0)]
    return dict(zip(names, found, strict=True))
