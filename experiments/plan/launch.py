"""How a launcher would train the runs of a study."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Launch:
    """By default, of a single run here."""

    runs_at_once: int | None = 1
    """None for as many as the machine has room for."""
    runs_per_gpu: int = 1
    cores_per_process: int | None = None
    """On a cluster, those of each process of a run."""
    gpus_elsewhere: bool = False
    """Whether it trains on GPUs that are not here, so that nothing can be measured."""
    is_limit: bool = False
    """Whether `runs_at_once` is only the most that the launcher submits: how many a cluster has room for is not known.
    """


SINGLE_RUN = Launch()
