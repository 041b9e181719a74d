"""Environment variables by which launchers configure the processes of a run. Imports no torch."""

from __future__ import annotations

import os

RUNS_PER_GPU = "ROADMAP_RUNS_PER_GPU"
"""How many runs the launcher trains on this run's GPU at a time."""
RENDEZVOUS = "ROADMAP_RENDEZVOUS"
"""torch.distributed's `init_method` for a run's processes on one machine; if not set, torchrun or srun provides one."""

SECOND_PHASE = "ROADMAP_SECOND_PHASE"
"""Set for the command that launches the second phase of a study in a job of its own."""


def world_size() -> int:
    """How many processes train this run together, according to torchrun or srun; else one."""
    return int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_STEP_NUM_TASKS") or 1)
