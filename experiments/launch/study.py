"""A study: the runs that a multirun asks for, what exists of them already, and what became of them.

Who trains them is the launcher's business: local.py on this machine, slurm.py on a cluster.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from experiments.config.code_digest import composition_digest
from experiments.config.run import Run, to_run
from experiments.errors import DONE, FAILED, SettingsError
from experiments.records.record import is_done, read_summary
from experiments.runtime.environment import world_size
from experiments.runtime.terminal import Terminal
from roadmap.common.files import read_object, write
from roadmap.common.statuses import ENDED_BADLY
from roadmap.conf import conf_of

Overrides = Sequence[str]
"""Of one job, as Hydra's sweeper makes them."""

Made = TypeVar("Made")


@dataclass(frozen=True)
class Member:
    """What a study keeps of a run that it asks for."""

    directory: Path
    identity: str
    series: str
    seed: int
    title: str

    @property
    def name(self) -> str:
        return self.directory.name


class Study:
    """The runs that were asked for, once each: `members`; and those of them that are not done: `todo`."""

    def __init__(
        self, name: str, runs: Path, members: Iterable[Member], todo: Iterable[Run], manifest: Manifest
    ) -> None:
        self.name, self.runs, self.manifest = name, runs, manifest
        self.members = list({member.identity: member for member in members}.values())
        self.todo = list({run.identity: run for run in todo}.values())
        self.console = Terminal()

    def begin(self) -> None:
        """Nothing is impossible: write down what the study is."""
        self.manifest.write(self.members)

    def conclude(self, spent: str = "", failed: Callable[[Member], str | None] | None = None) -> int:
        """Say what became of the study, name what failed and why, and how to go on. Returns the exit code.

        `failed` gives a member's failure in one line, None if it has none; as the records say if not given.
        """
        failures = {member: why for member in self.members if (why := (failed or failure)(member))}
        done = sum(is_done(member) for member in self.members)
        self.console.print(f"{done} of {len(self.members)} runs are done{spent}")
        if failures:
            table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
            table.add_column("failed", overflow="fold", ratio=2)
            table.add_column("why", overflow="fold", ratio=3)
            common = set.intersection(*({*member.title.split(" ")} for member in self.members))
            for member, why in failures.items():
                differs = [word for word in member.title.split(" ")[1:] if word not in common]
                table.add_row("\n  ".join([member.name, *differs]), why)
            self.console.print(table)
            logs = next(iter(failures)).directory.with_name("RUN") / "log.txt"
            self.console.print(f"each has a log: {logs}", soft_wrap=True)
        if done < len(self.members):
            self.console.print(f"train what is missing with the same command:\n  {command()}", soft_wrap=True)
        return FAILED if failures else DONE


def failure(member: Member) -> str | None:
    """Why a run failed, as its record says; None if it didn't."""
    summary = read_summary(member.directory) or {}
    return f"{summary['status']}: {summary.get('reason')}" if summary.get("status") in ENDED_BADLY else None


def find_study(
    jobs: Sequence[Overrides],
    compose: Callable[[Overrides], DictConfig],
    config: DictConfig,
    processes: int,
    gpus: bool,
) -> Study:
    """The study of these jobs. Each is composed and checked before anything starts, but for those that were asked for
    before, with the same files of configuration, and are done: Hydra takes 0.15 s to compose one.

    `config` is the multirun's own, of which the jobs are variations; `processes` will train each run together, on
    `gpus` or not.

    Raises:
        SettingsError, DesignError: if one of them is impossible.
    """
    if world_size() > 1:
        raise SettingsError("a study starts its runs itself; under torchrun or srun start one run, without -m")
    if not jobs:
        raise SettingsError("this asks for no run: what is swept over has no value")
    manifest = Manifest(config, processes, gpus)
    conf = conf_of(config.hydra.runtime.config_sources)
    composed = Composed(compose, lambda config, overrides: to_run(config, overrides, processes, gpus, conf))
    members, todo = [], []
    for overrides in jobs:
        member, code = manifest.known(overrides), {}
        if member is None or not is_done(member):
            run, seed = composed(overrides)
            run, code = run if seed is None else replace(run, seed=seed), run.code
            member = Member(run.directory, run.identity, run.series, run.seed, run.title)
            if not is_done(member):
                todo.append(run)
        if not code:  # which may change while no file of configuration does
            manifest.add(overrides, member)
        members.append(member)
    return Study(manifest.name, Path(config.runs), members, todo, manifest)


