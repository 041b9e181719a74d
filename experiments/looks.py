"""When the host waits for the device, and all processes of a run talk to each other: at looks, some steps apart.

In between the host only tells the device what to do next, so that a GPU never waits for it.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import torch
from torch import Tensor

from experiments.processes import Processes

APART = 0.5
"""Seconds from one look to the next, if steps take as long as before: so that it is hardly ever more than one."""


class Look(NamedTuple):
    losses: list[float]
    """Of each pass since the last look, the mean over the processes."""
    stop: bool
    """Whether any process was asked to stop."""
    save: bool
    """Whether a checkpoint is due."""


class Looks:
    """The looks of an epoch. All processes agree at each on how many steps it is to the next: as many as take APART
    seconds, at most twice as many as last time, and at first one."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.steps = self.left = 1
        self.began = time.perf_counter()

    def due(self) -> bool:
        """Asked after each step: whether to look."""
        self.left -= 1
        return self.left <= 0

    def look(self, losses: list[Tensor], *, stop: bool, save: bool) -> Look:
        """Wait for the device. `losses`: of this process's passes since the last look, scalars on it."""
        mine = torch.stack(losses).tolist()
        now, taken = time.perf_counter(), self.steps - self.left
        pace = taken / max(now - self.began, 1e-6)
        wanted = max(1, min(int(APART * pace), 2 * taken))
        *means, stops, saves, self.steps = self.processes.sum(
            *(loss / self.processes.world for loss in mine), stop, save, wanted if self.processes.is_first else 0
        )
        self.left, self.began = self.steps, now
        return Look(means, stops > 0, saves > 0)
