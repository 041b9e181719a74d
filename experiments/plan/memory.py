"""How much of a device's memory and of a disk a run takes, and what its network computes, counted on the meta device
without allocating weights.

Memory is what a training step needs at once: weights, gradients, optimizer state, moving average, and the activations
that the forward pass keeps for the backward pass. Not counted: workspaces of libraries, temporary tensors of the
backward pass, fragmentation of the allocator, and CUDA itself. docs/plan.md says how close the count comes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from experiments.config.run import Run
from experiments.config.settings import Recipe
from experiments.runtime.devices import HALVES
from experiments.training.models import cost_of, make_network
from experiments.training.recipe import make_optimizer
from roadmap.block import Block

IMAGES = 2
"""In the batch that is counted: with one, BatchNorm cannot normalize a map of one pixel."""


@dataclass(frozen=True)
class Footprint:
    """Bytes, except for the first two. What cannot be counted is None."""

    macs: int
    """Multiply-adds of the forward pass of one image."""
    params: int
    fixed: int
    """Of the device's memory, whatever the micro-batch."""
    per_image: int | None
    """Activations kept for the backward pass, per image of the micro-batch."""
    per_image_checkpointed: int | None
    """The same with gradient_checkpointing=true."""
    weights: int
    """Of the weights files of a finished run."""
    checkpoint: int

    def memory(self, images: int) -> int | None:
        return None if self.per_image is None else self.fixed + images * self.per_image

    def largest_micro_batch(self, images: int, memory: float) -> int:
        """The largest power of two that divides `images` and fits into `memory`; 0 if none does."""
        sizes = [2**power for power in range(images.bit_length()) if images % 2**power == 0]
        return max((size for size in sizes if (self.memory(size) or 0) <= memory), default=0)


def footprint(run: Run, num_classes: int) -> Footprint:
    """
    Raises:
        SettingsError: if the network does not take images of this size.
    """
    with torch.device("meta"):
        network = make_network(run, num_classes)
    parameters = sum(parameter.nbytes for parameter in network.parameters())
    state = sum(tensor.nbytes for tensor in network.state_dict().values())
    optimizer = int(parameters * optimizer_state(run.recipe.optimizer, run.recipe.momentum, tuple(run.recipe.betas)))
    average = state if run.recipe.ema_decay else 0
    halved = run.precision in HALVES
    with FlopCounterMode(display=False) as counter:
        sizes = activations(network, run.resolution)
    # A network that is not counted may not take images of this size: cost_of says so.
    macs = counter.get_total_flops() // 2 // IMAGES if sizes[0] else cost_of(run, num_classes)["macs"]
    plain, checkpointed = (size and size // (2 if halved else 1) for size in sizes)
    return Footprint(
        macs=macs,
        params=sum(parameter.numel() for parameter in network.parameters()),
        fixed=state + parameters + optimizer + average + (parameters // 2 if halved else 0),  # autocast's copy
        per_image=checkpointed if run.gradient_checkpointing else plain,
        per_image_checkpointed=checkpointed,
        weights=state + average,
        checkpoint=state + optimizer + average,
    )


@cache
def optimizer_state(optimizer_name: str, momentum: float, betas: tuple[float, ...]) -> float:
    """The size of an optimizer's state relative to the parameters', measured on a convolution after one step."""
    recipe = Recipe("any", 1, 1, lr=1e-3, optimizer=optimizer_name, momentum=momentum, betas=[*betas])
    network = nn.Conv2d(16, 16, 3)
    optimizer = make_optimizer(recipe, network, scaled=True)  # without a kernel that only few devices have
    network(torch.ones(1, 16, 3, 3)).sum().backward()
    optimizer.step()
    values = [value for state in optimizer.state.values() for value in state.values()]
    size = sum(value.nbytes for value in values if isinstance(value, Tensor) and value.numel() > 1)
    return size / sum(parameter.nbytes for parameter in network.parameters())


def activations(network: nn.Module, resolution: int) -> tuple[int | None, int | None]:
    """Bytes per image in float32 that a forward pass keeps for the backward pass: as it is; and with gradient
    checkpointing, where blocks keep their inputs alone and the largest of them runs again (`set_grad_checkpointing`).

    Each storage counts once; those of parameters do not count.
    """
    blocks = [module for module in network.modules() if isinstance(module, Block)]
    parameters = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}  # kept alive, so that no address is used twice
    inputs: set[int] = set()
    saved: dict[nn.Module | None, set[int]] = {block: set() for block in [None, *blocks]}  # None: outside of blocks
    current: list[nn.Module | None] = [None]

    def save(tensor: Tensor, keys: set[int]) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            storages[storage._cdata] = storage
            keys.add(storage._cdata)
        return tensor

    def enter(block: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        save(arguments[0], inputs)
        current.append(block)

    def leave(*_: object) -> None:
        current.pop()

    def size(keys: set[int]) -> int:
        return sum(storages[key].nbytes() for key in keys)

    for block in blocks:
        block.register_forward_pre_hook(enter)
        block.register_forward_hook(leave)
    try:
        with saved_tensors_hooks(lambda tensor: save(tensor, saved[current[-1]]), lambda tensor: tensor):
            network.train()(torch.empty(IMAGES, 3, resolution, resolution, device="meta"))
    except RuntimeError:  # an operation that the meta device lacks
        return None, None
    plain = size(set().union(*saved.values())) // IMAGES
    if not blocks:  # timm's models alone know which of their parts are checkpointed
        return plain, None
    always = inputs | saved.pop(None)
    return plain, (size(always) + max(size(keys - always) for keys in saved.values())) // IMAGES
