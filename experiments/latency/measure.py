"""Times passes of networks in turns: in each round every network, mode and batch size has one turn, in a new order.

So what slows the machine down for a while slows all of them down, and differences between networks remain.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from experiments.errors import SettingsError
from experiments.latency.record import INFERENCE, Case, Timing
from experiments.runtime.devices import autocast, set_precision
from experiments.training.models import enable_gradient_checkpointing, make_network
from experiments.training.recipe import make_optimizer, set_learning_rate
from experiments.training.tasks import TASKS

TURN = 0.1
"""Seconds of timed passes in a turn, about."""
FEWEST_ROUNDS = 3
"""However little time there is: with fewer there are no quartiles."""

Pass = Callable[[], object]


@dataclass
class Network:
    """The network of a case, on its device, with random weights."""

    case: Case
    module: nn.Module
    forward: Callable[..., Any]
    """The module, or what torch.compile makes of it."""

    @classmethod
    def build(cls, case: Case, device: torch.device) -> Network:
        """
        Raises:
            SettingsError: if it is impossible.
            RuntimeError: if the memory runs out.
        """
        module = make_network(case.run, case.classes)
        if case.run.gradient_checkpointing:
            enable_gradient_checkpointing(module)
        module = module.to(device).to(memory_format=_memory_format(case))
        # As in training each batch size has kernels of its own; by default torch would compile one for all.
        return cls(case, module, torch.compile(module, dynamic=False) if case.run.compile else module)


class Workload:
    """The passes of a network in one mode, on a fixed batch of noise that is on the device already."""

    def __init__(self, network: Network, timing: Timing, device: torch.device) -> None:
        self.network, self.timing, self.device = network, timing, device
        self.ms: list[float] = []
        """Milliseconds of a pass, one number per round."""

    @property
    def case(self) -> Case:
        return self.network.case

    def turn(self) -> float:
        """Milliseconds of a pass (`time_passes`).

        Raises:
            RuntimeError, ValueError: torch's, if memory runs out or the network does not take such a batch.
        """
        case, device = self.case, self.device
        torch.set_num_threads(case.threads)
        set_precision(case.run.precision, device)
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(self.timing.batch, 3, case.run.resolution, case.run.resolution, generator=generator)
        images = images.to(device).contiguous(memory_format=_memory_format(case))
        make = inference_pass if self.timing.mode == INFERENCE else training_step
        with make(self.network, images) as one_pass:
            return time_passes(one_pass, partial(synchronize, device), TURN)


@contextmanager
def inference_pass(network: Network, images: torch.Tensor):
    """A forward pass in eval mode, without gradients."""
    run = network.case.run
    network.module.eval()

    def one_pass() -> None:
        with autocast(run.precision, images.device):
            network.forward(images)

    with torch.inference_mode():
        yield one_pass


@contextmanager
def training_step(network: Network, images: torch.Tensor):
    """Forward pass, the recipe's loss with its mixing, backward pass and optimizer step, at a learning rate of 0: the
    same work, and the weights stay.

    The optimizer's state is made before the clock starts, and freed after the turn: those of many networks would not
    fit into memory together.
    """
    run, module, device = network.case.run, network.module, images.device
    if (run.recipe.mixup or run.recipe.cutmix) and len(images) % 2:
        raise SettingsError(
            "the recipe's mixup or cutmix pairs images; make the largest of --batch-sizes even, or add --no-training"
        )
    objective = TASKS[run.task.name].Objective(run.recipe, network.case.classes)
    labels = torch.arange(len(images), device=device) % network.case.classes
    optimizer = make_optimizer(run.recipe, module, scaled=run.precision == "fp16")
    scaler = torch.amp.GradScaler(device.type, enabled=run.precision == "fp16")
    set_learning_rate(optimizer, 0.0)
    module.train()
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()

    def one_step() -> None:
        optimizer.zero_grad()
        with autocast(run.precision, device):
            loss = objective(network.forward, images.clone(), labels)  # mixing changes the images
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    try:
        yield one_step
    finally:
        module.zero_grad()


def time_passes(one_pass: Pass, synchronize: Callable[[], object], seconds: float) -> float:
    """The median time of a pass in milliseconds, of as many as take about these seconds, at least one. Each lasts until
    its result is there. Before short ones there is one more, which fills the caches, and is not counted."""
    times = [_timed(one_pass, synchronize)]
    if times[0] < seconds:
        times = [_timed(one_pass, synchronize)]
    while sum(times) < seconds:
        times.append(_timed(one_pass, synchronize))
    return 1e3 * statistics.median(times)


def _timed(one_pass: Pass, synchronize: Callable[[], object]) -> float:
    synchronize()
    began = time.perf_counter()
    one_pass()
    synchronize()
    return time.perf_counter() - began


def measure(
    workloads: Sequence[Workload],
    rounds: int,
    end: float,
    after_round: Callable[[int, float], None],
) -> dict[tuple[Case, Timing], str]:
    """Give each workload a turn per round, in a new random order each round, after a first turn that does not count.

    Args:
        rounds: at most, with those that `Workload.ms` has already.
        end: of `time.perf_counter`: no round begins that would end later, unless there are fewer than FEWEST_ROUNDS.
        after_round: called with the number of rounds so far and the seconds of one.

    Returns:
        What could not be measured, and why in one line.
    """
    failures: dict[tuple[Case, Timing], str] = {}

    def turn(workload: Workload) -> float | None:
        try:
            return workload.turn()
        except (RuntimeError, ValueError) as error:
            failures[workload.case, workload.timing] = _first_line(error)
            if workload.device.type == "cuda":
                torch.cuda.empty_cache()
            return None

    began = time.perf_counter()
    running = [workload for workload in workloads if turn(workload) is not None]
    after_round(0, time.perf_counter() - began)
    seconds = 0.0
    for number in range(min((len(workload.ms) for workload in running), default=rounds), rounds):
        began = time.perf_counter()
        if number >= FEWEST_ROUNDS and began + seconds > end:
            break
        random.Random(number).shuffle(running)
        for workload in [*running]:
            if (ms := turn(workload)) is None:
                running.remove(workload)
            else:
                workload.ms.append(round(ms, 5))
        seconds = time.perf_counter() - began
        after_round(number + 1, seconds)
    return failures


def synchronize(device: torch.device) -> None:
    """Wait until the device has computed everything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _memory_format(case: Case) -> torch.memory_format:
    return torch.channels_last if case.memory_format == "channels_last" else torch.contiguous_format


def _first_line(error: BaseException) -> str:
    if isinstance(error, SettingsError):
        return str(error)
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
