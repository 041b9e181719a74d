"""Do the intervals cover and the verdicts hold, when noise is not what statistics would like?

    python -m benchmarks.coverage                                # prints the table of docs/analysis.md
    python -m benchmarks.coverage --write docs/analysis.md       # and puts it there

Every row simulates studies whose networks are truly all alike, under one condition, and says of
`analysis.statistics.estimates`: how many of the 95 % intervals of changes cover 0 (it should be 95 %), in the worst row
of a study's table as well as on average; in how many studies any verdict was wrong (it should be 5 % at most); how wide
an interval is; and how often the report warns that the noise is not what it should be. Beside it the textbook's paired
t test, corrected likewise. The unit is the noise of a run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from analysis.statistics.diagnostics import concerns
from analysis.statistics.estimates import CONFIDENCE, Weights, estimate
from analysis.statistics.noise import Scores, matrix
from analysis.text import NOTHING

RUNGS = 17
SEED_EFFECT = 0.6
"""What a seed adds to all networks, beside the noise of a run: on Fashion-MNIST at nano scale it is about that."""
IMAGE = 0.02
"""One of 10,000 evaluation images, beside a noise of half a point."""
HEAD = (
    "| noise | coverage | worst row | any verdict wrong | half width | warned "
    "| paired t: coverage | any wrong | half width |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)

Draw = Callable[[np.random.Generator], Mapping[int, pd.Series]]
"""The values of a study's networks, by seed."""


class Condition(NamedTuple):
    name: str
    draw: Draw
    sums: list[Weights]
    spoilt: tuple[int, ...] = ()
    """Sums that are not 0 in this condition, and are not counted."""
    collapsed: range = range(0)
    """Networks that did not train."""


class Result(NamedTuple):
    coverage: float
    worst: float
    wrong: float
    """The share of studies with a wrong verdict."""
    width: float
    """The median half width of an interval."""
    warned: float
    """The share of studies whose noise the report warns of."""


def ladder(count: int = RUNGS) -> list[Weights]:
    return [{rung: 1.0, rung - 1: -1.0} for rung in range(1, count)]


def leave_one_out(count: int = RUNGS) -> list[Weights]:
    return [{0: 1.0, rung: -1.0} for rung in range(1, count)]


def normal(scales: np.ndarray | float = 1.0, seeds: int = 3, count: int = RUNGS, **how: float) -> Draw:
    """Networks that share their seeds, with a noise of these scales."""

    def draw(generator: np.random.Generator) -> dict[int, pd.Series]:
        return _studied(
            np.broadcast_to(scales, count)[:, None] * generator.normal(size=(count, seeds)), generator, **how
        )

    return draw


def log_normal(sigma: float, seeds: int = 3) -> Draw:
    def draw(generator: np.random.Generator) -> dict[int, pd.Series]:
        scales = np.exp(sigma * generator.normal(size=RUNGS))
        return normal(scales, seeds)(generator)

    return draw


def heavy_tails(generator: np.random.Generator) -> dict[int, pd.Series]:
    return _studied(generator.standard_t(3, size=(RUNGS, 3)) / np.sqrt(3), generator)


def missing(generator: np.random.Generator) -> dict[int, pd.Series]:
    """A fifth of the runs did not finish."""
    scores = normal()(generator)
    return {rung: values[generator.random(len(values)) > 0.2] for rung, values in scores.items()}


def one_seed(generator: np.random.Generator) -> dict[int, pd.Series]:
    scores = normal()(generator)
    return scores | {8: scores[8][:1]}


def partly_shared(generator: np.random.Generator) -> dict[int, pd.Series]:
    scores = normal(seeds=4)(generator)
    return {rung: values[1:] if rung % 2 else values[:3] for rung, values in scores.items()}


def other_seeds(generator: np.random.Generator) -> dict[int, pd.Series]:
    scores = normal(seeds=6)(generator)
    return {rung: values[3:] if rung % 2 else values[:3] for rung, values in scores.items()}


def one_run_off(size: float) -> Draw:
    def draw(generator: np.random.Generator) -> dict[int, pd.Series]:
        scores = normal()(generator)
        scores[8][0] -= size
        return scores

    return draw


