"""Device, precision and memory of a process."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from contextlib import AbstractContextManager, nullcontext

import torch

from experiments.errors import SettingsError
from experiments.runtime.machine import no_bf16

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str, precision: str = "float32") -> torch.device:
    """The device called cuda, mps or cpu; auto is the first of these that is available. Of several GPUs, each process
    of a run takes its own.

    Raises:
        SettingsError: if it is not available; or for auto on a machine without a GPU if `precision` needs one.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, is_available in available.items() if is_available)
        if name == "cpu" and precision in HALVES:
            raise SettingsError(
                f"precision={precision} was meant for a GPU, and torch sees none here: check nvidia-smi and "
                "CUDA_VISIBLE_DEVICES, or set device=cpu"
            )
    if not available[name]:
        raise SettingsError(f"device={name} is not available here; take device=auto")
    if name != "cuda":
        return torch.device(name)
    local = int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)
    return torch.device("cuda", local % torch.cuda.device_count())  # SLURM may show each process its own GPU alone


def set_precision(precision: str, device: torch.device) -> None:
    """Set the precision of convolutions and matrix products in float32: full, or with inputs rounded by an NVIDIA GPU
    (tf32).

    cuDNN may choose other algorithms in another process: on a GPU, a resumed run is as good as one that was never
    stopped, but not the same to the bit.

    Raises:
        SettingsError: for bf16 on a GPU that only emulates it.
    """
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise SettingsError(no_bf16(device_name(device)))
    torch.backends.cudnn.benchmark = True  # choose the fastest algorithm for each shape; a run has few shapes
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """Mixed precision: products in bf16 or fp16, and what needs more in float32."""
    return torch.autocast(device.type, HALVES[precision]) if precision in HALVES else nullcontext()


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""glibc's, of malloc.h."""


def keep_memory() -> None:
    """Let glibc keep the memory that tensors free for the next ones, instead of returning it to the kernel, which
    clears pages before it gives them out again: a training step on a CPU is 5 to 15 % faster. A no-op without glibc."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "gnu_get_libc_version"):
        if libc.mallopt(M_MMAP_THRESHOLD, 2**30) or libc.mallopt(M_MMAP_THRESHOLD, 2**25):  # older ones' maximum
            libc.mallopt(M_TRIM_THRESHOLD, 2**30)


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in MiB: of the GPU's allocator, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes there, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
