"""Which images of an evaluation a network gets right: the content of correct.json (docs/records.md)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.data.images import Images, fingerprint
from experiments.runtime.processes import Processes

UNREAD, WRONG, CORRECT = 0, 1, 2


class CorrectImages:
    """Which of the images at `indices` (ascending) of a collection are classified correctly, added batch by batch."""

    def __init__(self, images: Images, indices: np.ndarray) -> None:
        self.images, self.indices = images, indices
        self._evaluated: list[int] = []
        self._correct: list[Tensor] = []  # one tensor per batch, on the device

    def add(self, indices: Iterable[int], correct: Tensor) -> None:
        """Add a batch: (N,), whether the top-1 prediction of each image is correct."""
        self._evaluated += indices
        self._correct.append(correct)

    def to_json(self, processes: Processes) -> dict[str, Any] | None:
        """Of all processes, in the order of the collection; None if no image was evaluated."""
        outcomes = torch.full((len(self.indices),), UNREAD, dtype=torch.uint8)
        if self._correct:
            codes = torch.where(torch.cat(self._correct).cpu(), CORRECT, WRONG).to(torch.uint8)
            outcomes[np.searchsorted(self.indices, self._evaluated)] = codes
        total = processes.total(outcomes).numpy()
        if (total == UNREAD).all():
            return None
        return {
            "images": fingerprint(self.images.fingerprint, self.indices),
            "count": len(total),
            "unread": np.flatnonzero(total == UNREAD).tolist(),
            "correct": np.packbits(total == CORRECT).tobytes().hex(),
        }
