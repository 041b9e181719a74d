"""When the host waits for the device, and a run's processes communicate: at points some steps apart.

In between the host only queues work for the device, so that a GPU never waits for it.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import torch
from torch import Tensor

from experiments.runtime.processes import Processes

SECONDS_APART = 0.5
"""From one synchronization to the next."""


class Synced(NamedTuple):
    losses: list[float]
    """For each pass since the last synchronization, the mean over the processes."""
    stop: bool
    """Whether any process was asked to stop."""
    save: bool
    """Whether a checkpoint is due."""


class SyncPoints:
    """The synchronization points of an epoch. A single process synchronizes once SECONDS_APART have passed. Several
    must do so after the same step, so at each point they agree on the number of steps to the next: one at first, then
    as many as fit into SECONDS_APART at the pace of the last ones, but at most twice as many as those."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.taken, self.steps = 0, 1
        self.began = time.perf_counter()

    def due(self) -> bool:
        """Whether to synchronize now; to be called after each step."""
        self.taken += 1
        if self.processes.world == 1:
            return time.perf_counter() - self.began >= SECONDS_APART
        return self.taken == self.steps

    def synchronize(self, losses: list[Tensor], *, stop: bool, save: bool) -> Synced:
        """Wait for the device. `losses`: scalars on it, of this process's passes since the last synchronization."""
        values = torch.stack(losses).tolist()
        now = time.perf_counter()
        fitting = max(1, min(int(self.taken * SECONDS_APART / max(now - self.began, 1e-6)), 2 * self.taken))
        *means, stops, saves, steps = self.processes.sum(
            *(loss / self.processes.world for loss in values), stop, save, fitting if self.processes.is_first else 0
        )
        self.taken, self.steps, self.began = 0, round(steps), now
        return Synced(means, stops > 0, saves > 0)
