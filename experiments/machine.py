"""What this machine has, and how runs share it. Imports no torch, and asks no CUDA: a launcher must not hold a GPU."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from experiments.errors import SettingsError


@dataclass(frozen=True)
class Machine:
    """How a machine is shared among runs."""

    side_by_side: int
    """Runs at a time."""
    gpus: tuple[tuple[str, ...], ...]
    """Those of each place; empty on a machine without."""
    threads: int
    """Of each process of a run."""


def share(runs: int, jobs: int | None, gpus_per_run: int, device: str = "auto") -> Machine:
    """Share this machine among a study of so many runs: its GPUs, or else its cores, as evenly as they go.

    Raises:
        SettingsError: if there are fewer GPUs than a run, or than `jobs` runs, would take.
    """
    gpus = () if device == "cpu" else visible_gpus()
    if not gpus:
        if gpus_per_run > 1:
            raise SettingsError(f"hydra.launcher.gpus_per_run={gpus_per_run}, but there is no GPU here")
        places = jobs or min(cores(), max(1, runs))
        return Machine(places, (), max(1, cores() // places))
    places = jobs or len(gpus) // gpus_per_run
    if (needed := max(1, places) * gpus_per_run) > len(gpus):
        raise SettingsError(
            f"{max(1, places)} run(s) of {gpus_per_run} GPU(s) at a time need {needed} GPUs, and "
            f"there are {len(gpus)}; change hydra.launcher.jobs or hydra.launcher.gpus_per_run"
        )
    own = tuple(gpus[place * gpus_per_run : (place + 1) * gpus_per_run] for place in range(places))
    return Machine(places, own, max(1, cores() // (places * gpus_per_run)))


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
