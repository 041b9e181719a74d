"""The processes that train one run together, a device each, started by torchrun or by srun; usually there is one.

The training loop talks to this alone, so it never asks where it runs.
"""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from experiments.runtime.environment import MEETING, world_size

Value = TypeVar("Value")


class Processes:
    """This process among those of its run. With one process every method does what it says, at no cost."""

    def __init__(self, device: torch.device, rank: int = 0, world: int = 1) -> None:
        self.device, self.rank, self.world = device, rank, world
        self.is_first = rank == 0

    def parallel(self, network: nn.Module) -> nn.Module:
        """The network whose backward pass averages gradients over all processes."""
        if self.world == 1:
            return network
        warnings.filterwarnings("ignore", "Grad strides do not match")  # 1x1 convs': both layouts are the same memory
        on = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=on, gradient_as_bucket_view=True)

    def averaging(self, parallel: nn.Module, *, when: bool) -> AbstractContextManager:
        """Gradients are averaged after the last of a step's backward passes, and only then."""
        return nullcontext() if when or self.world == 1 else parallel.no_sync()

    def sum(self, *values: float) -> list[float]:
        """Sums over the processes, in float64."""
        if self.world == 1:
            return [*values]
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(sums)
        return sums.tolist()

    def total(self, counts: torch.Tensor) -> torch.Tensor:
        """The sum over the processes of a tensor on the CPU."""
        if self.world == 1:
            return counts
        counts = counts.to(self.device)
        distributed.all_reduce(counts)
        return counts.cpu()

    def gather_names(self, names: Iterable[str]) -> set[str]:
        """What any of the processes names."""
        if self.world == 1:
            return {*names}
        everyones: list[Any] = [None] * self.world
        distributed.all_gather_object(everyones, [*names])
        return {name for one in everyones for name in one}

    def broadcast_from_first(self, value: Any) -> Any:
        """The first process's value."""
        if self.world == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, device=self.device if self.device.type == "cuda" else None)
        return box[0]

    def of_node(self, make: Callable[[], Value]) -> Value:
        """What one process of each machine makes for the others there, which are sent it.

        Raises:
            Exception: in all of them, what `make` raises in one.
        """
        if not distributed.is_initialized():
            return make()
        nodes: list[Any] = [None] * self.world
        distributed.all_gather_object(nodes, platform.node())
        here, group = [], None
        for node in dict.fromkeys(nodes):  # all processes make all groups
            ranks = [rank for rank in range(self.world) if nodes[rank] == node]
            made = distributed.new_group(ranks, backend="gloo")
            if self.rank in ranks:
                here, group = ranks, made
        box: list[Any] = [None]
        error = None
        if self.rank == here[0]:
            try:
                box[0] = make()
            except Exception as raised:
                error = raised
        errors: list[Any] = [None] * self.world
        distributed.all_gather_object(errors, error)
        if first := next(filter(None, errors), None):
            raise first
        distributed.broadcast_object_list(box, here[0], group)
        distributed.destroy_process_group(group)
        return box[0]

    def equal_buffers(self, network: nn.Module) -> None:
        """Everybody takes the first process's running statistics, so that all evaluate the weights that it saves."""
        if self.world > 1:
            for buffer in network.buffers():
                distributed.broadcast(buffer, 0)


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Meet the other processes of this run, if it has any."""
    if world_size() == 1:
        yield Processes(device)
        return
    if "WORLD_SIZE" not in os.environ:  # started by srun
        from submitit.helpers import TorchDistributedEnvironment

        os.environ.setdefault("SUBMITIT_EXECUTOR", "slurm")  # it works as well where submitit did not start the job
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=os.environ.get(MEETING, "env://"),
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
    )
    try:
        yield Processes(device, distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
