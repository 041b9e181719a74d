"""The command line: `python -m experiments.plan ...`: what a study, or a run, would cost. It trains nothing.

Its arguments are those of `experiments.train`, and a few of its own, which Hydra does not see.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from experiments import train
from experiments.config.checks import check_names
from experiments.config.run import Run, to_run
from experiments.config.settings import UNSTATED, Config
from experiments.errors import CONFIGURATION_ERRORS, DONE, FAILED, SettingsError, in_one_line, refuse
from experiments.launch.study import Overrides, compose_each
from experiments.records.record import is_done
from experiments.runtime.machine import has_gpus
from roadmap.common.command_line import Parser
from roadmap.conf import Conf, conf_of

PAGE = """\
What a study, or a run, would cost: time, memory and disk; what exists already, and what will fail. Trains nothing.
Every argument of experiments.train means what it means there, so a launch is priced by one word:

  python -m experiments.plan -m study=ladder                             measured here, within about 10 s
  python -m experiments.plan rung=gelu regime=resnet50 device=cuda       one run
  python -m experiments.plan -m study=ladder regime=resnet50 data=imagenet data.path=P \\
      --images-per-second 800 --memory 80                                on another machine's GPUs
"""
AFTER = "Exit codes: 0 priced, 1 something will certainly fail, 2 a mistake on the command line. See docs/plan.md."


def tasks(options: argparse.Namespace) -> tuple[Callable[[DictConfig], None], Callable[..., int]]:
    """What `train.main` does with a run, and with the runs of a study."""

    def plan_one(config: DictConfig) -> None:
        try:
            gpus = True if options.images_per_second else has_gpus()
            settings = HydraConfig.get()
            conf = conf_of(settings.runtime.config_sources)
            code = plan([_asked(config, settings.overrides.task, None, gpus, conf)], options, side_by_side=1)
        except CONFIGURATION_ERRORS as error:  # not left to Hydra, which would add a line of its own
            refuse(error, Config)
        if code:
            sys.exit(code)

    def plan_several(jobs: Sequence[Overrides], launcher: Any) -> int:
        gpus = True if options.images_per_second else launcher.gpus
        processes = launcher.processes
        conf = conf_of(launcher.config.hydra.runtime.config_sources)
        composed = compose_each(jobs, launcher.compose)
        asked = [_asked(config, overrides, processes, gpus, conf) for overrides, config in composed]
        missing = sum(run is not None and not is_done(run) for run, _ in asked)
        return plan(asked, options, launcher.at_a_time(missing), launcher.runs_per_gpu)

    return plan_one, plan_several


Asked = tuple[Run | None, tuple[str, str] | None]
"""A run as it can be priced, if it can; and, if the launch would refuse it, what it is and why."""


def plan(
    asked: Sequence[Asked], options: argparse.Namespace, side_by_side: int | None = None, runs_per_gpu: int = 1
) -> int:
    """Price what is asked for, so many runs at a time, and show it. Returns the exit code.

    Raises:
        SettingsError, DesignError: if none of them can be priced; or for a name that nothing reads.
    """
    runs, refused = {}, []
    for run, refusal in asked:
        if run:
            runs[run.identity] = run if options.images is None else _with_images(run, *options.images)
        if refusal and refusal not in refused:
            refused.append(refusal)
    if not runs:
        raise SettingsError(refused[0][1])
    from experiments.plan.cost import Terms, price
    from experiments.plan.table import show

    terms = Terms(side_by_side, dict(options.images_per_second), options.memory, runs_per_gpu)
    found = price([*runs.values()], terms, refused)
    if options.json:
        print(json.dumps(found.to_json()))
    else:
        show(found)
    return FAILED if found.problems else DONE


def _asked(config: DictConfig, overrides: Overrides, processes: int | None, gpus: bool, conf: Conf) -> Asked:
    """The run that a configuration asks for, and why the launch would refuse it. One that it would refuse for where
    the data are or how a step is split is priced without."""
    check_names(config, Config)
    try:
        return to_run(config, overrides, processes, gpus, conf), None
    except CONFIGURATION_ERRORS as error:
        refusal = in_one_line(error, Config)
    mended = config.copy()
    if OmegaConf.is_missing(mended.data, "path") or mended.data.path is None:
        mended.data.path = UNSTATED
    mended.micro_batch_size = None
    try:
        run = to_run(mended, overrides, 1, gpus, conf)
        return run, (run.title, refusal)
    except CONFIGURATION_ERRORS:
        return None, (" ".join(overrides), refusal)


def _with_images(run: Run, training: int, evaluation: int | None = None) -> Run:
    return replace(run, data=replace(run.data, train_images=training, val_images=evaluation or run.data.val_images))


def parser() -> Parser:
    made = Parser(
        prog="python -m experiments.plan",
        usage="%(prog)s [-m] [options] [overrides, as of experiments.train]",
        description=PAGE,
        epilog=AFTER,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument(
        "--images-per-second",
        metavar="[RUNG=]N",
        type=_rate,
        action="append",
        default=[],
        help="training throughput of one device, on the study's first network or on RUNG; others in proportion to "
        "multiply-adds, or between those of several. Without it, it is measured here",
    )
    made.add_argument("--memory", metavar="GB", type=_positive, help="of one device: what needs more is named")
    made.add_argument(
        "--images",
        metavar="TRAIN[,VAL]",
        type=_images,
        help="how many the two parts of the data have, where they are neither here nor known",
    )
    made.add_argument("--json", action="store_true", help="for machines: all of it, in seconds and bytes")
    return made


def _rate(text: str) -> tuple[str | None, float]:
    name, _, number = text.rpartition("=")
    return name or None, _positive(number)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return number


def _images(text: str) -> tuple[int, ...]:
    counts = text.replace("_", "").split(",")
    if len(counts) > 2 or not all(count.isdecimal() and int(count) for count in counts):
        raise argparse.ArgumentTypeError(f"must be one or two numbers of images, like 1281167,50000, not {text!r}")
    return tuple(map(int, counts))


def main() -> None:
    """Exit codes: 0 priced, 1 something will certainly fail, 2 a mistake on the command line, 130 interrupted."""
    options, words = parser().parse_known_args()
    first = next((index for index, word in enumerate(words) if "=" in word), len(words))
    sys.argv[1:] = [*words[:first], "hydra.run.dir=.", *words[first:]]  # else Hydra would make the folder of the runs
    train.main(*tasks(options))


if __name__ == "__main__":
    main()