def halves(effect: float) -> Draw:
    """What a seed does to the second half of the ladder has nothing to do with what it does to the first."""

    def draw(generator: np.random.Generator) -> dict[int, pd.Series]:
        seed_effects = effect * generator.normal(size=(2, 3))
        values = generator.normal(size=(RUNGS, 3)) + seed_effects[(np.arange(RUNGS) > RUNGS // 2).astype(int)]
        return _studied(values, generator, seed_effect=0.0)

    return draw


def mostly_at_chance(generator: np.random.Generator) -> dict[int, pd.Series]:
    """Of 51 networks 47 never leave chance, and say exactly the same."""
    trained = normal(count=4)(generator)
    return trained | {rung: pd.Series(np.zeros(3)) for rung in range(4, 51)}


def scaled(scales: Mapping[int, float], count: int = RUNGS) -> np.ndarray:
    """1, but for these networks."""
    return np.array([scales.get(network, 1.0) for network in range(count)])


CONDITIONS = [
    Condition("all alike, 3 seeds", normal(), ladder()),
    Condition("2 seeds", normal(seeds=2), ladder()),
    Condition("5 seeds", normal(seeds=5), ladder()),
    Condition("tails of Student's t, 3 degrees of freedom", heavy_tails, ladder()),
    Condition("log-normal, σ = 0.5", log_normal(0.5), ladder()),
    Condition("log-normal, σ = 1", log_normal(1.0), ladder()),
    Condition("log-normal, σ = 1, 2 seeds", log_normal(1.0, seeds=2), ladder()),
    Condition("one network 3 times the others’", normal(scaled({8: 3})), ladder()),
    Condition("alternately 2 and 0.5 times", normal(np.where(np.arange(RUNGS) % 2, 0.5, 2.0)), ladder()),
    Condition("four rungs 10 times", normal(scaled(dict.fromkeys((3, 7, 11, 15), 10))), ladder()),
    Condition(
        "four networks beside the ladder 10 times",
        normal(scaled(dict.fromkeys(range(17, 21), 10), 21), count=21),
        [*ladder(), *({network: 1.0, network - 9: -1.0} for network in range(17, 21))],
    ),
    Condition("one run off by 20, changes of other rungs", one_run_off(20), ladder(), spoilt=(7, 8)),
    Condition("one run off by 60, changes of other rungs", one_run_off(60), ladder(), spoilt=(7, 8)),
    Condition("a fifth of the runs missing", missing, ladder()),
    Condition("one rung with a single seed", one_seed, ladder()),
    Condition("seeds partly shared (2 of 3)", partly_shared, ladder()),
    Condition("other seeds on each side", other_seeds, ladder()),
    Condition("leaving one out, alike", normal(), leave_one_out()),
    Condition("leaving one out, the whole network 3 times", normal(scaled({0: 3})), leave_one_out()),
    Condition("leaving one out, the whole network 5 times", normal(scaled({0: 5})), leave_one_out()),
    Condition(
        "4 networks that trained, 47 at exact chance",
        mostly_at_chance,
        [*ladder(5), {0: 1, 2: -1}, *({0: 1.0, network: -1.0} for network in range(5, 51))],
        collapsed=range(4, 51),
    ),
    Condition("seeds’ effects differ between halves, 0.6", halves(0.6), ladder()),
    Condition("seeds’ effects differ between halves, 2", halves(2.0), ladder()),
]  # fmt: skip


def simulate(condition: Condition, studies: int, textbook: bool = False) -> Result:
    """Simulate so many studies; the same ones in every call."""
    generator = np.random.default_rng(0)
    kept = np.ones(len(condition.sums), bool)
    kept[list(condition.spoilt)] = False
    p, widths = np.full((2, studies, len(condition.sums)), np.nan)
    warned = 0
    for study in range(studies):
        scores = {network: values for network, values in condition.draw(generator).items() if len(values)}
        if textbook:
            p[study], widths[study] = np.transpose([_paired_t(scores, weights) for weights in condition.sums])
            continue
        estimates = estimate(Scores(scores, least=IMAGE, collapsed=condition.collapsed), condition.sums)
        value, error, freedom = np.transpose([one[:3] for one in estimates]).astype(float)
        p[study] = 2 * stats.t.sf(np.abs(value / error), freedom)
        widths[study] = stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * error
        networks = frozenset().union(*condition.sums)
        replicated = [network for network, values in scores.items() if network in networks and len(values) > 1]
        collapsed = np.isin(replicated, condition.collapsed)
        values = matrix([scores[network] for network in replicated])
        warned += bool(concerns(values, len(values), least=IMAGE, collapsed=collapsed))
    p, widths = p[:, kept], widths[:, kept]
    known = np.isfinite(p)
    if not known.any():
        return Result(*[np.nan] * 5)
    covered, limit = np.where(known, p > 1 - CONFIDENCE, np.nan), 1 - CONFIDENCE
    worst = min(np.nanmean(column) for column in covered.T if np.isfinite(column).any())
    # Holm's first step: where it shows nothing, nothing is shown
    wrong = np.where(known, p, 1.0).min(axis=1) < limit / np.maximum(known.sum(axis=1), 1)
    return Result(np.nanmean(covered), worst, wrong.mean(), np.nanmedian(widths), warned / studies)


def row(index: int, studies: int) -> str:
    """The row of a condition in the table, in bold what misses its target by more than the simulation's noise."""
    condition, texts = CONDITIONS[index], []
    for textbook in (False, True):
        result = simulate(condition, studies, textbook)
        texts.append(_percent(result.coverage, result.coverage < 0.945))
        if not textbook:
            texts.append(_percent(result.worst, result.worst < 0.935))
        texts.append(_percent(result.wrong, result.wrong > 0.05 + 2 * np.sqrt(0.05 * 0.95 / studies)))
        texts.append(NOTHING if np.isnan(result.width) else f"{result.width:.2f}")
        if not textbook:
            texts.append(_percent(result.warned))
    return f"| {condition.name} | {' | '.join(texts)} |"


def _studied(
    noise: np.ndarray, generator: np.random.Generator, seed_effect: float = SEED_EFFECT
) -> dict[int, pd.Series]:
    values = noise + seed_effect * generator.normal(size=noise.shape[1])
    return {rung: pd.Series(one) for rung, one in enumerate(values)}


def _paired_t(scores: Mapping[int, pd.Series], weights: Weights) -> tuple[float, float]:
    """The p-value of a change by the seeds that both networks have, and half its interval's width."""
    if not scores.keys() >= weights.keys():
        return np.nan, np.nan
    differences = sum(weight * scores[network] for network, weight in weights.items()).dropna().to_numpy()
    freedom = len(differences) - 1
    if freedom < 1 or not differences.any():
        return np.nan, np.nan
    error = differences.std(ddof=1) / np.sqrt(freedom + 1)
    return 2 * stats.t.sf(abs(differences.mean()) / error, freedom), stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * error


def _percent(share: float, missed: bool = False) -> str:
    if np.isnan(share):
        return NOTHING
    text = f"{100 * share:.0f} %" if share > 0.1 else f"{100 * share:.1f} %"
    return f"**{text}**" if missed else text


def tabulate(module: str, head: str, row: Callable[[Any, int], str], conditions: Iterable[Any], studies: int) -> None:
    """The command that makes a table of simulations, a row per condition: prints it, and puts it into a page."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}")
    parser.add_argument("--studies", type=int, default=studies, help="simulated per row (%(default)s)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="a page that has the table, to be replaced there")
    arguments = parser.parse_args()
    with ProcessPoolExecutor() as pool:
        table = "\n".join([head, *pool.map(partial(row, studies=arguments.studies), conditions)])
    print(table)
    if arguments.write:
        begin, end = f"<!-- python -m {module} -->", "<!-- end -->"
        before, _, rest = arguments.write.read_text().partition(begin)
        _, _, after = rest.partition(end)
        arguments.write.write_text(f"{before}{begin}\n{table}\n{end}{after}")


if __name__ == "__main__":
    tabulate("benchmarks.coverage", HEAD, row, range(len(CONDITIONS)), studies=2000)
