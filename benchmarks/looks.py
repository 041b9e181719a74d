"""How often is a verdict wrong if seeds are added after looking at the results: as planned, and without a plan?

    python -m benchmarks.looks                            # prints the table of docs/seeds.md
    python -m benchmarks.looks --write docs/seeds.md      # and puts it there

Every row simulates studies whose networks are truly all alike. They are looked at with more and more seeds, and end
with the first look at which any verdict is wrong, as if somebody added seeds until something is shown.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from analysis.statistics.estimates import CONFIDENCE, conclude, estimate
from analysis.statistics.noise import Scores
from benchmarks.coverage import IMAGE, RUNGS, ladder, normal, tabulate

HEAD = "| study | looks, with so many seeds | planned | any verdict wrong |\n| --- | --- | --- | --- |"


class Condition(NamedTuple):
    networks: int
    looks: tuple[int, ...]
    """Seeds at each look."""
    planned: bool

    @property
    def words(self) -> str:
        seeds = (
            f"each of {self.looks[0]} to {self.looks[-1]}" if len(self.looks) > 4 else ", ".join(map(str, self.looks))
        )
        return f"{self.networks} networks | {seeds} | {'yes' if self.planned else 'no'}"


EACH = tuple(range(3, 13))
CONDITIONS = [
    Condition(networks, looks, planned)
    for networks in (2, RUNGS)
    for looks, planned in (((12,), True), ((3, 6, 12), True), ((3, 6, 12), False), (EACH, False))
]


def simulate(condition: Condition, studies: int, seed: int = 0) -> float:
    """The share of studies with a wrong verdict at any look. The unit of noise is that of a run."""
    generator = np.random.default_rng(seed)
    draw, sums = normal(seeds=condition.looks[-1], count=condition.networks), ladder(condition.networks)
    estimates = []
    for _ in range(studies):
        values = draw(generator)
        for seeds in condition.looks:
            scores = {network: of_network[:seeds] for network, of_network in values.items()}
            estimates += estimate(Scores(scores, least=IMAGE), sums)
    p = conclude(estimates, 1)["p"].to_numpy().reshape(studies, -1)
    # Holm's first step: where it shows nothing, nothing is shown
    split = len(condition.looks) if condition.planned else 1
    return float((p.min(axis=1) < (1 - CONFIDENCE) / split / len(sums)).mean())


def row(index: int, studies: int) -> str:
    """The row of a condition in the table, in bold where more than one study in twenty is wrong, beyond chance."""
    condition = CONDITIONS[index]
    wrong = simulate(condition, studies)
    text = f"{100 * wrong:.1f} %"
    return f"| {condition.words} | {f'**{text}**' if wrong > 0.05 + 2 * np.sqrt(0.05 * 0.95 / studies) else text} |"


if __name__ == "__main__":
    tabulate("benchmarks.looks", HEAD, row, range(len(CONDITIONS)), studies=1000)
