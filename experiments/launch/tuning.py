"""`tune=[...]`: the best value of a setting for each network of a study, found on a holdout of its training images.

A study is tuned in two phases. In the first, each network is trained with every value on the training images but a
holdout, on which it is evaluated, with seeds of their own; and with its recipe's own value on all training images, as
in any study. In the second, each network is trained with its best value on all training images, with the study's
seeds. So the images of `data.val` decide nothing, and every network gets the same effort.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from omegaconf import DictConfig
from rich.table import Table

from experiments.config.overrides import Overrides, refuse_set, without_seed
from experiments.config.run import Run
from experiments.errors import DONE, FAILED, SettingsError
from experiments.launch.study import failure, has_diverged, make_runs
from experiments.records.record import is_ended, read_summary
from experiments.runtime.environment import SECOND_PHASE
from experiments.runtime.terminal import Terminal
from roadmap.common.bounds import did_you_mean
from roadmap.common.statuses import Status
from roadmap.common.tuning import best_value
from roadmap.common.words import shortened

Network = tuple[str, ...]
"""Of the jobs of one network: the overrides that they share, without the seed."""
LEARNING_RATE = "recipe.lr"


@dataclass(frozen=True)
class Tuning:
    """The jobs of a tuned study."""

    setting: str
    seeds: Sequence[int]
    """Of the search."""
    jobs: Sequence[Overrides]
    """Of the study, as they would be without tuning."""
    grids: Mapping[Network, Sequence[Any]]
    """The values to try with each network, in the order of `tune`."""
    search: Mapping[Network, Mapping[Any, Sequence[Overrides]]]
    """For each network and value, the jobs that evaluate it on the holdout."""

    @property
    def search_jobs(self) -> list[Overrides]:
        return [job for of_values in self.search.values() for of_value in of_values.values() for job in of_value]

    def marked(self, searched: Sequence[Run]) -> list[Run]:
        """The runs of `search_jobs`, whose records say what they belong to: no analysis has to guess it."""
        marks = [
            {"setting": self.setting, "values": [*of_values], "seeds": [*self.seeds]}
            for of_values in self.search.values()
            for of_value in of_values.values()
            for _ in of_value
        ]
        return [replace(run, tuning=mark) for run, mark in zip(searched, marks, strict=True)]

    def chosen_jobs(self, best: Mapping[Network, Any]) -> list[Overrides]:
        """The study's jobs with the best value of each network."""
        return [
            [*job, f"{self.setting}={best[network]}"] for job in self.jobs if (network := without_seed(job)) in best
        ]

    def best(self, searched: Iterable[Run]) -> dict[Network, Any]:
        """The best value of each network for which any trains, given the runs of `search_jobs`."""
        scores = map(score, searched)
        best = {
            network: best_value({value: [next(scores) for _ in of_value] for value, of_value in of_values.items()})
            for network, of_values in self.search.items()
        }
        return {network: value for network, value in best.items() if value is not None}

    def expected_best(self, searched: Sequence[Run | None]) -> dict[Network, Any]:
        """For the price of the second phase: the best values, or before these are known the last of each grid. A run is
        None if it is impossible."""
        runs = [run for run in searched if run and has_ended(run)]
        return self.best(runs) if len(runs) == len(searched) else {key: grid[-1] for key, grid in self.grids.items()}

    def table(self, best: Mapping[Network, Any], titles: Mapping[Network, str]) -> Table:
        """The best value of each network, for the terminal."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("network", overflow="fold")
        table.add_column(f"best {self.setting}", justify="right")
        table.add_column(f"of {len(next(iter(self.grids.values())))}", overflow="fold")
        for network, grid in self.grids.items():
            value = best.get(network)
            is_ordered = all(isinstance(each, int | float) for each in grid)
            at_edge = is_ordered and value in (min(grid), max(grid))
            words = ", ".join(map(str, grid)) + "; at the edge" * at_edge
            table.add_row(titles[network], "none trains" if value is None else str(value), words)
        return table


def train_tuned(tuning: Tuning, launcher: Any, train: Callable[..., int]) -> int:
    """Train both phases, the second as soon as the search has ended. Returns the exit code.

    Args:
        launcher: a StudyLauncher.
        train: trains a list of runs as a study, with the further arguments of `Study` for it.

    Raises:
        SettingsError: if this is the job that launches the second phase on a cluster, and the search has not ended.
    """
    runs = make_runs([*tuning.search_jobs, *tuning.jobs], launcher)
    searched, own = tuning.marked(runs[: len(tuning.search_jobs)]), runs[len(tuning.search_jobs) :]
    runs, code = [*searched, *own], DONE
    if SECOND_PHASE not in os.environ:
        code = train(runs, may_diverge={run.identity for run in searched})
    if left := [run for run in searched if not has_ended(run)]:
        if SECOND_PHASE in os.environ:
            names = shortened([run.name for run in left], 3)
            raise SettingsError(f"the search has not ended, so the best values are not known; left: {names}")
        return code or launcher.train_later(searched)
    failures = sum(failure(run) is not None for run in own)
    if launcher.config.fail_fast and failures >= launcher.config.fail_fast:  # which stopped the first phase
        return code
    best = tuning.best(searched)
    titles = {without_seed(job): run.title for job, run in zip(tuning.jobs, own, strict=True)}
    Terminal().print(tuning.table(best, titles))
    if len(best) < len(tuning.grids):  # with some network no value trains
        code = FAILED
    chosen = make_runs(tuning.chosen_jobs(best), launcher) if best else []
    first = {run.identity for run in runs}  # what diverged in it is not tried again by the same command
    return max(code, train([*runs, *chosen], may_diverge=first, continues=True))


def tuning_of(
    jobs: Sequence[Overrides], config: DictConfig, compose: Callable[[Overrides], DictConfig]
) -> Tuning | None:
    """The tuning that a multirun's own configuration asks for; None if it asks for none.

    Raises:
        SettingsError: if it is impossible, or its settings contradict others.
    """
    if not config.tune:
        return None
    setting = config.tuning_setting
    configs = {network: compose(network) for network in dict.fromkeys(map(without_seed, jobs))}
    _check(config, jobs, configs)
    grids = _grids(setting, [*config.tune], configs)
    search = {
        network: {
            value: [
                [*network, f"{setting}={value}", f"data.holdout={config.tuning_holdout}", f"seed={seed}"]
                for seed in config.tuning_seeds
            ]
            for value in grid
        }
        for network, grid in grids.items()
    }
    return Tuning(setting, [*config.tuning_seeds], jobs, grids, search)


def _check(config: DictConfig, jobs: Sequence[Overrides], configs: Mapping[Network, DictConfig]) -> None:
    setting, values = config.tuning_setting, [*config.tune]
    if not all(isinstance(value, str | int | float) for value in values):
        raise SettingsError(f"tune={values} must be numbers or names, values of {setting}")
    if len(values) < 2 or len({*map(_number, values)}) < len(values):
        raise SettingsError(f"tune={values} must be several different values of {setting}")
    if (name := setting.removeprefix("recipe.")) not in config.recipe:
        hint = did_you_mean(name, map(str, config.recipe))
        raise SettingsError(f"tuning_setting={setting}: a recipe has no such setting{hint}")
    refuse_set([*configs], "tune", (setting, "data.holdout"))
    if config.data.holdout:
        raise SettingsError("tune evaluates its values on a holdout of its own; leave out data.holdout")
    seeds = {_seed(job, config) for job in jobs}
    if shared := sorted(seeds.intersection(config.tuning_seeds)):
        raise SettingsError(
            f"tuning_seeds={list(config.tuning_seeds)}: the study has seed {shared[0]}, too; take others"
        )


def _number(value: Any) -> Any:
    """A text as the number that it writes, if it does."""
    try:
        return float(value)
    except ValueError:
        return value


def _seed(job: Overrides, config: DictConfig) -> int:
    seeds = [word.removeprefix("seed=") for word in job if word.startswith("seed=")]
    return int(seeds[-1]) if seeds else config.seed


def _grids(setting: str, values: list[Any], configs: Mapping[Network, DictConfig]) -> dict[Network, list[Any]]:
    """The values for each network: the same for all. But a learning rate depends on the optimizer, so the rates are
    those of the network with the most steps, and networks with another recipe get the same multiples of its rate.

    Raises:
        SettingsError: if a step sets the rate, which tuning would replace.
    """
    if setting != LEARNING_RATE or not all(isinstance(value, int | float) for value in values):
        return dict.fromkeys(configs, values)
    rates: dict[str, float] = {}
    for config in configs.values():
        recipe, rate = config.recipe.name, config.recipe.lr
        if rates.setdefault(recipe, rate) != rate:
            raise SettingsError(
                f"tune sets {setting}, but the study's networks differ in it ({rates[recipe]:g} and {rate:g} with the "
                f"recipe {recipe}); leave out the step or setting that sets it"
            )
    newest = max(configs.values(), key=lambda config: (len(config.road.steps), config.recipe.name)).recipe.name
    return {
        network: values
        if config.recipe.name == newest
        else [float(f"{value * rates[config.recipe.name] / rates[newest]:.6g}") for value in values]
        for network, config in configs.items()
    }


def has_ended(run: Run) -> bool:
    """Whether a run of the search has an outcome. Diverging is one: with that value the network does not train."""
    return is_ended(run) or has_diverged(run)


def score(run: Run) -> float:
    """The metric of a run of the search that has ended; NaN if it diverged."""
    summary = read_summary(run.directory) or {}
    return summary[summary["metric"]] if summary.get("status") == Status.DONE else math.nan
