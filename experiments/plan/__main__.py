"""The command line: `python -m experiments.plan ...`: what a study, or a run, would cost. It trains nothing.

It takes the arguments of `experiments.train`, and a few of its own, which Hydra does not see.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from experiments import train
from experiments.config.checks import check_names
from experiments.config.modes import refuse_without_study
from experiments.config.overrides import Overrides
from experiments.config.run import Run, to_run
from experiments.config.settings import UNSTATED, Config
from experiments.errors import CONFIGURATION_ERRORS, DONE, FAILED, SettingsError, in_one_line, refuse
from experiments.launch.limits import Limits, hours_of, launched
from experiments.launch.study import NO_LIMITS, make_each
from experiments.launch.tuning import tuning_of
from experiments.plan.launch import SINGLE_RUN, Launch
from experiments.plan.parallel import on_all_cores
from experiments.records.record import is_ended
from experiments.runtime.machine import has_gpus
from roadmap.common.command_line import Parser, positive
from roadmap.conf import Conf, conf_of

if TYPE_CHECKING:
    from experiments.plan.cost import Cost

PAGE = """\
What a study, or a run, would cost: time, memory and disk; what exists already, and what will fail. Trains nothing.
Takes the same arguments as experiments.train; replace train with plan.

  python -m experiments.plan -m study=ladder                             measured here, within about 10 s
  python -m experiments.plan rung=gelu regime=resnet50 device=cuda       one run
  python -m experiments.plan -m study=ladder regime=resnet50 data=imagenet data.path=P \\
      --images-per-second 800 --memory 80 --gpus 8                       on another machine's eight GPUs
