"""What launchers tell the processes of a run, in environment variables. Imports no torch."""

from __future__ import annotations

import os

RUNS_PER_GPU = "ROADMAP_RUNS_PER_GPU"
"""How many runs a launcher trains on this run's GPU at a time."""
MEETING = "ROADMAP_MEETING"
"""Where a run's processes on one machine meet, as a URL of torch's; where it is not set, they meet where torchrun or
srun says."""


def world_size() -> int:
    """How many processes train this run together: torchrun says so, or srun; else one."""
    return int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_STEP_NUM_TASKS") or 1)
