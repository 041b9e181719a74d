"""What a run takes of a device's memory and of a disk, counted on the meta device without any weights.

Memory is what has to be there at once: weights, gradients, optimizer state, moving average, and what the forward pass
keeps for the backward pass. Not counted: the libraries' workspaces, what is passed from layer to layer in the backward
pass, what the allocator wastes, and CUDA itself. docs/plan.md says how near that comes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from experiments.config.run import Run
from experiments.config.settings import Recipe
from experiments.runtime.devices import HALVES
from experiments.training.models import make_network
from experiments.training.recipe import make_optimizer
from roadmap.block import Block

IMAGES = 2
"""In a counted batch: of a single one, BatchNorm can't take statistics of a map of one pixel."""


@dataclass(frozen=True)
class Footprint:
    """Bytes."""

    fixed: int
    """Of the device's memory, however many images it takes at once."""
    an_image: int | None
    """Kept for the backward pass, for each image that a device takes at once; None where that can't be counted."""
    an_image_at_least: int | None
    """The same with gradient_checkpointing=true."""
    weights: int
    """Of the weights files of a run that is done."""
    checkpoint: int
    """Of one checkpoint."""

    def memory(self, images: int) -> int | None:
        return None if self.an_image is None else self.fixed + images * self.an_image

    def fitting(self, images: int, memory: float) -> int:
        """The largest power of two that divides `images` and fits into `memory`; 0 if none does."""
        powers = [2**power for power in range(images.bit_length()) if images % 2**power == 0]
        return max((one for one in powers if (self.memory(one) or 0) <= memory), default=0)


def footprint(run: Run, num_classes: int) -> Footprint:
    with torch.device("meta"):
        network = make_network(run, num_classes)
    parameters = sum(one.nbytes for one in network.parameters())
    state = sum(one.nbytes for one in network.state_dict().values())
    optimizer = int(parameters * kept_by_optimizer(run.recipe))
    average = state if run.recipe.ema_decay else 0
    halved = run.precision in HALVES
    kept = [one and one // (2 if halved else 1) for one in kept_for_backward(network, run.resolution)]
    return Footprint(
        fixed=state + parameters + optimizer + average + (parameters // 2 if halved else 0),  # autocast's own copy
        an_image=kept[run.gradient_checkpointing],
        an_image_at_least=kept[True],
        weights=state + average,
        checkpoint=state + optimizer + average,
    )


def kept_by_optimizer(recipe: Recipe) -> float:
    """What an optimizer keeps from step to step, over the parameters' size: of a convolution, after a step."""
    network = nn.Conv2d(16, 16, 3)
    optimizer = make_optimizer(recipe, network, scaled=True)  # without a kernel that runs on few devices
    network(torch.ones(1, 16, 3, 3)).sum().backward()
    optimizer.step()
    state = sum(one.nbytes for of_one in optimizer.state.values() for one in of_one.values() if _is_large(one))
    return state / sum(one.nbytes for one in network.parameters())


def _is_large(value: object) -> bool:
    return isinstance(value, Tensor) and value.numel() > 1


def kept_for_backward(network: nn.Module, resolution: int) -> tuple[int | None, int | None]:
    """Bytes in float32 that a forward pass of training keeps for the backward pass, per image: without and
    with gradient checkpointing, blocks keep only their inputs, and one at a time runs again: the largest counts.

    Each storage counts once, and the parameters', which are there anyhow, not at all.
    """
    blocks = [module for module in network.modules() if isinstance(module, Block)]
    own = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}  # held: a freed one's address would be another's soon
    inputs: set[int] = set()
    saved: dict[Block | None, set[int]] = {block: set() for block in [None, *blocks]}  # None: outside of blocks
    at: list[Block | None] = [None]

    def note(tensor: Tensor, where: set[int]) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            storages[storage._cdata] = storage
            where.add(storage._cdata)
        return tensor

    def enter(block: Block, arguments: tuple[Tensor]) -> None:
        note(arguments[0], inputs)
        at.append(block)

    def leave(*_: object) -> None:
        at.pop()

    def size(which: set[int]) -> int:
        return sum(storages[one].nbytes() for one in which)

    hooks = [block.register_forward_pre_hook(enter) for block in blocks]
    hooks += [block.register_forward_hook(leave) for block in blocks]
    try:
        with saved_tensors_hooks(lambda tensor: note(tensor, saved[at[-1]]), lambda tensor: tensor):
            network.train()(torch.empty(IMAGES, 3, resolution, resolution, device="meta"))
    except RuntimeError:  # an operation that the meta device doesn't have
        return None, None
    finally:
        for hook in hooks:
            hook.remove()
    everything = size(set().union(*saved.values())) // IMAGES
    if not blocks:  # which parts of a model of timm's forget is known to it alone
        return everything, None
    between = inputs | saved.pop(None)
    return everything, (size(between) + max(size(one - between) for one in saved.values())) // IMAGES