"""
EXIT_CODES = (
    "Exit codes: 0 estimated, 1 something will certainly fail, 2 a mistake on the command line. See docs/plan.md."
)


def tasks(options: argparse.Namespace, started: float) -> tuple[Callable[[DictConfig], None], Callable[..., int]]:
    """What `train.main` does with a run, and with the runs of a study."""

    def plan_run(config: DictConfig) -> None:
        try:
            if options.gpus:
                raise SettingsError("--gpus is for a study (-m); a single run takes one GPU, or those of torchrun")
            gpus = bool(options.images_per_second) or has_gpus()
            settings = HydraConfig.get()
            refuse_without_study(config)
            conf = conf_of(settings.runtime.config_sources)
            code = plan([_request(config, settings.overrides.task, None, gpus, conf)], options, started=started)
        except CONFIGURATION_ERRORS as error:  # Hydra would add a line of its own
            refuse(error, Config)
        if code:
            sys.exit(code)

    def plan_study(jobs: Sequence[Overrides], launcher: Any) -> int:
        gpus = launcher.gpus or (bool(options.images_per_second) and launcher.here)
        conf = conf_of(launcher.config.hydra.runtime.config_sources)
        make = partial(_request, processes=launcher.processes, gpus=gpus, conf=conf)
        on_cpus = not launcher.here and not launcher.gpus  # whatever this machine has

        def as_launched(run: Run, seed: int | None) -> Run:
            device = "cpu" if on_cpus and run.device == "auto" else run.device
            return replace(run, device=device, seed=run.seed if seed is None else seed)

        def requests_of(jobs: Sequence[Overrides]) -> list[Request]:
            made = on_all_cores(lambda part: [*make_each(part, launcher.compose, make)], jobs)
            return [(run and as_launched(run, seed), refusal) for (run, refusal), seed in made]

        if tuning := tuning_of(jobs, launcher.config, launcher.compose):
            if options.detect or options.margin:
                raise SettingsError("--detect and --margin are for a study without tune; leave that out")
            requests = requests_of([*tuning.search_jobs, *jobs])
            best = tuning.expected_best([run for run, _ in requests[: len(tuning.search_jobs)]])
            requests += requests_of(tuning.chosen_jobs(best))
        else:
            requests = requests_of(jobs)
        missing = sum(run is not None and not is_ended(run) for run, _ in requests)
        limits, looks = Limits(max_hours=launcher.config.max_hours), len(launcher.config.looks) or 1
        gpus_elsewhere = not launcher.here and launcher.gpus and launcher.config.device != "cpu"
        launch = Launch(
            runs_at_once=_runs_at_once(launcher, missing, options),
            runs_per_gpu=launcher.runs_per_gpu,
            cores_per_process=launcher.cores_per_process,
            gpus_elsewhere=gpus_elsewhere and not has_gpus(),
            is_limit=not launcher.here and not options.gpus,
        )
        return plan(requests, options, launch, limits, looks, started)

    return plan_run, plan_study


Request = tuple[Run | None, tuple[str, str] | None]
"""A run, if its cost can be estimated; and its title and the reason, if the launch would refuse it."""


def plan(
    requests: Sequence[Request],
    options: argparse.Namespace,
    launch: Launch = SINGLE_RUN,
    limits: Limits = NO_LIMITS,
    looks: int = 1,
    started: float | None = None,
) -> int:
    """Estimate what these runs cost, and how many seeds they need, and print it. Returns the exit code.

    Raises:
        SettingsError, DesignError: if nothing can be said of any of them, an option names a network that is not among
            them, or the noise is not known that the number of seeds depends on.
    """
    runs = {run.identity: run for run, _ in requests if run}
    refused = list(dict.fromkeys(refusal for _, refusal in requests if refusal))
    if not runs:
        raise SettingsError(refused[0][1])
    if options.images:
        training, evaluation = options.images
        for identity, run in runs.items():
            data = replace(run.data, train_images=training, val_images=evaluation or run.data.val_images)
            runs[identity] = replace(run, data=data)
    seed_plans = []
    if options.detect or options.margin:
        from experiments.plan.seeds import plan_seeds  # which imports the analysis

        seed_plans = plan_seeds([*runs.values()], options.detect, options.margin, options.noise, looks)
    from experiments.plan.cost import estimate  # which imports torch
    from experiments.plan.table import show

    gc.freeze()  # what exists by now is needed to the end
    gc.enable()
    images_per_second = dict(options.images_per_second)
    cost = estimate([*runs.values()], refused, images_per_second, options.memory, launch, started)
    if warning := _beyond_limit(cost, limits, [*runs.values()]):
        cost = replace(cost, warnings={**cost.warnings, warning: [network.run.title for network in cost.networks]})
    if options.json:
        seeds = {"seeds": [of_context.to_json(cost) for of_context in seed_plans]} if seed_plans else {}
        print(json.dumps(cost.to_json() | seeds))
    else:
        show(cost, [line for of_context in seed_plans for line in of_context.lines(cost)])
    return FAILED if cost.problems else DONE


def _runs_at_once(launcher: Any, missing: int, options: argparse.Namespace) -> int | None:
    """As many runs as the launcher trains at a time, but no more than the stated GPUs hold.

    Raises:
        SettingsError: if these can't train the study.
    """
    runs, gpus = launcher.runs_at_once(missing), options.gpus
    if gpus is None:
        return runs
    if launcher.config.device not in ("auto", "cuda") or not launcher.gpus_per_job:
        setting = "hydra.launcher.gpus_per_node=0" if not launcher.gpus_per_job else f"device={launcher.config.device}"
        raise SettingsError(f"--gpus={gpus} and {setting} contradict each other; leave out one of them")
    if not options.images_per_second and not has_gpus():
        raise SettingsError(f"--gpus={gpus}: there is no GPU here to measure; state --images-per-second of one")
    if gpus < launcher.gpus_per_job:
        raise SettingsError(f"--gpus={gpus} are fewer than the {launcher.gpus_per_job} GPUs of one job")
    room = gpus // launcher.gpus_per_job * launcher.runs_in_job
    return room if runs is None else min(room, runs)


def _beyond_limit(cost: Cost, limits: Limits, runs: Sequence[Run]) -> str | None:
    """That `max_hours` will end the study before its last run, in one line; None if it won't, as far as is known."""
    if limits.max_hours is None or cost.hours_left is None:
        return None
    earlier = launched(runs[0].runs, runs[0].study_name)
    spent, _ = hours_of({*earlier, *(run.directory for run in runs)})
    if spent + cost.hours_left <= limits.max_hours:
        return None
    unit = cost.hardware.unit
    return (
        f"max_hours={limits.max_hours:g} does not suffice, so the last runs will not start: {spent:.3g} {unit}-hours "
        f"are spent, and {cost.hours_left:.3g} are left"
    )