class Composed(Generic[Made]):
    """What is made of the configurations that jobs ask for. Replicates, whose seed nothing else looks at, share it."""

    def __init__(
        self, compose: Callable[[Overrides], DictConfig], make: Callable[[DictConfig, Overrides], Made]
    ) -> None:
        self._compose, self._make = compose, make
        self._shared: dict[tuple[str, ...], Made | None] = {}

    def __call__(self, overrides: Overrides) -> tuple[Made, int | None]:
        """What is made, and the seed to be set in it; None if it has its own."""
        seeds = [item for item in overrides if re.fullmatch(r"seed=\d{1,18}", item)]
        rest = tuple(item for item in overrides if item not in seeds)
        if rest not in self._shared:
            config = self._compose(rest)
            looked_at = re.search(r"\$\{[^}]*\bseed\b", OmegaConf.to_yaml(config))
            self._shared[rest] = None if looked_at else self._make(config, rest)
        made = self._shared[rest]
        if made is None:
            return self._make(self._compose(overrides), overrides), None
        return made, int(seeds[-1].removeprefix("seed=")) if seeds else None


class Manifest:
    """`runs/studies/NAME.json`: which runs a study asked for when it was last launched, and by what overrides."""

    def __init__(self, config: DictConfig, processes: int, gpus: bool) -> None:
        self.name = re.sub(r"[^\w.-]", "_", config.study_name)  # of a file, and of jobs
        self.path = Path(config.runs) / "studies" / f"{self.name}.json"
        sources = config.hydra.runtime.config_sources
        unread = [one for one in sources if one.schema == "pkg" and one.path != "hydra.conf"]
        folders = [Path(one.path) for one in sources if one.schema == "file"]
        digest = None if unread else composition_digest(folders)
        where = [digest, processes, gpus, os.getcwd(), config.hydra.job.config_name, list(config.hydra.overrides.hydra)]
        where += [config.data.version] if config.data.path else []  # a folder's, which may have changed
        self._where = None if digest is None or config.init else json.dumps(where)
        self._stated = {*config.hydra.overrides.task}
        self._asked: dict[str, dict[str, Any]] = {}
        before = (read_object(self.path) or {}).get("asked")
        self._before = before if isinstance(before, dict) else {}

    def known(self, overrides: Overrides) -> Member | None:
        """The run that these overrides were found to ask for, if all that they are composed from is as it was."""
        entry = self._before.get(self._key(overrides))
        kinds = {field.name: int if field.name == "seed" else str for field in fields(Member)}
        if not isinstance(entry, dict) or {name: type(value) for name, value in entry.items()} != kinds:
            return None
        return Member(**entry | {"directory": Path(entry["directory"])})

    def add(self, overrides: Overrides, member: Member) -> None:
        if key := self._key(overrides):
            self._asked[key] = asdict(member) | {"directory": str(member.directory)}

    def write(self, members: Iterable[Member]) -> None:
        names = sorted({member.name for member in members})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write(self.path, json.dumps({"command": command(), "runs": names, "asked": self._asked}, indent=1) + "\n")

    def _key(self, overrides: Overrides) -> str | None:
        """None for what a look outside may decide: weights to start from, data that are swept, or the environment."""
        text = json.dumps([self._where, *overrides])
        swept = [one for one in overrides if one not in self._stated]
        if self._where is None or re.search(r'"init=|\$\{(oc\.env|now):', text):
            return None
        if any(one.startswith("data") for one in swept):
            return None
        return hashlib.sha256(text.encode()).hexdigest()


def command() -> str:
    return shlex.join(["python", "-m", "experiments.train", *sys.argv[1:]])
