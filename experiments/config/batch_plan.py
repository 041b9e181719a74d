"""How a batch is split among processes, and among the passes of each. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.errors import SettingsError


@dataclass(frozen=True)
class Split:
    """An optimizer step in `processes` x `accumulation` passes of `micro_batch_size` images each."""

    processes: int
    accumulation: int
    micro_batch_size: int

    @property
    def passes(self) -> int:
        """Forward and backward passes of a step, on all processes together."""
        return self.processes * self.accumulation


def split_batch(batch_size: int, micro_batch_size: int | None, processes: int) -> Split:
    """Split a batch among processes, and each share into passes of at most `micro_batch_size`; None for a single pass.

    Raises:
        SettingsError: if it can't be split evenly.
    """
    if batch_size % processes:
        raise SettingsError(
            f"recipe.batch_size={batch_size} can't be split among {processes} processes; take a multiple of {processes}"
        )
    share = batch_size // processes
    size = min(micro_batch_size or share, share)
    if share % size:
        fitting = max(smaller for smaller in range(1, size) if share % smaller == 0)
        raise SettingsError(
            f"micro_batch_size={size} does not divide the {share} images that each of {processes} process(es) gets "
            f"of recipe.batch_size={batch_size}; take micro_batch_size={fitting}, or another recipe.batch_size"
        )
    return Split(processes, share // size, size)
