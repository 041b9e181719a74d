"""The command line: `python -m experiments.train [overrides]`, and with `-m` a study of several runs.

Hydra composes conf/; a single run is trained here, several by the launcher (hydra_plugins/study.py). Torch is imported
only when a configuration has been composed and checked; timm, where it is named, a little earlier.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from experiments.config.modes import refuse_without_study
from experiments.config.overrides import check_groups, for_sweep, search_path, with_steps
from experiments.config.run import Run, to_run
from experiments.config.settings import Config, register
from experiments.errors import CONFIGURATION_ERRORS, INTERRUPTED, SettingsError, is_first, refuse, refusing
from experiments.launch.preflight import preflight
from experiments.records.record import is_done
from experiments.runtime.machine import has_gpus, is_busy
from roadmap.conf import CONF, GLOBAL, Conf, conf_of
from roadmap.roads import is_name


def train_run(config: DictConfig) -> None:
    """Hydra's task function: train the one run of a composed configuration."""
    settings = HydraConfig.get()
    try:
        if settings.mode == RunMode.RUN and settings.sweeper.params:
            raise SettingsError(f"study={settings.runtime.choices['study']} asks for several runs; add -m")
        if (launcher := settings.runtime.choices["hydra/launcher"]) != "local":  # Hydra would silently train here
            raise SettingsError(f"hydra/launcher={launcher} launches studies, also of one run; add -m")
        gpus = has_gpus()
        refuse_without_study(config)
        conf = conf_of(settings.runtime.config_sources)
        run = to_run(config, settings.overrides.task, gpus=gpus, conf=conf)
        if not is_done(run):
            preflight([run], gpus=gpus)
    except CONFIGURATION_ERRORS as error:  # not left to Hydra, which would add a line of its own
        refuse(error, Config)
    if run.device in ("auto", "cpu") and not gpus and run.threads is None and is_first() and is_busy():
        print(
            "warning: other processes keep this machine busy, and this run takes all of its cores; threads=1 takes one",
            file=sys.stderr,
        )
    from experiments.launch.worker import train_here

    train_here(run)


def train_study(jobs: Sequence[Sequence[str]], launcher: Any) -> int:
    """Train a study's runs, given by the overrides of each. `launcher` is a StudyLauncher. Returns the exit code."""
    from experiments.launch.limits import Limits
    from experiments.launch.study import Study, make_runs
    from experiments.launch.tuning import train_tuned, tuning_of

    config = launcher.config

    def train(runs: list[Run], **how: Any) -> int:
        limits = Limits(config.fail_fast, config.max_hours)
        study = Study(config.study_name, Path(config.runs), runs, limits, config.looks, **how)
        preflight(study.todo, gpus=launcher.gpus, here=launcher.here)
        return launcher.train(study)

    if tuning := tuning_of(jobs, config, launcher.compose):
        return train_tuned(tuning, launcher, train)
    return train(make_runs(jobs, launcher))


def main(
    task: Callable[[DictConfig], None] = train_run,
    study_task: Callable[[Sequence[Sequence[str]], Any], int] = train_study,
) -> None:
    """Compose the command line, and hand a run to `task`, the runs of a multirun to `study_task`.

    Exit codes: 0 all trained, 1 a run failed, 2 a mistake in the configuration, 130 interrupted.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing: errors.py words all errors
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch uses huge pages: up to a tenth faster on a CPU
    register()
    task.study_task = study_task  # type: ignore[attr-defined]  # Hydra hands its launchers the task function alone
    try:
        with refusing(Config):
            words = sorted(sys.argv[1:], key=lambda word: word not in ("-m", "--multirun"))  # Hydra needs it first
            conf = conf_on(words)
            check_groups(words, conf)
            multirun = words and words[0] in ("-m", "--multirun")
            sys.argv[1:] = for_sweep(words, conf) if multirun else with_steps(words, conf)
            hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")(task)()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def check_own(path: Path, group: Path, words: Sequence[str]) -> None:
    """Refuse a file of the user's that would be hidden, or not be read as it is meant.

    Raises:
        SettingsError: in one line.
    """
    if (group / path.name).exists():
        raise SettingsError(f"{path}: {group.name}={path.stem} is built in; give yours another name")
    if path.suffix != ".yaml":
        raise SettingsError(f"{path} is not read: its name must end in .yaml")
    if group.name == "step" and not is_name(path.stem):
        raise SettingsError(f"{path}: a step's name has letters, digits and _ alone, not {path.stem!r}")
    is_named = any(path.stem in word for word in words)  # the steps of a road are checked when they are composed
    if group.name in ("regime", "recipe", "study") and is_named and GLOBAL not in path.read_text("utf-8", "replace"):
        raise SettingsError(f"{path}: its first line must be '{GLOBAL}'")


def conf_on(words: Sequence[str]) -> Conf:
    """conf/, and the user's folders that the command line names.

    Raises:
        SettingsError: if one does not exist, or a file in it would be hidden by one of conf/.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", type=Path)
    own = parser.parse_known_args(words)[0].config_dir
    if own and not own.is_dir():
        raise SettingsError(f"--config-dir {own} is not a folder")
    groups = [path for path in CONF.iterdir() if path.is_dir()]
    is_primary = any(word.startswith(("--config-name", "-cn")) for word in words)  # a file of the folder itself is read
    if own and not is_primary and not any((own / group.name).is_dir() for group in groups):
        raise SettingsError(f"--config-dir {own} has no folder like those of conf/: step, road, regime, recipe ...")
    folders = [*([own] if own else []), *search_path(words)]
    for group, folder in product(groups, folders):
        for path in sorted((folder / group.name).glob("*.y*ml")):
            check_own(path, group, words)
    return Conf((CONF, *(folder.resolve() for folder in folders)))


if __name__ == "__main__":
    main()
