"""What a run runs on, and how: device, precision, compilation, memory."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import types
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from experiments.errors import SettingsError
from experiments.runtime.machine import no_bf16
from roadmap.block import Block

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str, precision: str = "float32") -> torch.device:
    """auto: CUDA, else MPS, else CPU. Of several GPUs, each process of a run takes its own.

    Raises:
        SettingsError: if it is not here; or for auto if `precision` was meant for a GPU.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, is_there in available.items() if is_there)
        if name == "cpu" and precision in HALVES:
            raise SettingsError(
                f"precision={precision} was meant for a GPU, and torch sees none here: look at nvidia-smi and "
                "CUDA_VISIBLE_DEVICES, or say device=cpu"
            )
    if not available[name]:
        raise SettingsError(f"device={name} is not available here; take device=auto")
    if name != "cuda":
        return torch.device(name)
    local = int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)
    return torch.device("cuda", local % torch.cuda.device_count())  # SLURM may show each process its own GPU alone


def set_precision(precision: str, device: torch.device) -> None:
    """float32 means it: convolutions and matrix products too. tf32 lets an NVIDIA GPU round their inputs.

    cuDNN may take another algorithm the next time: on a GPU, a run that goes on is as good as one that was left alone,
    and not the same to the bit.

    Raises:
        SettingsError: for bf16 on a GPU that only emulates it.
    """
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise SettingsError(no_bf16(device_name(device)))
    torch.backends.cudnn.benchmark = True  # the fastest of cuDNN's algorithms for each shape, of which a run has few
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """Mixed precision: products in bf16 or fp16, everything that needs it in float32."""
    return torch.autocast(device.type, HALVES[precision]) if precision in HALVES else nullcontext()


def forget_activations(network: nn.Module) -> None:
    """Gradient checkpointing: residual blocks keep their input alone and run again in the backward pass (Chen et al.,
    2016). Equal results, less memory, a third more time.

    Raises:
        SettingsError: for a model of timm's that doesn't offer it, or has BatchNorm.
    """
    blocks = [module for module in network.modules() if isinstance(module, Block)]
    for block in blocks:
        block.forward = types.MethodType(_checkpointed, block)
    if blocks:
        return
    if any(isinstance(module, _BatchNorm) for module in network.modules()):
        raise SettingsError(
            "gradient_checkpointing would show this model's BatchNorms each batch twice; leave it false"
        )
    try:
        network.set_grad_checkpointing(True)
    except (AttributeError, AssertionError) as error:
        raise SettingsError("this model of timm offers no gradient_checkpointing; leave it false") from error


def _checkpointed(block: Block, x: torch.Tensor) -> torch.Tensor:
    forward = types.MethodType(Block.forward, block)
    if not torch.is_grad_enabled():
        return forward(x)
    return checkpoint(forward, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _seen_once(block)))


@contextmanager
def _seen_once(block: Block) -> Iterator[None]:
    """While the block runs again, its BatchNorms' running statistics, which have seen this batch, stay as they are."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    as_it_was = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, as_it_was, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(batches)


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""glibc's, of malloc.h."""


def keep_memory() -> None:
    """Have glibc keep the memory that tensors give back for the next ones, instead of asking the kernel for pages that
    it first has to clear: a training step on a CPU is 5 to 15 % faster. Elsewhere nothing happens."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "gnu_get_libc_version"):
        if libc.mallopt(M_MMAP_THRESHOLD, 2**30) or libc.mallopt(M_MMAP_THRESHOLD, 2**25):  # all that older ones take
            libc.mallopt(M_TRIM_THRESHOLD, 2**30)


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def peak_memory_mb(device: torch.device) -> float:
    """Of the GPU's allocator, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes there, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
