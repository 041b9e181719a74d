"""Speed and memory of a training step: our networks beside torchvision's and timm's of the same name.

    python -m benchmarks.step                                     # about 12 minutes on two cores
    python -m benchmarks.step --networks convnext_tiny --resolutions 224 --batches 128 --device cuda
    python -m benchmarks.step --compile                           # torch.compile on all sides

A step is what the project's loop does: zero_grad, forward, cross entropy, backward, a fused optimizer's step (SGD for a
ResNet, AdamW for a ConvNeXt). Whoever takes part runs in the memory layout that it is faster in, one turn each a round
in rotating order, so that what else the machine does meets all alike; a ratio is taken within a round, and its median
and quartiles over rounds are shown. "again" is our network against itself: what the measurement can tell apart.
Memory is the peak of a few steps in a fresh process each, less what the process had before the network was made.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import timm
import torch
import torchvision
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn.functional import cross_entropy

import roadmap
from experiments.runtime.devices import keep_memory

LAYOUTS = {"channels-last": torch.channels_last, "contiguous": torch.contiguous_format}


def ours(name: str) -> nn.Module:
    return roadmap.build(roadmap.design(name))


def torchvisions(name: str) -> nn.Module:
    return getattr(torchvision.models, name)(**({"stochastic_depth_prob": 0.0} if "convnext" in name else {}))


def timms(name: str) -> nn.Module:
    return timm.create_model(name, num_classes=1000, drop_path_rate=0.0)


MAKERS = {"ours": ours, "again": ours, "torchvision": torchvisions, "timm": timms}


class Case(NamedTuple):
    name: str
    resolution: int
    batch: int
    device: str
    threads: int
    cpu_time: bool
    compile: bool


class Trainer:
    """Trains one network on one batch, over and over."""

    def __init__(self, maker: str, layout: str, case: Case) -> None:
        torch.manual_seed(0)
        torch.set_num_threads(case.threads)
        memory_format = LAYOUTS[layout]
        self.device = torch.device(case.device)
        self.clock = time.process_time if case.cpu_time else time.perf_counter
        self.network = MAKERS[maker](case.name).train().to(self.device, memory_format=memory_format)
        self.forward = torch.compile(self.network) if case.compile else self.network
        self.images = torch.randn(case.batch, 3, case.resolution, case.resolution, device=self.device)
        self.images = self.images.contiguous(memory_format=memory_format)
        self.labels = torch.randint(1000, (case.batch,), device=self.device)
        if "convnext" in case.name:
            self.optimizer = torch.optim.AdamW(self.network.parameters(), 1e-4, weight_decay=0.05, fused=True)
        else:
            self.optimizer = torch.optim.SGD(self.network.parameters(), 1e-3, 0.9, weight_decay=1e-4, fused=True)

    def seconds(self, steps: int) -> float:
        """A step's, the mean of some."""
        self.synchronize()
        started = self.clock()
        for _ in range(steps):
            self.optimizer.zero_grad()
            cross_entropy(self.forward(self.images), self.labels).backward()
            self.optimizer.step()
        self.synchronize()
        return (self.clock() - started) / steps

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def choose_layout(maker: str, case: Case) -> tuple[str, float]:
    """The layout that the network is faster in, and its step's seconds: the least of three after one to warm up."""
    least = {}
    for layout in LAYOUTS:
        trainer = Trainer(maker, layout, case)
        trainer.seconds(1)
        least[layout] = min(trainer.seconds(1) for _ in range(3))
        del trainer
        gc.collect()
    return min(least.items(), key=lambda item: item[1])


def race(case: Case, rounds: int, turn: float) -> dict:
    """Each maker's layout, and the seconds of a step in each round."""
    keep_memory()  # as training does
    trials = {maker: choose_layout(maker, case._replace(compile=False)) for maker in MAKERS if maker != "again"}
    layouts = {maker: trials["ours" if maker == "again" else maker][0] for maker in MAKERS}
    steps = max(1, round(turn / min(seconds for _, seconds in trials.values())))
    trainers = {maker: Trainer(maker, layout, case) for maker, layout in layouts.items()}
    for trainer in trainers.values():
        trainer.seconds(1)
    seconds = {maker: [] for maker in MAKERS}
    order = list(MAKERS)
    for _ in range(rounds):
        for maker in order:
            seconds[maker].append(trainers[maker].seconds(steps))
        order.append(order.pop(0))
    return {"layouts": layouts, "seconds": seconds}


