"""A study: the runs of a multirun, which of them are done already, and how they ended.

Training them is the launcher's business: local.py on this machine, slurm.py on a cluster.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.table import Table

from experiments.config.overrides import Overrides
from experiments.config.run import Run, to_run
from experiments.errors import DONE, FAILED, SettingsError
from experiments.launch.limits import Limits
from experiments.launch.looks import count_look
from experiments.records.record import is_done, is_ended, read_summary
from experiments.records.study_file import file_name, study_file, write_study
from experiments.runtime.environment import world_size
from experiments.runtime.locks import locked
from experiments.runtime.terminal import Terminal
from roadmap.common.files import read_object
from roadmap.common.statuses import ENDED_BADLY, Status
from roadmap.common.words import counted
from roadmap.conf import conf_of, flat

T = TypeVar("T")

NO_LIMITS = Limits()
PATIENCE = 10.0
"""Seconds to wait for another launcher that is writing the study's file."""


class Study:
    """The runs of a study, each once: all of them, `members`, and those that had not ended when it began, `todo`."""

    def __init__(
        self,
        name: str,
        runs: Path,
        members: Sequence[Run],
        limits: Limits = NO_LIMITS,
        looks: Sequence[int] = (),
        may_diverge: Collection[str] = (),
        continues: bool = False,
    ) -> None:
        """
        Args:
            looks: the planned numbers of seeds at which results are looked at.
            may_diverge: the identities of runs whose divergence is a result, after which they are not tried again.
            continues: whether the same command has begun this study already, with other runs.
        """
        self.name = file_name(name)
        self.runs, self.limits, self.planned = runs, limits, [*looks]
        self.may_diverge, self.continues = may_diverge, continues
        self.members = list({run.identity: run for run in members}.values())
        self.todo = [run for run in self.members if not self.has_ended(run)]
        self.console = Terminal()

    def has_ended(self, run: Run) -> bool:
        """Whether a launch has nothing to do for a run."""
        return is_ended(run) or (run.identity in self.may_diverge and has_diverged(run))

    def counts(self) -> Counter[str]:
        """How many runs are `done`, were `stopped` early, have `diverged` where that is a result, or are `left`."""
        return Counter(map(self._outcome, self.members))

    def _outcome(self, run: Run) -> str:
        if not self.has_ended(run):
            return "left"
        if is_done(run):
            return "done"
        return "diverged" if has_diverged(run) else "stopped"

    def begin(self) -> None:
        """Write `runs/studies/NAME.json`: the command, the directories of the runs, and the looks at their results.
        Each run gets the number of the look for which it is launched."""
        file = study_file(self.runs, self.name)
        may_diverge = {run.name for run in self.members if run.identity in self.may_diverge}
        with locked(file.with_name(f".{file.stem}.lock"), PATIENCE) as is_locked:
            if not is_locked:
                raise SettingsError(f"another launcher is writing {file}; try again when it has finished")
            looks, lines = count_look(self.members, read_object(file) or {}, self.planned, self.continues)
            is_search = not self.continues and any(run.tuning for run in self.members)
            write_study(file, command(), {run.name for run in self.members}, may_diverge, looks, is_search)
        number_of = {name: look["number"] for look in looks for name in look["runs"]}
        self.members = [
            replace(run, look={"number": number_of[run.name], "planned": looks[0]["planned"]}) for run in self.members
        ]
        todo = {run.identity for run in self.todo}
        self.todo = [run for run in self.members if run.identity in todo]
        for line in lines:
            self.console.print(line, soft_wrap=True)

    def is_spent(self) -> str | None:
        """Why no more runs start, in one line, if `max_hours` is reached."""
        return self.limits.spent(self.runs, self.name)

    def conclude(self, after: str = "", failed: Callable[[Run], str | None] | None = None) -> int:
        """Print how many runs are done, which failed and why, and how to train the rest. Returns the exit code.

        `failed` gives a run's failure in one line, None if it has none; by default, what its record says.
        """
        left = [run for run in self.members if not self.has_ended(run)]
        failures = [(run, reason) for run in left if (reason := (failed or failure)(run))]
        counts = self.counts()
        done = f"{counts['done']} of {len(self.members)} runs are done"
        self.console.print(f"{done}{without_result(counts)}{after}", soft_wrap=True)
        if failures:
            table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
            table.add_column("failed", overflow="fold", ratio=2)
            table.add_column("why", overflow="fold", ratio=3)
            common = set.intersection(*({*run.title.split(" ")} for run in self.members))
            for run, reason in failures:
                differs = [word for word in run.title.split(" ")[1:] if word not in common]
                table.add_row("\n  ".join([run.name, *differs]), reason)
            self.console.print(table)
            logs = failures[0][0].directory.with_name("RUN") / "log.txt"
            self.console.print(f"each has a log: {logs}", soft_wrap=True)
        if left:
            how, again = "with the same command", command()
            if spent := self.is_spent():
                self.console.print(f"{spent}, so no more runs start", soft_wrap=True)
                how = f"({counted(len(left), 'run')}) without max_hours, or with a larger one"
                again = command(without="max_hours")
            self.console.print(f"train what is missing {how}:\n  {again}", soft_wrap=True)
        return FAILED if failures else DONE


