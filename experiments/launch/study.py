"""A study: the runs of a multirun, which of them are done already, and how they ended.

Training them is the launcher's business: local.py on this machine, slurm.py on a cluster.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from experiments.config.run import Run, to_run
from experiments.errors import DONE, FAILED, SettingsError
from experiments.launch.looks import count_look
from experiments.records.record import is_done, read_summary
from experiments.runtime.environment import world_size
from experiments.runtime.terminal import Terminal
from roadmap.common.files import read_object, write
from roadmap.common.statuses import ENDED_BADLY
from roadmap.conf import conf_of, flat

Overrides = Sequence[str]
"""Of one job, as Hydra's sweeper makes them."""

T = TypeVar("T")


class Study:
    """The runs of a study, each once: all of them, `members`, and those that were not done when it began, `todo`."""

    def __init__(self, name: str, runs: Path, members: Sequence[Run], looks: Sequence[int] = ()) -> None:
        """`looks`: the planned numbers of seeds at which results are looked at."""
        self.name = re.sub(r"[^\w.-]", "_", name)  # of a file, and of jobs
        self.runs = runs
        self.members = list({run.identity: run for run in members}.values())
        self.todo = [run for run in self.members if not is_done(run)]
        self.planned = [*looks]
        self.console = Terminal()

    def begin(self) -> None:
        """Write `runs/studies/NAME.json`: the command, the directories of the runs, and the looks at their results.
        Each run gets the number of the look for which it is launched."""
        names = sorted({run.name for run in self.members})
        file = self.runs / "studies" / f"{self.name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        looks, lines = count_look(self.members, read_object(file) or {}, self.planned)
        number_of = {name: look["number"] for look in looks for name in look["runs"]}
        self.members = [
            replace(run, look={"number": number_of[run.name], "planned": looks[0]["planned"]}) for run in self.members
        ]
        todo = {run.identity for run in self.todo}
        self.todo = [run for run in self.members if run.identity in todo]
        write(file, json.dumps({"command": command(), "runs": names, "looks": looks}, indent=1) + "\n")
        for line in lines:
            self.console.print(line, soft_wrap=True)

    def conclude(self, spent: str = "", failed: Callable[[Run], str | None] | None = None) -> int:
        """Print how many runs are done, which failed and why, and how to train the rest. Returns the exit code.

        `failed` gives a run's failure in one line, None if it has none; by default, what its record says.
        """
        failures = [(run, reason) for run in self.members if (reason := (failed or failure)(run))]
        done = sum(is_done(run) for run in self.members)
        self.console.print(f"{done} of {len(self.members)} runs are done{spent}")
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
        if done < len(self.members):
            self.console.print(f"train what is missing with the same command:\n  {command()}", soft_wrap=True)
        return FAILED if failures else DONE


def failure(run: Run) -> str | None:
    """Why a run failed, according to its record; None if it didn't."""
    summary = read_summary(run.directory) or {}
    return f"{summary['status']}: {summary.get('reason')}" if summary.get("status") in ENDED_BADLY else None


def make_study(
    jobs: Sequence[Overrides],
    compose: Callable[[Overrides], DictConfig],
    config: DictConfig,
    processes: int,
    gpus: bool,
) -> Study:
    """The study of these jobs, each composed and checked before anything starts.

    `config` is the multirun's own, of which the jobs are variations; `processes` will train each run together, on
    `gpus` or not.

    Raises:
        SettingsError, DesignError: if one of them is impossible.
    """
    if world_size() > 1:
        raise SettingsError("a study starts its runs itself; under torchrun or srun start one run, without -m")
    if not jobs:
        raise SettingsError("the sweep has no runs: what is swept over has no value")
    conf = conf_of(config.hydra.runtime.config_sources)
    runs = make_each(jobs, compose, partial(to_run, processes=processes, gpus=gpus, conf=conf))
    members = [run if seed is None else replace(run, seed=seed) for run, seed in runs]
    return Study(config.study_name, Path(config.runs), members, config.looks)


def make_each(
    jobs: Sequence[Overrides], compose: Callable[[Overrides], DictConfig], make: Callable[[DictConfig, Overrides], T]
) -> Iterator[tuple[T, int | None]]:
    """What `make` makes of each job's configuration and overrides, and the seed to set in it, if it isn't in it yet.

    Hydra takes 0.2 s to compose a job, so replicates share one result, unless a setting depends on the seed.
    """
    shared: dict[Overrides, T | None] = {}
    for overrides in jobs:
        seeds = [word for word in overrides if re.fullmatch(r"seed=\d{1,18}", word)]
        rest = tuple(word for word in overrides if word not in seeds)
        if rest not in shared:
            config = compose(rest)
            shared[rest] = None if _depends_on_seed(config) else make(config, rest)
        result = shared[rest]
        if result is None:
            yield make(compose(overrides), overrides), None
        else:
            yield result, int(seeds[-1].removeprefix("seed=")) if seeds else None


def _depends_on_seed(config: DictConfig) -> bool:
    settings: Any = OmegaConf.to_container(config, resolve=False)
    values = flat({name: value for name, value in settings.items() if name != "hydra"}).values()
    return any("${" in text and "seed" in text for text in map(str, values))


def command() -> str:
    return shlex.join(["python", "-m", "experiments.train", *sys.argv[1:]])
