"""How a step's images are split among processes, and among the passes of each. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.errors import SettingsError


@dataclass(frozen=True)
class Split:
    """An optimizer step of `processes` x `accumulation` passes of `micro_batch_size` images each."""

    processes: int
    accumulation: int
    micro_batch_size: int

    @property
    def passes(self) -> int:
        """Forward and backward passes of a step, on all processes together."""
        return self.processes * self.accumulation


def split_batch(batch_size: int, micro_batch_size: int | None, processes: int) -> Split:
    """Split a step of `batch_size` images among processes, `micro_batch_size` at a time; if None, all that one gets.

    Raises:
        SettingsError: if it can't be split evenly.
    """
    if batch_size % processes:
        raise SettingsError(
            f"recipe.batch_size={batch_size} can't be split among {processes} processes; take a multiple of {processes}"
        )
    share = batch_size // processes
    at_once = min(micro_batch_size or share, share)
    if share % at_once:
        fitting = max(size for size in range(1, at_once + 1) if share % size == 0)
        raise SettingsError(
            f"micro_batch_size={at_once} does not divide the {share} images that each of {processes} process(es) gets "
            f"of recipe.batch_size={batch_size}; take micro_batch_size={fitting}, or another recipe.batch_size"
        )
    return Split(processes, share // at_once, at_once)
