"""This machine's hardware, and how runs share it. Uses neither torch nor CUDA: a launcher must not occupy a GPU."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TextIO

from experiments.errors import SettingsError
from experiments.runtime.locks import PATIENCE, lock_file, unlock
from roadmap.common.words import counted


@dataclass(frozen=True)
class Machine:
    """How a machine is shared among runs."""

    runs_at_once: int
    gpus: tuple[tuple[str, ...], ...]
    """Of each of these runs; several runs may have the same. Empty on a machine without GPUs."""
    threads: int
    """Of each process of a run."""
    runs_per_gpu: int = 1
    """At a time, at most; meaningless without GPUs."""

    def describe(self) -> str:
        side_by_side = f"{self.runs_at_once} side by side"
        if not self.gpus:
            unused = f", no GPU for {self.runs_per_gpu} runs to share" if self.runs_per_gpu > 1 else ""
            return f"{side_by_side}, {counted(self.threads, 'thread')} each{unused}"
        if self.runs_per_gpu == 1:
            return f"{side_by_side}, {counted(len(self.gpus[0]), 'GPU')} each"
        gpus = len({gpu for slot in self.gpus for gpu in slot})
        mps = "together, by NVIDIA's MPS" if mps_is_running() else "in turns, as NVIDIA's MPS is not running"
        return f"{side_by_side}, at most {self.runs_per_gpu} on each of {counted(gpus, 'GPU')}: {mps}"


def share(
    runs: int,
    jobs: int | None = None,
    gpus_per_run: int = 1,
    device: str = "auto",
    runs_per_gpu: int = 1,
    available_cores: int | None = None,
) -> Machine:
    """Share this machine's GPUs, or else its cores, among the runs of a study as evenly as possible.

    `jobs` are the runs at a time, if the user says how many; `available_cores`, if not all cores may be used.

    Raises:
        SettingsError: if there are fewer GPUs than a run, or than `jobs` runs, would take.
    """
    available, runs = available_cores or cores(), max(1, runs)
    gpus = () if device == "cpu" else visible_gpus()
    if not gpus:
        if gpus_per_run > 1:
            raise SettingsError(f"hydra.launcher.gpus_per_run={gpus_per_run}, but there is no GPU here")
        at_a_time = jobs or min(available, runs)
        return Machine(at_a_time, (), max(1, available // at_a_time), runs_per_gpu)
    slots = [gpus[n * gpus_per_run : (n + 1) * gpus_per_run] for n in range(len(gpus) // gpus_per_run)]
    room = len(slots) * runs_per_gpu
    at_a_time = jobs or min(room, runs) or 1
    if at_a_time > room:
        needed = at_a_time * gpus_per_run if runs_per_gpu == 1 else -(-at_a_time // runs_per_gpu)
        each, change = f"of {counted(gpus_per_run, 'GPU')}", "gpus_per_run"
        if runs_per_gpu > 1:
            each, change = f"of which {runs_per_gpu} share a GPU", "runs_per_gpu"
        raise SettingsError(
            f"{needed} GPUs are needed for {counted(at_a_time, 'run')} {each} at a time, but there are {len(gpus)}; "
            f"change hydra.launcher.jobs or hydra.launcher.{change}"
        )
    in_turn = tuple(slots * runs_per_gpu)[:at_a_time]  # so that as few runs as possible share a GPU
    on_each = -(-at_a_time // len(slots)) if slots else 1
    return Machine(at_a_time, in_turn, max(1, available // (at_a_time * gpus_per_run)), on_each)


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that runs may use, as CUDA_VISIBLE_DEVICES names them."""
    if (stated := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return tuple(gpu.strip() for gpu in stated.split(",") if gpu.strip() not in ("", "-1", "NoDevFiles"))
    try:
        lines = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60).stdout.splitlines()
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(map(str, range(sum(line.startswith("GPU ") for line in lines))))


def has_gpus() -> bool:
    """Whether torch would train on GPUs here: there are some, and torch is not built for CPUs alone."""
    try:
        return not version("torch").endswith("+cpu") and bool(visible_gpus())
    except PackageNotFoundError:
        return False


def compute_capability() -> float | None:
    """The lowest of the GPUs that runs may use, such as 8.0; None if it is not known."""
    command = ["nvidia-smi", f"--id={','.join(visible_gpus())}", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.splitlines()
        return min(map(float, lines), default=None)
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return None


def is_busy() -> bool:
    """Whether more threads run on this machine than it has cores."""
    return os.getloadavg()[0] > cores()


def mps_is_running() -> bool:
    """Whether the daemon of NVIDIA's Multi-Process Service runs where CUDA looks for it."""
    folder = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY") or "/tmp/nvidia-mps")
    try:
        os.kill(int((folder / "nvidia-cuda-mps-control.pid").read_text()), 0)
    except PermissionError:  # another user's, which is shared
        return True
    except (OSError, ValueError):
        return False
    return True


def lock_gpu(gpu: str, runs: int, patience: float = PATIENCE) -> list[TextIO] | None:
    """Lock a GPU for one of `runs` at a time, whichever launchers start them; all of them must allow several. Returns
    the files to unlock; None if there is no room.
    """
    gpu_file = lock_file(gpu_lock(gpu), patience, shared=runs > 1)
    if gpu_file is None or runs == 1:
        return [gpu_file] if gpu_file else None
    for number in range(runs):
        if share_file := lock_file(gpu_lock(f"{gpu}-share-{number}"), patience=0):
            return [gpu_file, share_file]
    unlock(gpu_file)
    return None


def gpu_lock(gpu: str) -> Path:
    """The file that the run that trains on a GPU locks: it may outlive its launcher, and there may be two launchers.

    It is in the user's home, since in a folder that all may write to another user could create a link; and independent
    of the environment, so that a launcher in a terminal and one started by cron see each other's locks.
    """
    folder = Path.home() / ".cache" / "roadmap"
    folder.mkdir(0o700, parents=True, exist_ok=True)
    return folder / f"gpu-{re.sub(r'[^A-Za-z0-9-]', '_', gpu)}-of-{platform.node()}.lock"


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The name of this machine's CPU."""
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
        if match := re.search(r"^model name\s*: (.+)", text, re.MULTILINE):
            return match[1].strip()
    return platform.processor() or platform.machine() or "CPU"


def no_bf16(device: str) -> str:
    return (
        f"precision=bf16, which precision=auto is on GPUs, is not supported by {device}; take precision=fp16 or float32"
    )
