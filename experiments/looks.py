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
"""Seconds from one look to the next."""


class Look(NamedTuple):
    losses: list[float]
    """Of each pass since the last look, the mean over the processes."""
    stop: bool
    """Whether any process was asked to stop."""
    save: bool
    """Whether a checkpoint is due."""


class Looks:
    """The looks of an epoch. A run's only process looks when APART seconds have passed. Several have to look after the
    same step: at each look they agree on how many steps it is to the next, as many as take APART seconds if they take
    as long as the last ones, at most twice as many as those, and at first one."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.taken, self.steps = 0, 1
        self.began = time.perf_counter()

    def due(self) -> bool:
        """Asked after each step: whether to look."""
        self.taken += 1
        if self.processes.world == 1:
            return time.perf_counter() - self.began >= APART
        return self.taken == self.steps

    def look(self, losses: list[Tensor], *, stop: bool, save: bool) -> Look:
        """Wait for the device. `losses`: of this process's passes since the last look, scalars on it."""
        mine = torch.stack(losses).tolist()
        now = time.perf_counter()
        steps = max(1, min(int(self.taken * APART / max(now - self.began, 1e-6)), 2 * self.taken))
        *means, stops, saves, steps = self.processes.sum(
            *(loss / self.processes.world for loss in mine), stop, save, steps if self.processes.is_first else 0
        )
        self.taken, self.steps, self.began = 0, steps, now
        return Look(means, stops > 0, saves > 0)
