"""How far a measured ladder agrees with the published one: step by step, and in the order of the rungs."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from analysis.measures import VERDICTS
from analysis.statistics.estimates import CONFIDENCE, SOME_STOPPED
from analysis.statistics.ladder import named

SEEDS = 3
"""Seeds behind a published standard deviation."""
DRAWS = 2000
"""Draws of all accuracies, for the intervals of rank correlations."""
ORDERS = 50_000
"""Random orders of rungs, for the probability that signs agree by chance."""
FEWEST_RUNGS = 3
"""The fewest rungs with a rank correlation."""


class Agreement(NamedTuple):
    """Counts of changes, of adopted steps and side branches together, and rank correlations of the rungs."""

    published: int
    measured: int
    """Published changes that are also measured; the next five counts are among these."""
    shown: int
    """Changes that the verdict shows, in either direction."""
    same_way: int
    """Changes that are shown, in the direction that the paper finds."""
    opposite: int
    """Changes that are shown, in the opposite direction."""
    only_here: int
    """Changes that are shown, where the paper finds about 0."""
    judged: int
    """Changes whose sign is compared: those with a clear published sign or, if the paper gives no noise, all but 0."""
    same_sign: int
    """Changes among `judged` with the same sign, shown or not."""
    chance: float
    """The probability of at least as many same signs if all orders of the rungs were equally likely. NaN if none is
    judged."""
    tau: float
    """Kendall's tau-b of measured and published accuracies, with its interval. NaN for fewer than three rungs."""
    tau_low: float
    tau_high: float
    rho: float
    """Spearman's rho of the same accuracies."""
    rho_low: float
    rho_high: float


def paper_table(ladder: pd.DataFrame) -> pd.DataFrame:
    """One row per step whose change was published: a rung of `ladder_table` with a reference.

    `rung`, `reference`, `title`, `section`, `adopted`; measured: `change` (points), its 95 % interval `low`, `high`,
    `verdict`, `survivors` (NaN, and "hardly trained", if either network collapsed: that is evidence for neither
    direction); published: `published_change`, its standard deviation `published_noise` (from both rungs' over seeds; a
    missing deviation is taken to be the ladder's largest, and `noise_assumed` says so), `published_verdict`: "up" or
    "down" beyond twice that noise, else "about 0", and "" if the ladder has no deviations at all; and `same_sign` (NA
    if nothing is measured, runs of either network were stopped early, or a change is 0). `attrs` are the ladder's.
    """
    deviations = ladder.set_index("rung")["published_std"].astype(float)
    table = named(ladder[ladder["published_change"].notna()].reset_index(drop=True))
    collapsed = ladder["rung"][ladder["collapsed"]]
    failed = table["change"].notna() & table[["rung", "reference"]].isin(collapsed.tolist()).any(axis=1)
    measured = ["change", "low", "high"]
    table[measured] = table[measured].astype(float).mask(failed)
    table["verdict"] = table["verdict"].astype(object).mask(failed, "hardly trained")
    both = pd.DataFrame({side: deviations.reindex(table[side]).to_numpy() for side in ("rung", "reference")})
    table["noise_assumed"] = both.isna().any(axis=1) & deviations.notna().any()
    table["published_noise"] = np.hypot(*both.fillna(deviations.max()).to_numpy().T)
    published, noise = table["published_change"], table["published_noise"]
    clear = [published > 2 * noise, published < -2 * noise, noise.isna()]
    table["published_verdict"] = np.select(clear, [*VERDICTS, ""], "about 0").astype(object)
    product = table["change"].astype(float) * published
    is_fair = table["verdict"] != SOME_STOPPED
    table["same_sign"] = (product > 0).astype("boolean").where(product.notna() & (product != 0) & is_fair)
    columns = ["rung", "reference", "title", "section", "adopted", "change", "low", "high", "verdict", "survivors"]
    columns += ["published_change", "published_noise", "noise_assumed", "published_verdict", "same_sign"]
    return table[columns]


def agreement_table(table: pd.DataFrame) -> pd.DataFrame:
    """The numbers of measured changes in `paper_table` by the paper's verdict, "up", "down" or "about 0" (rows), and
    by the verdict here, "up", "down" or "not shown" (columns). Changes without a published verdict are not counted."""
    measured = table[table["change"].notna()]
    here = measured["verdict"].where(measured["verdict"].isin(VERDICTS), "not shown")
    counts = pd.crosstab(measured["published_verdict"], here)
    counts = counts.reindex(index=[*VERDICTS, "about 0"], columns=[*VERDICTS, "not shown"], fill_value=0)
    return counts.rename_axis(index="published", columns="here")


