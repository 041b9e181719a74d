"""What this machine has, and how runs share it. Imports no torch, and asks no CUDA: a launcher must not hold a GPU."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TextIO

from experiments.errors import SettingsError
from experiments.runtime.locks import PATIENCE, lock_file, unlock


@dataclass(frozen=True)
class Machine:
    """How a machine is shared among runs."""

    side_by_side: int
    """Runs at a time."""
    gpus: tuple[tuple[str, ...], ...]
    """Those of each run at a time, of which several may have the same; empty on a machine without."""
    threads: int
    """Of each process of a run."""
    runs_per_gpu: int = 1
    """At a time, at most; of no account without GPUs."""

    def describe(self) -> str:
        side_by_side = f"{self.side_by_side} side by side"
        if not self.gpus:
            unused = f", no GPU for {self.runs_per_gpu} runs to share" if self.runs_per_gpu > 1 else ""
            return f"{side_by_side}, {self.threads} thread(s) each{unused}"
        if self.runs_per_gpu == 1:
            return f"{side_by_side}, {len(self.gpus[0])} GPU(s) each"
        gpus = len({gpu for slot in self.gpus for gpu in slot})
        mps = "together, by NVIDIA's MPS" if mps_is_running() else "in turns, as NVIDIA's MPS is not running"
        return f"{side_by_side}, at most {self.runs_per_gpu} on each of {gpus} GPU(s): {mps}"


def share(
    runs: int,
    jobs: int | None = None,
    gpus_per_run: int = 1,
    device: str = "auto",
    runs_per_gpu: int = 1,
    own_cores: int | None = None,
) -> Machine:
    """Share this machine among a study of so many runs: its GPUs, or else its cores, as evenly as they go; of the cores
    so many if not all are ours.

    Raises:
        SettingsError: if there are fewer GPUs than a run, or than `jobs` runs, would take.
    """
    ours, runs = own_cores or cores(), max(1, runs)
    gpus = () if device == "cpu" else visible_gpus()
    if not gpus:
        if gpus_per_run > 1:
            raise SettingsError(f"hydra.launcher.gpus_per_run={gpus_per_run}, but there is no GPU here")
        at_a_time = jobs or min(ours, runs)
        return Machine(at_a_time, (), max(1, ours // at_a_time), runs_per_gpu)
    room = len(gpus) // gpus_per_run * runs_per_gpu
    at_a_time = jobs or min(room, runs) or 1
    if at_a_time > room:
        needed = at_a_time * gpus_per_run if runs_per_gpu == 1 else -(-at_a_time // runs_per_gpu)
        each, change = f"of {gpus_per_run} GPU(s)", "gpus_per_run"
        if runs_per_gpu > 1:
            each, change = f"of which {runs_per_gpu} share a GPU", "runs_per_gpu"
        raise SettingsError(
            f"{at_a_time} run(s) {each} at a time need {needed} GPUs, and there are {len(gpus)}; "
            f"change hydra.launcher.jobs or hydra.launcher.{change}"
        )
    slots = [
        gpus[first : first + gpus_per_run] for first in range(0, room // runs_per_gpu * gpus_per_run, gpus_per_run)
    ]
    own = tuple(slots * runs_per_gpu)[:at_a_time]  # in turns, so that few runs share as few GPUs as they can
    on_each = -(-at_a_time // len(slots)) if slots else 1
    return Machine(at_a_time, own, max(1, ours // (at_a_time * gpus_per_run)), on_each)


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that runs may use, as CUDA_VISIBLE_DEVICES names them."""
    if (stated := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return tuple(one.strip() for one in stated.split(",") if one.strip() not in ("", "-1", "NoDevFiles"))
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(str(number) for number, _ in enumerate(line for line in listed.splitlines() if line[:4] == "GPU "))


def has_gpus() -> bool:
    """Whether torch would train on GPUs here: there are some, and it is no build for CPUs alone."""
    try:
        return not version("torch").endswith("+cpu") and bool(visible_gpus())
    except PackageNotFoundError:
        return False


def compute_capability() -> float | None:
    """Of the oldest of the GPUs that runs may use, such as 8.0; None if nobody says."""
    asked = ["nvidia-smi", f"--id={','.join(visible_gpus())}", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        lines = subprocess.run(asked, capture_output=True, text=True, timeout=60).stdout.splitlines()
        return min(map(float, lines), default=None)
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return None


def is_busy() -> bool:
    """Whether others keep the cores here busy."""
    return os.getloadavg()[0] > cores()


def mps_is_running() -> bool:
    """Whether the daemon of NVIDIA's Multi-Process Service runs where CUDA looks for it."""
    folder = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY") or "/tmp/nvidia-mps")
    try:
        os.kill(int((folder / "nvidia-cuda-mps-control.pid").read_text()), 0)
    except PermissionError:  # another user's, who shares it
        return True
    except (OSError, ValueError):
        return False
    return True


def lock_gpu(gpu: str, runs: int, patience: float = PATIENCE) -> list[TextIO] | None:
    """Lock a GPU for one of so many runs at a time, whichever launchers start them; the others must allow several too.
    Unlock what is returned; None if there is no room.
    """
    whole = lock_file(gpu_lock(gpu), patience, shared=runs > 1)
    if whole is None or runs == 1:
        return whole and [whole]
    for number in range(runs):
        if share := lock_file(gpu_lock(f"{gpu}-share-{number}"), patience=0):
            return [whole, share]
    unlock(whole)
    return None


def gpu_lock(gpu: str) -> Path:
    """Held by the run that trains on a GPU: it may outlive its launcher, and there may be two launchers.

    In a folder of the user's own, for in one that all may write to another could place a link; and always in the same,
    whatever the environment says, so that a launcher in a terminal and one of cron see each other's.
    """
    folder = Path.home() / ".cache" / "roadmap"
    folder.mkdir(0o700, parents=True, exist_ok=True)
    return folder / f"gpu-{re.sub(r'[^A-Za-z0-9-]', '_', gpu)}-of-{platform.node()}.lock"


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def no_bf16(device: str) -> str:
    return f"precision=bf16, which precision=auto is on GPUs, is not what {device} has; take precision=fp16 or float32"
