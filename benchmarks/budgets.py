"""Do the intervals of slopes and crossings hold?

    python -m benchmarks.budgets                               # prints the table of docs/budgets.md
    python -m benchmarks.budgets --write docs/budgets.md       # and puts it there

Every row simulates studies of budgets under one condition. The difference of each two neighbouring networks is truly
a line over the binary logarithm of the budget; its slope is the noise of a run per doubling, and it crosses zero at a
third of what was measured. The table says of `analysis.statistics.budgets`: how many of the 95 % intervals of slopes
cover the true one (it should be 95 %), on average and for the pair that is covered least; in how many studies any of
the slopes would be shown to differ from the true one, after Holm's correction (5 % at most); how wide an interval is,
in units of the noise of a run; what is said of the crossing: how often it is placed within what was measured, and how
often what is said is wrong (5 % at most); how often a line is called bent (5 %); and how often the report warns that
a seed does the same with every budget (rarely, except in the last row).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from analysis.report.budgets import SHARED
from analysis.statistics import budgets as lines
from analysis.statistics.estimates import CONFIDENCE, estimate
from analysis.statistics.noise import Scores
from benchmarks.coverage import IMAGE, ladder, tabulate

SEED_EFFECT = 0.6
HEAD = (
    "| noise | slopes covered | worst pair | any verdict wrong | half width "
    "| crossing placed | wrong | called bent | warned |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)
Noise = Callable[[np.random.Generator, tuple[int, int, int]], np.ndarray]
"""Of runs, from their number of budgets, networks and seeds; NaN for a run that is missing."""


class Condition(NamedTuple):
    name: str
    noise: Noise
    budgets: int = 5
    networks: int = 7
    seeds: int = 3


class Result(NamedTuple):
    """Shares, and the median half width of a slope's interval."""

    coverage: float
    worst: float
    wrong: float
    width: float
    placed: float
    misplaced: float
    bent: float
    warned: float


def normal(by_budget: Iterable[float] = (1,), by_network: Iterable[float] = (1,)) -> Noise:
    """Of standard deviations that differ between budgets, or between networks."""
    scales = np.array([*by_budget])[:, None, None] * np.array([*by_network])[None, :, None]
    return lambda generator, shape: scales * generator.normal(size=shape)


def shared(generator: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """Half of the variance of a network's seed is the same with every budget, such as that of its initial weights."""
    return np.sqrt(0.5) * (generator.normal(size=shape) + generator.normal(size=(1, *shape[1:])))


def heavy_tails(generator: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    return generator.standard_t(3, size=shape) / np.sqrt(3)


def missing(generator: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """A fifth of the runs did not finish."""
    return np.where(generator.random(shape) > 0.2, generator.normal(size=shape), np.nan)


CONDITIONS = [
    Condition("all alike: 5 budgets, 7 networks, 3 seeds", normal()),
    Condition("2 seeds", normal(), seeds=2),
    Condition("5 seeds", normal(), seeds=5),
    Condition("3 budgets", normal(), budgets=3),
    Condition("2 budgets", normal(), budgets=2),
    Condition("2 networks, 3 budgets", normal(), budgets=3, networks=2),
    Condition("2 networks, 5 budgets", normal(), networks=2),
    Condition("the smallest budget 4 times as noisy as the largest", normal((2, 1.4, 1, 0.7, 0.5))),
    Condition("the same, 2 networks", normal((2, 1.4, 1, 0.7, 0.5)), networks=2),
    Condition("tails of Student's t, 3 degrees of freedom", heavy_tails),
    Condition("one network 3 times the others’", normal(by_network=(1, 1, 1, 3, 1, 1, 1))),
    Condition("a fifth of the runs missing", missing),
    Condition("half of a seed’s effect the same with every budget", shared),
]


def simulate(condition: Condition, studies: int) -> Result:
    """Simulate so many studies; the same ones in every call."""
    generator = np.random.default_rng(0)
    x, sums = np.arange(condition.budgets, dtype=float), ladder(condition.networks)
    crossing = x[-1] / 3
    p, widths = np.full((2, studies, len(sums)), np.nan)
    warned = np.full(studies, np.nan)
    placed, misplaced, bent = np.full((3, studies, len(sums)), np.nan)
    for study in range(studies):
        shape = condition.budgets, condition.networks, condition.seeds
        values = condition.noise(generator, shape) + SEED_EFFECT * generator.normal(size=(len(x), 1, shape[2]))
        values += np.arange(condition.networks)[:, None] * (x - crossing)[:, None, None]
        if not np.isnan(values).any():
            warned[study] = lines.correlation(values)[1] < SHARED
        by_budget = []
        for of_networks in values:
            scores = {network: pd.Series(row).dropna() for network, row in enumerate(of_networks)}
            by_budget.append(estimate(Scores(scores, least=IMAGE), sums))
        for pair, effects in enumerate(zip(*by_budget, strict=True)):
            known = [index for index, effect in enumerate(effects) if not math.isnan(effect.error)]
            if len(known) < 2:
                continue
            line = lines.fit(x[known], [effects[index] for index in known])
            value, error, freedom = line.slope[:3]
            p[study, pair] = 2 * stats.t.sf(abs(value - 1) / error, freedom)
            widths[study, pair] = stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * error
            placed[study, pair] = line.where == lines.WITHIN
            misplaced[study, pair] = is_wrong(line, crossing) and x[known[0]] <= crossing <= x[known[-1]]
            if len(known) >= lines.FEWEST_TO_BEND:
                bent[study, pair] = line.where == lines.BENT
    covered = np.where(np.isnan(p), np.nan, p > 1 - CONFIDENCE)
    wrong = np.nanmin(p, axis=1) < (1 - CONFIDENCE) / np.isfinite(p).sum(axis=1)  # Holm's first step
    shares = [
        np.nanmean(values) if np.isfinite(values).any() else math.nan for values in (placed, misplaced, bent, warned)
    ]
    return Result(
        np.nanmean(covered), np.nanmean(covered, axis=0).min(), wrong.mean(), np.nanmedian(widths), *shares
    )  # fmt: skip


def is_wrong(line: lines.Line, crossing: float) -> bool:
    """Whether what is said of where the line crosses zero excludes this place."""
    outside = {
        lines.WITHIN: not line.low <= crossing <= line.high,
        lines.EARLY: not crossing <= line.high,
        lines.LATE: not line.low <= crossing,
        **dict.fromkeys((lines.ABOVE, lines.BELOW), True),
    }
    return outside.get(line.where, False)


def row(condition: int, studies: int) -> str:
    """The row of a condition in the table, in bold what misses its target by more than the simulation's noise."""
    result, limit = simulate(CONDITIONS[condition], studies), 0.05 + 2 * math.sqrt(0.05 * 0.95 / studies)
    cells = [
        _percent(result.coverage, result.coverage < 0.945),
        _percent(result.worst, result.worst < 0.935),
        _percent(result.wrong, result.wrong > limit),
        f"{result.width:.2f}",
        _percent(result.placed),
        _percent(result.misplaced, result.misplaced > limit),
        _percent(result.bent, result.bent > limit),
        _percent(result.warned),
    ]
    return f"| {CONDITIONS[condition].name} | {' | '.join(cells)} |"


def _percent(share: float, missed: bool = False) -> str:
    if math.isnan(share):
        return "–"
    text = f"{100 * share:.0f} %" if share > 0.1 else f"{100 * share:.1f} %"
    return f"**{text}**" if missed else text


if __name__ == "__main__":
    tabulate("benchmarks.budgets", HEAD, row, range(len(CONDITIONS)), studies=1000)
