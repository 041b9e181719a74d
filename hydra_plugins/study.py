"""This project's plugins for Hydra's multirun: a sweeper that composes nothing, and the launchers `local` and `slurm`.

Hydra finds plugins in the package `hydra_plugins` alone. It imports this file at every start, so nothing heavy is
imported at its top, and annotations are not postponed (it runs the file outside sys.modules, where dataclasses look
for them).
"""

import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from roadmap.common.bounds import Each, Number, Text, setting

COUNT = Number("[1, 100_000]")
OPTION = Text(like="an option of sbatch, text on one line")


class ReadOnce(CachingConfigRepository):
    """conf/ as it was when the study started: Hydra by itself would read each file again for each job."""

    def load_config(self, config_path: str) -> ConfigResult | None:
        return deepcopy(super().load_config(config_path))  # composing a job changes its copy

    def __deepcopy__(self, memo: dict) -> "ReadOnce":
        return self


@dataclass
class StudySweeperConf(BasicSweeperConf):
    _target_: str = "hydra_plugins.study.StudySweeper"


class StudySweeper(BasicSweeper):
    """Hydra's basic sweeper, but it composes and writes nothing: the launcher checks every job before it trains any."""

    config: Any
    hydra_context: Any
    launcher: Any

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        from experiments.config.modes import in_budgets, refuse_swept
        from experiments.config.overrides import for_sweep, with_steps
        from experiments.errors import SettingsError
        from roadmap.conf import conf_of

        conf, road = conf_of(self.config.hydra.runtime.config_sources), self.config.road.name
        loader = self.hydra_context.config_loader
        loader.repository = ReadOnce(loader.repository)
        if self.max_batch_size is not None:
            raise SettingsError(
                f"hydra.sweeper.max_batch_size={self.max_batch_size} would make several studies of one; "
                "hydra.launcher.jobs, or on SLURM hydra.launcher.array_parallelism, limits the runs at a time"
            )
        parser = OverridesParser.create(config_loader=loader)
        overrides = parser.parse_overrides(for_sweep([*self._parse_config(), *arguments], conf, road))
        refuse_swept(override.key_or_group for override in overrides if override.is_sweep_override())
        [sweep] = self.split_arguments(overrides, None)
        networks = [with_steps(words, conf, road) for words in sweep]
        return [self.launcher.launch(in_budgets(networks, self.config, self.launcher.compose), initial_job_idx=0)]


