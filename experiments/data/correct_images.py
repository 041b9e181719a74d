"""Which images of an evaluation a network gets right, one by one: what correct.json says (docs/records.md)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.data.images import Images, fingerprint
from experiments.runtime.processes import Processes

UNREAD, WRONG, RIGHT = 0, 1, 2


class CorrectImages:
    """What becomes of the images at `indices`, ascending, of a collection, as an evaluation goes through them."""

    def __init__(self, images: Images, indices: np.ndarray) -> None:
        self.images, self.indices = images, indices
        self._evaluated: list[int] = []
        self._right: list[Tensor] = []  # a batch each, on the device

    def add(self, indices: Iterable[int], right: Tensor) -> None:
        """Those of a batch: (N,), whether the top-1 of each is right."""
        self._evaluated += indices
        self._right.append(right)

    def to_json(self, processes: Processes) -> dict[str, Any] | None:
        """Those of all processes, in the order of the collection; None if there are none."""
        outcomes = torch.full((len(self.indices),), UNREAD, dtype=torch.uint8)
        if self._right:
            right = torch.cat(self._right).cpu()
            outcomes[np.searchsorted(self.indices, self._evaluated)] = torch.where(right, RIGHT, WRONG).to(torch.uint8)
        outcomes = processes.total(outcomes).numpy()
        if (outcomes == UNREAD).all():
            return None
        return {
            "images": fingerprint(self.images.fingerprint, self.indices),
            "count": len(outcomes),
            "unread": np.flatnonzero(outcomes == UNREAD).tolist(),
            "correct": np.packbits(outcomes == RIGHT).tobytes().hex(),
        }