def _request(config: DictConfig, overrides: Overrides, processes: int | None, gpus: bool, conf: Conf) -> Request:
    """The run of a configuration, and why the launch would refuse it. If the reason is the data's path or how a batch
    is split, the cost can be estimated without."""
    check_names(config, Config)
    try:
        return to_run(config, overrides, processes, gpus, conf), None
    except CONFIGURATION_ERRORS as error:
        reason = in_one_line(error, Config)
    repaired = config.copy()
    if OmegaConf.is_missing(repaired.data, "path") or repaired.data.path is None:
        repaired.data.path = UNSTATED
    repaired.micro_batch_size = None
    try:
        run = to_run(repaired, overrides, 1, gpus, conf)
        return run, (run.title, reason)
    except CONFIGURATION_ERRORS:
        return None, (" ".join(overrides), reason)


def parser() -> Parser:
    parser = Parser(
        prog="python -m experiments.plan",
        usage="%(prog)s [-m] [options] [overrides, as of experiments.train]",
        description=PAGE,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--images-per-second",
        metavar="[RUNG=]N",
        type=_rate,
        action="append",
        default=[],
        help="training throughput of one device on the study's first network, or on RUNG; for the others it is derived "
        "from their multiply-adds. Without this option it is measured here",
    )
    parser.add_argument(
        "--gpus",
        metavar="N",
        type=_count,
        help="of the study, on this machine or another: how many days it takes on them. By default those that are "
        "here, or one; on a cluster as many as hydra.launcher.array_parallelism allows",
    )
    parser.add_argument(
        "--memory", metavar="GB", type=positive, help="of one device: networks that need more are named"
    )
    parser.add_argument(
        "--images",
        metavar="TRAIN[,VAL]",
        type=_images,
        help="number of training and evaluation images, where the data are not here and their number is not known",
    )
    parser.add_argument(
        "--detect",
        metavar="POINTS",
        type=positive,
        help="how many seeds it takes to show a true change of this size with power 0.8 (docs/seeds.md)",
    )
    parser.add_argument(
        "--margin",
        metavar="POINTS",
        type=positive,
        help="how many seeds it takes to show that a true change of 0 is negligible: within ±POINTS",
    )
    parser.add_argument(
        "--noise",
        metavar="POINTS|records|paper",
        type=_noise,
        help="with --detect or --margin, the standard deviation of a run over seeds: a number, from the records in "
        "runs=, or from the paper; by default from the records or, where the study is the paper's, from that",
    )
    parser.add_argument("--json", action="store_true", help="everything as JSON, in seconds and bytes")
    return parser


def _rate(text: str) -> tuple[str | None, float]:
    name, _, number = text.rpartition("=")
    return name or None, positive(number)


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"must be a number of GPUs, 1 or more, not {text!r}")
    return int(text)


def _noise(text: str) -> float | str:
    if text in ("records", "paper"):
        return text
    try:
        return positive(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"must be a number above 0, records or paper, not {text!r}") from None


def _images(text: str) -> tuple[int, int | None]:
    counts = text.replace("_", "").split(",")
    if len(counts) > 2 or not all(count.isdecimal() and int(count) for count in counts):
        raise argparse.ArgumentTypeError(f"must be one or two numbers of images, like 1281167,50000, not {text!r}")
    return int(counts[0]), int(counts[1]) if len(counts) == 2 else None


def main() -> None:
    """Exit codes: 0 estimated, 1 something will certainly fail, 2 a mistake on the command line, 130 interrupted."""
    started = time.perf_counter()
    options, words = parser().parse_known_args()
    if options.noise and not (options.detect or options.margin):
        parser().error("--noise goes with --detect or --margin")
    first = next((index for index, word in enumerate(words) if "=" in word), len(words))
    sys.argv[1:] = [*words[:first], "hydra.run.dir=.", *words[first:]]  # or Hydra would create the folder of the runs
    gc.disable()  # until networks are counted (`plan`): imports and configurations leave little garbage
    try:
        train.main(*tasks(options, started))
    finally:
        gc.enable()


if __name__ == "__main__":
    main()
