"""Hydra's multirun as this project does it: a sweeper that composes nothing twice, and the launcher `local`.

Hydra finds plugins in the package `hydra_plugins` alone. It imports this file at every start, so nothing heavy is
imported at its top, and annotations are not postponed (it runs the file outside sys.modules, where dataclasses look
for them).
"""

import re
import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class ReadOnce(CachingConfigRepository):
    """conf/ as it is when a study starts: Hydra alone would read each file anew for each job."""

    def load_config(self, config_path: str) -> ConfigResult | None:
        return deepcopy(super().load_config(config_path))  # composing a job changes what it was given

    def __deepcopy__(self, memo: dict) -> "ReadOnce":
        return self


@dataclass
class StudySweeperConf(BasicSweeperConf):
    _target_: str = "hydra_plugins.study.StudySweeper"


class StudySweeper(BasicSweeper):
    """Hydra's basic sweeper; but it composes and writes nothing: the launcher composes and checks every job first."""

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        loader = self.hydra_context.config_loader
        loader.repository = ReadOnce(loader.repository)
        parser = OverridesParser.create(config_loader=loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        returns, first = [], 0
        for batch in self.split_arguments(overrides, self.max_batch_size):
            returns.append(self.launcher.launch(batch, initial_job_idx=first))
            first += len(batch)
            for job in returns[-1]:
                _ = job.return_value  # raises what the job raised
        return returns


@dataclass
class LocalLauncherConf:
    _target_: str = "hydra_plugins.study.LocalLauncher"
    jobs: int | None = None
    """Runs side by side; one a core if not given."""


class LocalLauncher(Launcher):
    """Trains a study's runs side by side on this machine, a process and one thread a run."""

    def __init__(self, jobs: int | None) -> None:
        self.jobs = jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config_loader = hydra_context.config_loader
        self.task = task_function
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        composed: dict[tuple[str, ...], DictConfig] = {}

        def compose(overrides: Sequence[str]) -> DictConfig:
            """The seed is a leaf that nothing else of the configuration hangs on: replicates are composed once."""
            seeds = [item for item in overrides if re.fullmatch(r"seed=\d+", item)]
            rest = tuple(item for item in overrides if item not in seeds)
            if rest not in composed:
                composed[rest] = self.config_loader.load_sweep_config(self.config, list(rest))
            config = composed[rest].copy()
            config.seed = int(seeds[-1].removeprefix("seed=")) if seeds else config.seed
            return config

        code = self.task.of_study([compose(overrides) for overrides in job_overrides], self)
        if code:
            sys.exit(code)
        return [JobReturn(overrides=list(one), status=JobStatus.COMPLETED) for one in job_overrides]


ConfigStore.instance().store(group="hydra/sweeper", name="study", node=StudySweeperConf, provider="roadmap")
ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalLauncherConf, provider="roadmap")
