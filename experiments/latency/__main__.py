"""The command line: `python -m experiments.latency ...`: how fast networks are. It trains nothing.

It takes the arguments of `experiments.train`, and a few of its own, which Hydra does not see.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from experiments import train
from experiments.config.modes import refuse_without_study
from experiments.config.overrides import Overrides
from experiments.config.run import Run, to_run
from experiments.config.settings import UNSTATED, Config
from experiments.errors import CONFIGURATION_ERRORS, SettingsError, refuse
from experiments.latency.record import MEMORY_FORMATS
from experiments.launch.study import make_each
from experiments.runtime.machine import has_gpus
from roadmap.common.command_line import Parser, positive
from roadmap.conf import Conf, conf_of

PAGE = """\
How fast a network is on this machine, or each of a study: milliseconds and images per second of inference and of a
training step, in interleaved rounds. Trains nothing, and needs no data.
Takes the same arguments as experiments.train; replace train with latency.

  python -m experiments.latency -m study=ladder                          every rung of the road
  python -m experiments.latency rung=gelu regime=resnet50 data=imagenet  one network, of 1,000 classes
  python -m experiments.latency -m rung=resnet,gelu device=cpu precision=float32,bf16 compile=false,true
"""
EXIT_CODES = "Exit codes: 0 measured, 1 something could not be, 2 a mistake on the command line. See docs/latency.md."
LARGEST = 65_536


def tasks(options: argparse.Namespace, started: float) -> tuple[Callable[[DictConfig], None], Callable[..., int]]:
    """What `train.main` does with a run, and with the runs of a study."""

    def measure_run(config: DictConfig) -> None:
        try:
            settings = HydraConfig.get()
            refuse_without_study(config)
            conf = conf_of(settings.runtime.config_sources)
            code = measure([_to_run(config, settings.overrides.task, has_gpus(), conf)], options, started)
        except CONFIGURATION_ERRORS as error:  # Hydra would add a line of its own
            refuse(error, Config)
        if code:
            sys.exit(code)

    def measure_study(jobs: Sequence[Overrides], launcher: Any) -> int:
        if not launcher.here:
            raise SettingsError("hydra/launcher=slurm trains elsewhere, and speed is measured here; leave it out")
        conf = conf_of(launcher.config.hydra.runtime.config_sources)
        make = partial(_to_run, gpus=launcher.gpus, conf=conf)
        return measure([run for run, _ in make_each(jobs, launcher.compose, make)], options, started)

    return measure_run, measure_study


def measure(runs: Sequence[Run], options: argparse.Namespace, started: float) -> int:
    """Measure what has not been measured of the networks of these runs, and print all. Returns the exit code."""
    from experiments.latency.study import Latency, Plan  # which imports torch
    from experiments.latency.table import show

    plan = Plan(
        batch_sizes=options.batch_sizes,
        memory_formats=options.memory_format,
        training=options.training,
        rounds=options.rounds,
        end=started + 60 * options.minutes,
        again=options.again,
    )
    latency = Latency(runs, plan, partial(print, flush=True))
    measured = len(latency.cases) * len(plan.timings) - len(latency.todo)
    print(f"{len(latency.cases)} networks, {len(latency.todo)} timings to measure, {measured} measured already")
    code = latency.measure()
    show(latency)
    return code


def _to_run(config: DictConfig, overrides: Overrides, gpus: bool, conf: Conf) -> Run:
    """The run of a configuration, whose data need not be here."""
    if OmegaConf.is_missing(config.data, "path") or config.data.path is None:
        config = config.copy()
        config.data.path = UNSTATED
    return to_run(config, overrides, 1, gpus, conf)


def parser() -> Parser:
    parser = Parser(
        prog="python -m experiments.latency",
        usage="%(prog)s [-m] [options] [overrides, as of experiments.train]",
        description=PAGE,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--batch-sizes",
        metavar="N,N",
        type=_batch_sizes,
        default=(1, 64),
        help="of inference; a training step is timed with the largest (default: 1,64)",
    )
    parser.add_argument(
        "--memory-format",
        metavar="A,B",
        type=_memory_formats,
        default=MEMORY_FORMATS[:1],
        help="channels_last, as in training (default), contiguous, or both",
    )
    parser.add_argument("--no-training", dest="training", action="store_false", help="time inference alone")
    parser.add_argument(
        "--minutes",
        metavar="M",
        type=positive,
        default=3.0,
        help="for everything, from the start of the command: no round begins that would end later; there are three "
        "rounds at least (default: 3)",
    )
    parser.add_argument("--rounds", metavar="N", type=_rounds, default=30, help="at most (default: 30)")
    parser.add_argument("--again", action="store_true", help="measure what has been measured already")
    return parser


def _batch_sizes(text: str) -> tuple[int, ...]:
    sizes = text.split(",")
    if not all(size.isdecimal() and 1 <= int(size) <= LARGEST for size in sizes):
        raise argparse.ArgumentTypeError(f"must be numbers of images from 1 to {LARGEST}, like 1,64, not {text!r}")
    return tuple(sorted({*map(int, sizes)}))


def _memory_formats(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    if not {*names} <= {*MEMORY_FORMATS}:
        raise argparse.ArgumentTypeError(f"must be {' or '.join(MEMORY_FORMATS)}, or both, not {text!r}")
    return names


def _rounds(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"must be a number of rounds, 1 or more, not {text!r}")
    return int(text)


def main() -> None:
    """Exit codes: 0 measured, 1 something could not be, 2 a mistake on the command line, 130 interrupted."""
    started = time.perf_counter()
    options, words = parser().parse_known_args()
    sys.argv[1:] = words
    train.main(*tasks(options, started))


if __name__ == "__main__":
    main()