def peak_memory(maker: str, layout: str, case: Case) -> float:
    """MiB that training takes at its peak, in a process that has done nothing else."""

    def peak() -> float:
        if case.device == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

    before = peak()
    Trainer(maker, layout, case).seconds(3)
    return peak() - before


def in_fresh_process(function: Callable, *args: object, **environment: str) -> object:
    with (
        patch.dict(os.environ, environment),
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
    ):
        return pool.submit(function, *args).result()


def measure(case: Case, rounds: int, turn: float) -> dict:
    result = case._asdict() | in_fresh_process(race, case, rounds, turn)
    seconds, layouts = result["seconds"], result["layouts"]
    theirs = ("torchvision", "timm")
    result["faster"] = faster = min(theirs, key=lambda maker: statistics.median(seconds[maker]))
    result["ratio"] = quartiles(seconds[faster], seconds["ours"])
    result["control"] = quartiles(seconds["again"], seconds["ours"])
    makers = () if case.compile else ("ours", *theirs)  # that takes minutes each
    exact = {"MALLOC_MMAP_THRESHOLD_": str(2**17)}  # glibc then returns large tensors at once: no luck in the peak
    result["memory"] = {m: in_fresh_process(peak_memory, m, layouts[m], case, **exact) for m in makers}
    return result


def quartiles(theirs: list[float], ours: list[float]) -> list[float]:
    """Of how many times as fast ours is, round by round."""
    ratios = [their / our for their, our in zip(theirs, ours, strict=True)]
    return statistics.quantiles(ratios, n=4, method="inclusive")


def table(results: list[dict]) -> Table:
    table = Table(title="A training step: ours over the faster of torchvision's and timm's", box=box.SIMPLE_HEAD)
    for column in ("network", "whose", "layout", "images/s", "ratio (quartiles)", "peak MiB"):
        table.add_column(column, justify="left" if column in ("network", "whose", "layout") else "right", no_wrap=True)
    for result in results:
        labels = iter((result["name"], f"{result['batch']} x {result['resolution']} px"))
        for maker, seconds in result["seconds"].items():
            ratio = {"ours": result["ratio"], "again": result["control"]}.get(maker)
            table.add_row(
                next(labels, ""),
                maker,
                result["layouts"][maker],
                f"{result['batch'] / statistics.median(seconds):.1f}",
                f"{ratio[1]:.3f} ({ratio[0]:.3f}-{ratio[2]:.3f})" if ratio else "",
                f"{result['memory'][maker]:,.0f}" if maker in result["memory"] else "",
                end_section=maker == "timm",
            )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["resnet50", "convnext_tiny"], metavar="NAME")
    parser.add_argument("--resolutions", nargs="+", type=int, default=[224, 64], metavar="PX")
    parser.add_argument("--batches", nargs="+", type=int, default=[8, 32], metavar="N", help="one a resolution")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--turn", type=float, default=0.5, help="least seconds of a turn, in whole steps (0.5)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="count the process's seconds, not the clock's: steadier beside other processes (with --threads 1)",
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile, on all sides")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rounds' seconds and what comes of them")
    args = parser.parse_args()
    if len(args.batches) != len(args.resolutions):
        parser.error(f"{len(args.resolutions)} resolutions need as many batches, not {len(args.batches)}")
    device = args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    results = []
    for name in args.networks:
        for resolution, batch in zip(args.resolutions, args.batches, strict=True):
            case = Case(name, resolution, batch, device, args.threads, args.cpu_time, args.compile)
            results.append(measure(case, args.rounds, args.turn))
            if args.json:
                args.json.write_text(json.dumps(results, indent=1) + "\n")
    console = Console()
    Console(width=max(console.width, 100)).print(table(results))


if __name__ == "__main__":
    main()
