"""Comparisons without records, for the tests of what takes them apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd

from analysis.statistics.comparison import COSTS, Comparison, Steps
from analysis.statistics.context import Context
from roadmap.conf import OURS
from roadmap.roads import Road

ROAD = OURS.road(regime="nano")
RUN = {
    **{"left_out": "", "epochs": 2, "batch_size": 64, "evaluated_on": "test", "processes": 1},
    **{"train_images": 10_000, "evaluation_images": 10_000, "classes": 10},
    **dict.fromkeys(COSTS, 1.0),
}


def comparison(values: Mapping[Iterable[str], Mapping[int, float]], road: Road = ROAD) -> Comparison:
    """The comparison of sets of steps with these accuracies, by seed."""
    context = Context("nano", {"name": "fashion_mnist", "num_classes": None}, 32, "float32", {}, 2, 64, "top1", road)
    names = {frozenset(rung.steps): rung.name for rung in road.rungs}
    rows = []
    for steps, by_seed in values.items():
        network = {"network": road.name_of(steps), "rung": names.get(frozenset(steps)), "set": frozenset(steps)}
        rows += [RUN | network | {"seed": seed, "score": score} for seed, score in by_seed.items()]
    return Comparison(context, pd.DataFrame(rows).assign(design=None, code=None))


def play(
    game: Callable[[Steps], float],
    sets: Iterable[Iterable[str]],
    noise: float = 0.0,
    seeds: int = 3,
    seed_effect: float = 0.0,
    generator: np.random.Generator | None = None,
    road: Road = ROAD,
) -> Comparison:
    """The comparison of these sets, each worth what the game says, with noise of every run and of every seed."""
    generator = generator or np.random.default_rng(0)
    effects = seed_effect * generator.normal(size=seeds)
    return comparison(
        {
            steps: dict(enumerate(game(frozenset(steps)) + effects + noise * generator.normal(size=seeds)))
            for steps in map(tuple, sets)
        },
        road,
    )
