"""What the training loop costs: images/s of `train()` over a bare loop of the same steps on prepared batches.

    python -m benchmarks.loop                      # about 6 minutes on two cores

The bare loop has the same network, loss (with its mixing), fused optimizer and moving average, and batches that lie
ready: no input, no learning rate schedule, no seeds, no logs. The two take turns, an epoch each, in one process; a
ratio is that of neighbouring epochs, and its median and quartiles are shown, of all epochs but the first.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import hydra
import torch
from rich.console import Console
from rich.table import Table

from experiments.config.overrides import with_steps
from experiments.config.run import Run, to_run
from experiments.config.settings import register
from experiments.data.loader import Loader
from experiments.data.prefetch import prefetch
from experiments.data.transforms import Preprocess
from experiments.records.record import Record
from experiments.runtime.devices import keep_memory
from experiments.runtime.processes import Processes
from experiments.training.loop import train
from experiments.training.models import make_network
from experiments.training.recipe import make_average, make_optimizer
from experiments.training.tasks.classification import Objective
from roadmap.conf import CONF, OURS

SMALL = ("data.subset=0.2", "data.holdout=0.01")  # 31 steps an epoch, evaluated on 100 images
CASES = {
    "nano, first rung": (*SMALL, "rung=modern_recipe", "threads=1"),
    "nano, last rung": (*SMALL, "rung=separate_downsampling", "threads=1"),
    "ConvNeXt-T at 64 px": (
        "regime=resnet50",
        "recipe=convnext",
        "design=convnext_tiny",
        "resolution=64",
        "recipe.batch_size=32",
        "data.subset=0.02",
        "data.holdout=0.01",
    ),
}
"""{name: overrides}. Threads are torch's own choice where none are stated."""
READY = 4
"""Batches of the bare loop, which come again and again."""


class Turns:
    """What `train()` tells of an epoch starts an epoch of the bare loop."""

    def __init__(self, run: Run, clock: Callable[[], float]) -> None:
        self.run, self.clock = run, clock
        self.ratios: list[float] = []
        self.ours: list[float] = []
        data = Loader(run, alone := Processes(torch.device("cpu")))
        self.batches = [*itertools.islice(prefetch(data.epoch(0), Preprocess(alone.device)), READY)]
        self.steps, classes = data.steps_per_epoch, data.num_classes
        self.network = make_network(run, classes).to(memory_format=torch.channels_last).train()
        self.optimizer = make_optimizer(run.recipe, self.network)
        self.average = make_average(run.recipe, self.network)
        self.objective = Objective(run.recipe, classes)

    def say(self, line: str) -> None: ...

    def step(self, *_: float) -> None: ...

    def epoch(self, row: dict[str, float]) -> None:
        self.ours.append(row["images_per_second"])
        self.ratios.append(row["images_per_second"] / self.bare())

    def bare(self) -> float:
        """Images/s."""
        began = self.clock()
        for images, labels, _ in itertools.islice(itertools.cycle(self.batches), self.steps):
            self.optimizer.zero_grad()
            self.objective(self.network, images, labels).backward()
            self.optimizer.step()
            if self.average:
                self.average.update(self.network)
        return self.steps * self.run.recipe.batch_size / (self.clock() - began)


def measure(overrides: tuple[str, ...], epochs: int, clock: Callable[[], float]) -> Turns:
    with tempfile.TemporaryDirectory() as folder, hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        words = [*overrides, f"recipe.epochs={epochs + 1}", "device=cpu", f"runs={folder}"]
        run = to_run(hydra.compose("config", with_steps(words, OURS)))
        torch.set_num_threads(run.threads or torch.get_num_threads())
        turns = Turns(run, clock)
        with patch("time.perf_counter", clock) if clock is not time.perf_counter else nullcontext():
            train(run, Record(run), turns, Processes(torch.device("cpu")))
    return turns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=[*CASES], metavar="NAME", help=f"of {[*CASES]}")
    parser.add_argument("--epochs", type=int, default=9, help="after a first one that is not counted")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="count the process's seconds, not the clock's: steadier beside other processes, where it has one thread",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all epochs' ratios")
    args = parser.parse_args()
    register()
    keep_memory()
    table = Table("", "images/s", "train() / bare loop", "quartiles", title="A training loop over its steps alone")
    results = {}
    for name in args.cases:
        turns = measure(CASES[name], args.epochs, time.process_time if args.cpu_time else time.perf_counter)
        results[name] = turns.ratios[1:]
        low, median, high = statistics.quantiles(results[name], n=4, method="inclusive")
        speed = statistics.median(turns.ours[1:])
        table.add_row(name, f"{speed:.0f}", f"{median:.3f}", f"{low:.3f}-{high:.3f}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    Console(highlight=False).print(table)


if __name__ == "__main__":
    main()
