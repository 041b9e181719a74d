"""The command line: `python -m experiments.train [overrides]`, and with `-m` a study of several runs.

Hydra composes conf/; a single run is trained here, several by the launcher (hydra_plugins/study.py). No torch is
imported until a configuration has been composed and found possible.
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

from experiments.config.checks import check_groups
from experiments.config.requested import of_several, searched, spelled_out
from experiments.config.run import to_run
from experiments.config.settings import Config, register
from experiments.errors import CONFIGURATION_ERRORS, INTERRUPTED, SettingsError, is_first, refuse, refusing
from experiments.launch.preflight import preflight
from experiments.records.record import is_done
from experiments.runtime.machine import has_gpus, is_busy
from roadmap.conf import CONF, GLOBAL, Conf, conf_of
from roadmap.roads import is_name


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def train_one(config: DictConfig) -> None:
    asked = HydraConfig.get()
    try:
        if asked.mode == RunMode.RUN and asked.sweeper.params:
            raise SettingsError(f"study={asked.runtime.choices.study} asks for several runs; add -m")
        if (launcher := asked.runtime.choices["hydra/launcher"]) != "local":  # Hydra would train here, without a word
            raise SettingsError(f"hydra/launcher={launcher} launches studies, also of one run; add -m")
        gpus = has_gpus()
        conf = conf_of(asked.runtime.config_sources)
        run = to_run(config, asked.overrides.task, gpus=gpus, conf=conf)
        if not is_done(run):
            preflight([run], gpus=gpus)
    except CONFIGURATION_ERRORS as error:  # not left to Hydra, which would add a line of its own
        refuse(error, Config)
    if run.device in ("auto", "cpu") and not gpus and run.threads is None and is_first() and is_busy():
        print(
            "warning: others keep this machine busy, and this run takes all of its cores; threads=1 takes one",
            file=sys.stderr,
        )
    from experiments.launch.worker import train_here

    train_here(run)


def train_several(jobs: Sequence[Sequence[str]], launcher: Any) -> int:
    from experiments.launch.study import make_study

    study = make_study(jobs, launcher.compose, launcher.config, launcher.processes, launcher.gpus)
    preflight(study.todo, gpus=launcher.gpus, here=launcher.here)
    return launcher.train(study)


train_one.__wrapped__.of_study = train_several  # what the launchers do with a study (hydra_plugins/study.py)


def main(task: Callable[[], None] = train_one) -> None:
    """Exit codes: 0 all trained, 1 a run failed, 2 a mistake in the configuration, 130 interrupted.

    `task` is what becomes of what Hydra composes.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing: one place words the errors
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch asks for huge pages: up to a tenth faster on a CPU
    register()
    try:
        with refusing(Config):
            words = sorted(sys.argv[1:], key=lambda word: word not in ("-m", "--multirun"))  # Hydra's must lead
            conf = conf_on(words)
            check_groups(words, conf)
            several = words and words[0] in ("-m", "--multirun")
            sys.argv[1:] = of_several(words, conf) if several else spelled_out(words, conf)
            task()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def check_own(path: Path, group: Path, words: Sequence[str]) -> None:
    """Refuse a file of one's own that would be hidden, or not be read as it is meant.

    Raises:
        SettingsError: in one line.
    """
    if (group / path.name).exists():
        raise SettingsError(f"{path}: {group.name}={path.stem} is one of ours; give yours another name")
    if path.suffix != ".yaml":
        raise SettingsError(f"{path} is not read: its name must end in .yaml")
    if group.name == "step" and not is_name(path.stem):
        raise SettingsError(f"{path}: a step is called by letters, digits and _, not {path.stem!r}")
    is_named = any(path.stem in word for word in words)  # the steps of a road are looked at when they are composed
    if group.name in ("regime", "recipe", "study") and is_named and GLOBAL not in path.read_text("utf-8", "replace"):
        raise SettingsError(f"{path}: its first line must be '{GLOBAL}'")


def conf_on(words: Sequence[str]) -> Conf:
    """conf/, and the folders of one's own that the command line names.

    Raises:
        SettingsError: if that is none, or if ours would hide a file of it.
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
    folders = [*([own] if own else []), *searched(words)]
    for group, folder in product(groups, folders):
        for path in sorted((folder / group.name).glob("*.y*ml")):
            check_own(path, group, words)
    return Conf((CONF, *(folder.resolve() for folder in folders)))


if __name__ == "__main__":
    main()