def agreement(ladder: pd.DataFrame) -> Agreement:
    """The counts of `paper_table`, and the rank correlations of measured and published accuracies.

    The rungs are fixed, so the intervals show the effect of noise on the ranks: accuracies are drawn around those
    measured, as wide as their intervals, and around the published ones, with their standard error. Noise makes rankings
    look less alike than they are: the correlation of means is nearer to 0 than that of true accuracies, and those of
    draws are nearer still. So an interval contains the draws' quantiles and their reflections at the estimate, and is
    rather too wide (docs/analysis.md). It is too low only if the true order is the paper's down to the last rung:
    differences below the noise cannot show that. NaN if a rung has one seed; a published rung without a deviation is
    taken to be exact.
    """
    table = paper_table(ladder)
    measured, counts = table[table["change"].notna()], agreement_table(table)
    judged = measured[published_ways(measured).isin(VERDICTS) & measured["same_sign"].notna()]
    same = int(judged["same_sign"].sum())
    return Agreement(
        published=len(table),
        measured=len(measured),
        shown=int(measured["verdict"].isin(VERDICTS).sum()),
        same_way=int(sum(counts.loc[verdict, verdict] for verdict in VERDICTS)),
        opposite=int(counts.loc["up", "down"] + counts.loc["down", "up"]),
        only_here=int(counts.loc["about 0", list(VERDICTS)].sum()),
        judged=len(judged),
        same_sign=same,
        chance=_chance(judged, same),
        **_ranks(ladder),
    )


def published_ways(table: pd.DataFrame) -> pd.Series:
    """The published verdicts of `paper_table`; if the paper gives no noise, "up" and "down" by sign alone."""
    change = table["published_change"]
    signs = np.select([change > 0, change < 0], VERDICTS, "about 0").astype(object)
    return table["published_verdict"].where(table["published_verdict"] != "", signs)


def _chance(judged: pd.DataFrame, same: int) -> float:
    """The probability that at least as many signs agree by chance. Changes that share a rung are not independent, so
    random orders of the rungs are drawn, all equally likely: as if the rungs differed by noise alone."""
    if judged.empty:
        return math.nan
    names = pd.unique(judged[["rung", "reference"]].to_numpy().ravel())
    rungs, references = (pd.Index(names).get_indexer(judged[side]) for side in ("rung", "reference"))
    orders = np.tile(np.arange(len(names), dtype=np.int16), (ORDERS, 1))
    ranks = np.random.default_rng(0).permuted(orders, axis=1)
    same_signs = np.sign(ranks[:, rungs] - ranks[:, references]) == np.sign(judged["published_change"].to_numpy())
    return float((same_signs.sum(axis=1) >= same).mean())


def kendall(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Kendall's tau-b along the last axis: for every row at once, which is faster than `scipy.stats.kendalltau`."""
    first, second = np.triu_indices(x.shape[-1], 1)
    signs = [np.sign(values[..., first] - values[..., second]) for values in (x, y)]
    untied = [(sign**2).sum(axis=-1) for sign in signs]
    return (signs[0] * signs[1]).sum(axis=-1) / np.sqrt(untied[0] * untied[1])


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's rho along the last axis."""
    ranks = [stats.rankdata(values, axis=-1) for values in (x, y)]
    ranks = [rank - rank.mean(axis=-1, keepdims=True) for rank in ranks]
    squares = [(rank**2).sum(axis=-1) for rank in ranks]
    return (ranks[0] * ranks[1]).sum(axis=-1) / np.sqrt(squares[0] * squares[1])


def _ranks(ladder: pd.DataFrame) -> dict[str, float]:
    measured = ladder[ladder["mean"].notna() & ladder["published_top1"].notna()]
    names = [f"{name}{end}" for name in ("tau", "rho") for end in ("", "_low", "_high")]
    if len(measured) < FEWEST_RUNGS:
        return dict.fromkeys(names, math.nan)
    here, there = (measured[name].to_numpy(float) for name in ("mean", "published_top1"))
    # Normal draws, 95 % of them inside the interval, whatever degrees of freedom it had.
    width = (measured["mean_high"] - measured["mean_low"]).to_numpy(float)
    noise_here = width / 2 / stats.norm.ppf((1 + CONFIDENCE) / 2)
    noise_there = np.nan_to_num(measured["published_std"].to_numpy(float)) / math.sqrt(SEEDS)
    generator = np.random.default_rng(0)
    drawn_here, drawn_there = (
        values + noise * generator.standard_normal((DRAWS, len(values)))
        for values, noise in ((here, noise_here), (there, noise_there))
    )
    ends = []
    for correlation in (kendall, spearman):
        with np.errstate(invalid="ignore"):  # rungs that are all equal have no order
            value, drawn = float(correlation(here, there)), correlation(drawn_here, drawn_there)
        low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist()
        if np.isnan([value, *noise_here]).any():
            low = high = math.nan
        ends += [value, max(min(low, 2 * value - high), -1.0), min(max(high, 2 * value - low), 1.0)]
    return dict(zip(names, ends, strict=True))
