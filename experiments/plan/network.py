"""A network of a study, counted: its runs, which differ in their seed alone, and what each of them takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from experiments.config.run import Run
from experiments.data.evaluation import KEPT_BYTES
from experiments.launch.preflight import Amounts, check_amounts, check_layers, check_optimizer
from experiments.plan.memory import Footprint, footprint
from experiments.plan.throughput import Pace
from experiments.records.record import is_done, read_summary
from experiments.training.models import cost_of

CLASSES = 1000
"""Where nobody says how many."""


@dataclass(frozen=True)
class Network:
    runs: tuple[Run, ...]
    amounts: Amounts
    macs: int
    params: int
    footprint: Footprint

    @property
    def run(self) -> Run:
        """One of them."""
        return self.runs[0]

    @property
    def title(self) -> str:
        return self.run.title

    @property
    def classes(self) -> int:
        return self.amounts.classes or CLASSES

    @cached_property
    def left(self) -> dict[str, float]:
        """{identity of a run that is not done: the part of its epochs that is missing}."""
        return {run.identity: 1 - _epochs_done(run) / run.recipe.epochs for run in self.runs if not is_done(run)}

    def seconds(self, pace: Pace | None) -> float | None:
        """Of one run: its full steps, and after every epoch an evaluation of the weights and of their average. None if
        the pace, or how many images there are, is not known."""
        training, evaluation, recipe = self.amounts.training, self.amounts.evaluation, self.run.recipe
        if pace is None or training is None or evaluation is None:
            return None
        trained = training // recipe.batch_size * recipe.batch_size * recipe.epochs
        evaluations = recipe.epochs * (2 if recipe.ema_decay else 1)
        prepared = 1 if evaluation * 3 * self.run.resolution**2 <= KEPT_BYTES else evaluations
        evaluated = evaluation * (evaluations * pace.evaluation + prepared * pace.preparation)
        return (trained * pace.training + evaluated) / self.run.split.processes

    def checkpoints(self, seconds: float | None, kept: int) -> int:
        """How many lie on the disk when a run is about to be done: the last `kept`, or with keep=all every one."""
        epochs = self.run.recipe.epochs
        if self.run.keep == "last":
            return kept
        within_an_epoch = int((seconds or 0) / epochs / (60 * self.run.checkpoint_minutes or 1))
        return epochs - 1 + epochs * within_an_epoch


def count(runs: Sequence[Run], found: Amounts) -> Network:
    """Count the network of runs of one series.

    Raises:
        SettingsError: if there can't be such a network, it doesn't take images of this size, or there are too few.
    """
    run, classes = runs[0], found.classes or CLASSES
    check_amounts(run, found)
    check_optimizer(run)
    check_layers(run)
    cost = cost_of(run, classes)
    return Network(tuple(runs), found, cost["macs"], cost["params"], footprint(run, classes))


def _epochs_done(run: Run) -> int:
    summary = read_summary(run.directory) or {}
    return summary.get("epochs_done") or 0 if summary.get("identity") == run.identity else 0