def has_diverged(run: Run) -> bool:
    return (read_summary(run.directory) or {}).get("status") == Status.DIVERGED


def without_result(counts: Mapping[str, int]) -> str:
    """Of `Study.counts`, how many runs have ended but are not done: ", 1 stopped early by stop_below, 2 diverged"."""
    words = {"stopped": "stopped early by stop_below", "diverged": "diverged"}
    return "".join(f", {counts[key]} {text}" for key, text in words.items() if counts[key])


def failure(run: Run) -> str | None:
    """Why a run failed, according to its record; None if it didn't."""
    summary = read_summary(run.directory) or {}
    return f"{summary['status']}: {summary.get('reason')}" if summary.get("status") in ENDED_BADLY else None


def make_runs(jobs: Sequence[Overrides], launcher: Any) -> list[Run]:
    """The run of each job, composed and checked before anything starts. `launcher` is a StudyLauncher.

    Raises:
        SettingsError, DesignError: if one of them is impossible.
    """
    if world_size() > 1:
        raise SettingsError("a study starts its runs itself; under torchrun or srun start one run, without -m")
    if not jobs:
        raise SettingsError("the sweep has no runs: what is swept over has no value")
    conf = conf_of(launcher.config.hydra.runtime.config_sources)
    make = partial(to_run, processes=launcher.processes, gpus=launcher.gpus, conf=conf)
    runs = make_each(jobs, launcher.compose, make)
    return [run if seed is None else replace(run, seed=seed) for run, seed in runs]


def make_each(
    jobs: Sequence[Overrides], compose: Callable[[Overrides], DictConfig], make: Callable[[DictConfig, Overrides], T]
) -> Iterator[tuple[T, int | None]]:
    """What `make` makes of each job's configuration and overrides, and the seed to set in it, if it isn't in it yet.

    Hydra takes 0.2 s to compose a job, so jobs that differ in numbers alone share one result, in which these are set;
    and replicates are made once, unless a setting depends on the seed.
    """
    composed: dict[Overrides, DictConfig] = {}
    made: dict[Overrides, T | None] = {}
    for overrides in jobs:
        seeds = [word for word in overrides if re.fullmatch(r"seed=\d{1,18}", word)]
        rest = tuple(word for word in overrides if word not in seeds)
        if rest not in made:
            numbers = [word for word in rest if re.fullmatch(NUMBER, word)]
            network = tuple(word for word in rest if word not in numbers)
            if network not in composed:
                composed[network] = compose(network)
            try:
                config = _with_numbers(composed[network], numbers)
            except OmegaConfBaseException:  # which Hydra words better
                config = compose(rest)
            made[rest] = None if _depends_on_seed(config) else make(config, rest)
        result = made[rest]
        if result is None:
            yield make(compose(overrides), overrides), None
        else:
            yield result, int(seeds[-1].removeprefix("seed=")) if seeds else None


NUMBER = r"(?P<key>(recipe|data)\.\w+)=(?P<value>\d+(\.\d*)?(e-?\d+)?)"
"""An override by a number. Interpolations of the configuration are resolved later, so they follow it."""


def _with_numbers(config: DictConfig, words: Sequence[str]) -> DictConfig:
    config = config.copy() if words else config
    for word in words:
        key, value = re.fullmatch(NUMBER, word).group("key", "value")
        OmegaConf.update(config, key, int(value) if value.isdecimal() else float(value))
    return config


def _depends_on_seed(config: DictConfig) -> bool:
    settings: Any = OmegaConf.to_container(config, resolve=False)
    values = flat({name: value for name, value in settings.items() if name != "hydra"}).values()
    return any("${" in text and "seed" in text for text in map(str, values))


def command(without: str = "") -> str:
    """The command that is running, without one of its settings."""
    words = [word for word in sys.argv[1:] if not (without and word.startswith(f"{without}="))]
    return shlex.join(["python", "-m", "experiments.train", *words])
