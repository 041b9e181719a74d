"""Do the intervals of a tuned ladder cover, and what if values are chosen on the evaluation images?

    python -m benchmarks.tuning                             # prints the table of docs/tuning.md
    python -m benchmarks.tuning --write docs/tuning.md      # and puts it there

Every row simulates studies of eight networks that are truly all alike, each the better the nearer a value is to an
optimum of its own. The values are chosen in one of several ways; then the ladder's changes are judged by
`analysis.statistics.estimates`, against the true differences of the networks with the chosen values. The unit is the
noise of a run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.statistics.estimates import compare
from analysis.statistics.noise import Scores
from roadmap.common.tuning import best_value

NETWORKS, VALUES = 8, 4
SEEDS, TUNING_SEEDS = 3, 2
CURVATURE = 0.5
"""What a factor of two beside the optimal value costs."""
HOLDOUT_NOISE = 1.5
"""A holdout has fewer images than the test set."""
HEAD = "| values chosen | coverage | any verdict wrong | a chosen mean is too high by |\n| --- | --- | --- | --- |"


class Study(NamedTuple):
    scores: Scores
    """With the chosen values."""
    truth: np.ndarray
    """The networks' true means with these."""


class Result(NamedTuple):
    coverage: float
    wrong: float
    """The share of studies with a verdict that is wrong about networks that are all alike when each is tuned well."""
    bias: float


def on_holdout(generator: np.random.Generator) -> Study:
    """As `tune=` does: chosen on the holdout, for every network, and then trained with other seeds."""
    curves = _curves(generator)
    noise = HOLDOUT_NOISE * generator.normal(size=(NETWORKS, VALUES, TUNING_SEEDS))
    chosen = _best(curves[..., None] + noise)
    return _trained(curves[np.arange(NETWORKS), chosen], generator)


def on_test(generator: np.random.Generator) -> Study:
    """The best of the very results that are reported, for every network."""
    curves = _curves(generator)
    results = curves[..., None] + generator.normal(size=(NETWORKS, VALUES, SEEDS))
    return _reported(curves, results, _best(results))


def new_on_test(generator: np.random.Generator) -> Study:
    """Likewise, but for every other network only, while those before it keep the value that they have."""
    curves = _curves(generator)
    results = curves[..., None] + generator.normal(size=(NETWORKS, VALUES, SEEDS))
    return _reported(curves, results, np.where(np.arange(NETWORKS) % 2, _best(results), 1))


def untuned(generator: np.random.Generator) -> Study:
    """One value for all."""
    return _trained(_curves(generator)[:, 1], generator)


WAYS: dict[str, Callable[[np.random.Generator], Study]] = {
    "on a holdout, for every network (`tune=`)": on_holdout,
    "by the evaluation images, for every network": on_test,
    "by the evaluation images, for every second network": new_on_test,
    "one for all networks": untuned,
}


def simulate(way: Callable[[np.random.Generator], Study], studies: int, seed: int = 0) -> Result:
    generator = np.random.default_rng(seed)
    sums = [{rung: 1.0, rung - 1: -1.0} for rung in range(1, NETWORKS)]
    covered, wrong, bias = [], [], []
    for _ in range(studies):
        study = way(generator)
        table, truth = compare(study.scores, sums), np.diff(study.truth)
        covered.append(np.mean((table["low"] <= truth) & (truth <= table["high"])))
        wrong.append(table["verdict"].isin(("up", "down")).any())
        bias.append(np.mean([values.mean() for values in study.scores.values()] - study.truth))
    return Result(float(np.mean(covered)), float(np.mean(wrong)), float(np.mean(bias)))


def _curves(generator: np.random.Generator) -> np.ndarray:
    """The true mean of each network with each value."""
    optimum = generator.uniform(0.5, VALUES - 1.5, size=(NETWORKS, 1))
    return -CURVATURE * (np.arange(VALUES) - optimum) ** 2


def _best(results: np.ndarray) -> np.ndarray:
    return np.array([best_value(dict(enumerate(of_network.tolist()))) for of_network in results])


def _trained(truth: np.ndarray, generator: np.random.Generator) -> Study:
    return _study(truth[:, None] + generator.normal(size=(NETWORKS, SEEDS)), truth)


def _reported(curves: np.ndarray, results: np.ndarray, chosen: np.ndarray) -> Study:
    networks = np.arange(NETWORKS)
    return _study(results[networks, chosen], curves[networks, chosen])


def _study(values: np.ndarray, truth: np.ndarray) -> Study:
    networks = range(NETWORKS)
    return Study(Scores({network: pd.Series(values[network]) for network in networks}, pooled=networks), truth)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace the table in this file")
    arguments = parser.parse_args()
    lines = [HEAD]
    for name, way in WAYS.items():
        result = simulate(way, arguments.studies)
        lines.append(f"| {name} | {result.coverage:.1%} | {result.wrong:.1%} | {result.bias:+.2f} |")
    table = "\n".join(lines)
    print(table)
    if arguments.write:
        text = arguments.write.read_text("utf-8")
        start = text.index(HEAD.splitlines()[0])
        end = text.index("\n\n", start)
        arguments.write.write_text(text[:start] + table + text[end:], "utf-8")


if __name__ == "__main__":
    main()
