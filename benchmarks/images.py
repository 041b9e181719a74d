"""Do intervals for other images cover?

    python -m benchmarks.images                                # prints the table of docs/analysis.md
    python -m benchmarks.images --write docs/analysis.md       # and puts it there

Every row simulates studies under one condition. Each study draws its own images and seeds, and all of its networks are
truly alike: right in as many of all images there might be. So a change is truly 0, and an interval should cover that.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.statistics.estimates import CONFIDENCE, compare
from analysis.statistics.image_noise import image_error, reach
from analysis.statistics.noise import Scores
from benchmarks.coverage import tabulate

NETWORKS = 6
EASE, DIFFICULTY = 1.0, 1.5
"""A network is right about an image where the sum of EASE and of what is drawn is above 0. DIFFICULTY, like all that
follows, is a standard deviation: of an image's own part, for all networks."""
HEAD = "| condition | of seeds alone | for other images | error of seeds | of images |\n| --- | --- | --- | --- | --- |"


class Condition(NamedTuple):
    name: str
    images: int = 500
    seeds: int = 3
    taste: float = 0.5
    """An image's part for one network."""
    luck: float = 0.05
    """A seed's part for one network, on all images."""
    rest: float = 0.6
    """A seed's part on one image."""
    shared: float = 0.0
    """How much of the variance of that is the same for all networks."""
    other_seeds: bool = False
    """Whether each network has seeds of its own."""


CONDITIONS = [
    Condition("500 images, 3 seeds"),
    Condition("100 images", images=100),
    Condition("10,000 images", images=10_000),
    Condition("2 seeds", seeds=2),
    Condition("10 seeds", seeds=10),
    Condition("other seeds on each side", other_seeds=True),
    Condition("four fifths of what a seed does to an image are the same for all networks", shared=0.8),
    Condition("runs that hardly differ", luck=0.01, rest=0.3),
    Condition("images that are equally hard for all networks", taste=0.02, rest=0.9),
]


def draw(condition: Condition, generator: np.random.Generator) -> list[np.ndarray]:
    """Of each network, 0 or 100 points by seed and image."""
    size = condition.seeds, condition.images
    difficulty, shared = DIFFICULTY * generator.normal(size=size[1]), generator.normal(size=size)
    found = []
    for _ in range(NETWORKS):
        own = np.sqrt(1 - condition.shared) * generator.normal(size=size) + np.sqrt(condition.shared) * shared
        taste, luck = generator.normal(size=size[1]), generator.normal(size=(size[0], 1))
        sums = EASE + difficulty + condition.taste * taste + condition.luck * luck + condition.rest * own
        found.append(100.0 * (sums > 0))
    return found


def row(condition: Condition, studies: int) -> str:
    """The line of a condition in the table."""
    generator, tables = np.random.default_rng(0), []
    sums = [{network: 1.0, network - 1: -1.0} for network in range(1, NETWORKS)]
    for _ in range(studies):
        answers = draw(condition, generator)
        seeds = [np.arange(condition.seeds) + 100 * place * condition.other_seeds for place in range(NETWORKS)]
        values = {place: pd.Series(one.mean(axis=1), seeds[place]) for place, one in enumerate(answers)}
        table = compare(Scores(values, least=100 / condition.images), sums)
        pairs = zip(answers[1:], answers, strict=False)
        tables.append(table.assign(of_images=[image_error(pair, [1, -1], not condition.other_seeds) for pair in pairs]))
    table = pd.concat(tables)
    noise = (table[name].to_numpy(float) for name in ("error", "freedom", "of_images"))
    of_both = table["value"].abs() <= reach(1 - CONFIDENCE, *noise, np.full(len(table), condition.images))
    of_seeds = (table["low"] <= 0) & (table["high"] >= 0)
    shares = f"{100 * of_seeds.mean():.0f} % | {100 * of_both.mean():.0f} %"
    return f"| {condition.name} | {shares} | {table['error'].median():.2f} | {table['of_images'].median():.2f} |"


if __name__ == "__main__":
    tabulate("benchmarks.images", HEAD, row, CONDITIONS, studies=500)