class StudyLauncher(Launcher):
    """Hands the jobs of a study to the command's study task; that of experiments.train has the launcher train them."""

    schema: type
    """The schema of `hydra.launcher`."""
    processes = 1
    """Processes that train each run together."""
    runs_per_gpu = 1
    """Runs on each GPU at a time, at most."""
    here = True
    """Whether runs train on this machine."""
    cores_per_process: int | None = None
    """Cores of each process of a run; None if it depends on the machine."""
    gpus_per_job = 1
    """GPUs that a run, or the runs of a job, are trained on."""
    runs_in_job = 1
    """Runs that are trained on these GPUs at the same time."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config_loader = hydra_context.config_loader
        self.task: Any = task_function
        self.config = config
        from experiments.config.checks import check_launcher

        check_launcher(config.hydra.launcher, self.schema)

    @cached_property
    def gpus(self) -> bool:
        """Whether runs train on GPUs."""
        from experiments.runtime.machine import has_gpus

        return has_gpus()

    def runs_at_once(self, runs: int) -> int | None:
        """How many of `runs` runs train at the same time; None if it depends on the machine."""
        raise NotImplementedError

    def train_later(self, runs: Sequence[Any]) -> int:
        """Have this command run again when these runs have ended, if they train elsewhere. Returns the exit code."""
        return 0

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        if code := self.task.study_task(job_overrides, self):
            sys.exit(code)
        return [JobReturn(overrides=list(job), status=JobStatus.COMPLETED) for job in job_overrides]

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        return self.config_loader.load_sweep_config(self.config, list(overrides))


@dataclass
class LocalLauncherConf:
    """`hydra/launcher=local`, the default: runs side by side on this machine."""

    _target_: str = "hydra_plugins.study.LocalLauncher"
    jobs: int | None = setting(None, COUNT)
    """Runs side by side; by default as many as the GPUs, or else the cores, allow."""
    gpus_per_run: int = setting(1, COUNT)
    """On a machine with GPUs: how many train each run, one process per GPU."""
    runs_per_gpu: int = setting(1, COUNT)
    """On a machine with GPUs: how many train on each at the same time, one process per run."""


class LocalLauncher(StudyLauncher):
    schema = LocalLauncherConf

    def __init__(self, jobs: int | None, gpus_per_run: int, runs_per_gpu: int) -> None:
        self.jobs, self.processes, self.runs_per_gpu = jobs, gpus_per_run, runs_per_gpu
        self.gpus_per_job, self.runs_in_job = gpus_per_run, runs_per_gpu

    def runs_at_once(self, runs: int) -> int | None:
        return self.jobs

    def train(self, study: Any) -> int:
        from experiments.launch.local import train_study
        from experiments.runtime.machine import share

        runs, device = len(study.members), self.config.device
        return train_study(study, share(runs, self.jobs, self.processes, device, self.runs_per_gpu))


@dataclass
class SlurmLauncherConf:
    """`hydra/launcher=slurm`: a job for each run, or for several. Except for `runs_per_...`, the names are submitit's
    for sbatch's options; null leaves an option to the cluster."""

    _target_: str = "hydra_plugins.study.SlurmLauncher"
    _convert_: str = "all"
    partition: str | None = setting(None, OPTION)
    account: str | None = setting(None, OPTION)
    qos: str | None = setting(None, OPTION)
    constraint: str | None = setting(None, OPTION)
    exclude: str | None = setting(None, OPTION)
    nodes: int = setting(1, COUNT)
    """Nodes that train a run together."""
    gpus_per_node: int = setting(1, Number("[0, 1024]"))
    """0 for CPUs only."""
    tasks_per_node: int | None = setting(None, COUNT)
    """Processes of a run on a node; by default one per GPU."""
    runs_per_job: int = setting(1, COUNT)
    """Runs that share a job's GPUs, or else its cores, one process per run."""
    runs_per_gpu: int = setting(1, COUNT)
    """Runs of a job that train on each of its GPUs at the same time."""
    cpus_per_task: int = setting(8, COUNT)
    mem_gb: float | None = setting(None, Number("(0, 1_000_000]"))
    """Memory of a node."""
    timeout_min: int = setting(1440, Number("[1, 1_000_000]"))
    """A run that takes longer is stopped in time, requeued, and resumes."""
    signal_delay_s: int = setting(120, Number("[1, 65535]"))
    """How long before the time limit it is stopped."""
    max_num_timeout: int = setting(100, Number("[0, 1_000_000]"))
    """How many times it is requeued."""
    array_parallelism: int = setting(256, COUNT)
    """How many jobs of a study run at the same time, at most."""
    setup: list[str] = setting([], Each(OPTION))
    """Shell commands before each job, such as module load."""
    additional_parameters: dict[str, Any] = setting({})
    """Other options of sbatch, like {reservation: name}."""
    wait: bool = False
    """Wait until no run is in the queue any more, and then print how the runs ended; else return after submission."""
    changed_sources: bool = False
    """Train even if the training code has changed between launch and start."""


class SlurmLauncher(StudyLauncher):
    schema = SlurmLauncherConf
    here = False

    def __init__(self, wait: bool, changed_sources: bool, runs_per_job: int, runs_per_gpu: int, **options: Any) -> None:
        self.wait, self.changed_sources, self.runs_per_job = wait, changed_sources, runs_per_job
        gpus, cores = options["gpus_per_node"], options["cpus_per_task"]
        tasks = options["tasks_per_node"] or max(1, gpus)
        if runs_per_job > 1:  # one task, which has the cores of all
            options |= {"cpus_per_task": cores * tasks}
            tasks = 1
        self.options = options | {"tasks_per_node": tasks}
        self.runs_per_gpu = min(runs_per_gpu, -(-runs_per_job // max(1, gpus)))
        self.runs_in_job = min(runs_per_job, gpus * runs_per_gpu if gpus else cores)
        self.processes = options["nodes"] * tasks
        self.gpus_per_job = options["nodes"] * gpus
        self.cores_per_process = max(1, self.options["cpus_per_task"] // self.runs_in_job)
        self.gpus = gpus > 0

    def runs_at_once(self, runs: int) -> int:
        jobs = self.options["array_parallelism"]
        if self.runs_per_job > 1:
            jobs = min(jobs, max(1, -(-runs // self.runs_per_job)))
        return jobs * self.runs_in_job

    def train(self, study: Any) -> int:
        from experiments.launch.slurm import submit_study

        return submit_study(
            study,
            self.options,
            runs_per_job=self.runs_per_job,
            runs_per_gpu=self.runs_per_gpu,
            wait=self.wait,
            changed_sources=self.changed_sources,
        )

    def train_later(self, runs: Sequence[Any]) -> int:
        from experiments.launch.slurm import submit_next_phase

        return submit_next_phase(self.config.study_name, runs, self.options)


ConfigStore.instance().store(group="hydra/sweeper", name="study", node=StudySweeperConf, provider="roadmap")
ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalLauncherConf, provider="roadmap")
ConfigStore.instance().store(group="hydra/launcher", name="slurm", node=SlurmLauncherConf, provider="roadmap")
