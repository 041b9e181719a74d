"""The processes that train one run together, one per device, started by torchrun or by srun; usually there is one.

The training loop uses this alone, so that it need not know where it runs.
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

from experiments.runtime.environment import RENDEZVOUS, world_size

Value = TypeVar("Value")


class Processes:
    """This process among those of its run. With one process, every method is trivial and costs nothing."""

    def __init__(self, device: torch.device, rank: int = 0, world: int = 1) -> None:
        self.device, self.rank, self.world = device, rank, world
        self.is_first = rank == 0

    def parallel(self, network: nn.Module) -> nn.Module:
        """The network whose backward pass averages gradients over all processes."""
        if self.world == 1:
            return network
        warnings.filterwarnings("ignore", "Grad strides do not match")  # of 1x1 convolutions, whose layouts coincide
        device_ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=device_ids, gradient_as_bucket_view=True)

    def averaging(self, parallel: nn.Module, *, when: bool) -> AbstractContextManager:
        """The context of a backward pass: gradients are averaged after the last one of a step, and only then."""
        return parallel.no_sync() if isinstance(parallel, DistributedDataParallel) and not when else nullcontext()

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
        """The union of all processes' names."""
        if self.world == 1:
            return {*names}
        gathered: list[Any] = [None] * self.world
        distributed.all_gather_object(gathered, [*names])
        return set().union(*gathered)

    def broadcast_from_first(self, value: Any) -> Any:
        """The first process's value."""
        if self.world == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, device=self.device if self.device.type == "cuda" else None)
        return box[0]

    def of_node(self, make: Callable[[], Value]) -> Value:
        """What one process of each machine makes, and sends to the others there.

        Raises:
            Exception: in all processes, what `make` raises in one.
        """
        if not distributed.is_initialized():
            return make()
        nodes: list[Any] = [None] * self.world
        distributed.all_gather_object(nodes, platform.node())
        local_ranks: list[int] = []
        group: Any = None
        for node in dict.fromkeys(nodes):  # torch demands that all processes make all groups
            ranks = [rank for rank in range(self.world) if nodes[rank] == node]
            new_group = distributed.new_group(ranks, backend="gloo")
            if self.rank in ranks:
                local_ranks, group = ranks, new_group
        box: list[Any] = [None]
        error = None
        if self.rank == local_ranks[0]:
            try:
                box[0] = make()
            except Exception as raised:
                error = raised
        errors: list[Any] = [None] * self.world
        distributed.all_gather_object(errors, error)
        if first := next(filter(None, errors), None):
            raise first
        distributed.broadcast_object_list(box, local_ranks[0], group)
        distributed.destroy_process_group(group)
        return box[0]

    def equal_buffers(self, network: nn.Module) -> None:
        """Copy the first process's running statistics to all, so that all evaluate the weights that it saves."""
        if self.world > 1:
            for buffer in network.buffers():
                distributed.broadcast(buffer, 0)


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Connect to the other processes of this run, if it has any."""
    if world_size() == 1:
        yield Processes(device)
        return
    if "WORLD_SIZE" not in os.environ:  # started by srun
        from submitit.helpers import TorchDistributedEnvironment

        os.environ.setdefault("SUBMITIT_EXECUTOR", "slurm")  # it works without submitit, too
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=os.environ.get(RENDEZVOUS, "env://"),
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
    )
    try:
        yield Processes(device, distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()


def is_lost_connection(error: BaseException, *, joined: bool) -> bool:
    """Whether another process of the run has ended, or does not answer. NCCL and torch's stores raise a DistError,
    which before all have `joined` may be this process's own fault, like a port in use; gloo raises a plain RuntimeError
    that names the file of gloo's transport that it comes from."""
    if isinstance(error, distributed.DistError):
        return joined
    return isinstance(error, RuntimeError) and "/gloo/transport/" in str(error)
