"""Loader workers: processes that read and transform images for a run, and live as long as it does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from experiments.data.batch import Batch
from experiments.data.datasets import Collection, Streamed
from experiments.errors import DataError
from experiments.runtime.machine import cores
from experiments.runtime.processes import Processes

START = "fork" if sys.platform == "linux" else None
"""How loader workers start; None is Python's default. Forked ones share an index of a million images and import
nothing, however the run itself was started; elsewhere they are sent all they need."""


def loader_workers(requested: int | None, *, in_memory: bool) -> int:
    """The number of loader workers: as requested; else none for images in memory, and for files one per core."""
    if requested is not None:
        return requested
    processes_here = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    return 0 if in_memory else max(1, cores() // processes_here)


class Requests(Sampler):
    """What the loader workers are to load next: for each batch its (epoch, position) pairs."""

    def __init__(self) -> None:
        self.epoch = 0
        self.batches: Iterable[Tensor] = ()

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in self.batches:
            yield [(self.epoch, position) for position in batch.tolist()]


class BatchLoader:
    """Loads batches of a dataset, through loader workers if there are any. What is in memory is not sent to workers.

    `broken` is where it notes the images that it skips since they can't be read; None if it must not skip any.
    """

    def __init__(
        self, dataset: Dataset[Batch], processes: Processes, workers: int, broken: set[str] | None = None
    ) -> None:
        self.dataset, self.broken, self.requests = dataset, broken, Requests()
        self.loader: DataLoader | None = None
        if isinstance(dataset, (Collection, Streamed)):
            self.loader = DataLoader(
                dataset,
                batch_size=None,  # the dataset gives batches
                sampler=None if isinstance(dataset, Streamed) else self.requests,
                collate_fn=_unchanged,
                num_workers=workers,
                persistent_workers=workers > 0,
                multiprocessing_context=START if workers else None,
                worker_init_fn=_begin_worker,
                pin_memory=processes.device.type == "cuda",
                generator=torch.Generator(),  # unused; without it, torch would draw from the global one
            )

    def load(self, epoch: int, positions: Iterable[Tensor] = ()) -> Iterator[Batch]:
        """The batches of images at these positions in a collection; of a stream, all of an epoch's.

        Raises:
            DataError: for an image that can't be read, unless it may be skipped; for one that can't be transformed; if
                a loader worker dies.
        """
        if isinstance(self.dataset, Streamed):
            self.dataset.epoch.fill_(epoch)
        else:
            self.requests.epoch, self.requests.batches = epoch, positions
        for batch in self._batches():
            if batch.failure:
                failed = DataError(batch.failure.reason)
                failed.add_note(batch.failure.trace)
                raise failed
            if batch.broken and self.broken is None:
                raise DataError(f"{batch.broken[0]}; fix or remove it, or skip such images with data.broken=skip")
            if self.broken is not None:
                self.broken.update(batch.broken)
            if len(batch.images):
                yield batch

    def _batches(self) -> Iterator[Batch]:
        if self.loader is None:
            yield from map(self.dataset.__getitem__, self.requests)
            return
        batches = iter(self.loader)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises in the middle of anything
        while True:
            try:
                batch = _awaited(batches)
            except RuntimeError as error:
                raise DataError(
                    f"a loader worker died, as when memory runs out: {error}; use fewer of them with workers=..."
                ) from error
            if batch is None:
                return
            yield batch


_waiting_since: float | None = None


def _awaited(batches: Iterator[Batch]) -> Batch | None:
    global _waiting_since
    _waiting_since = time.monotonic()
    try:
        return next(batches, None)
    finally:
        _waiting_since = None


def waited() -> float:
    """Seconds for which this process has been waiting for a batch of its loader workers; 0 if it is not."""
    return 0.0 if _waiting_since is None else time.monotonic() - _waiting_since


def _unchanged(batch: Any) -> Any:
    return batch


def _begin_worker(_: int) -> None:
    """A loader worker ignores the signals that a terminal or a cluster sends to the whole process group: its run
    handles them. It ends when the run does, however that ends: workers that outlived it would keep its lock."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def end_workers() -> None:
    """Kill this process's loader workers: nothing in them is worth waiting for, and they ignore the signal by which
    Python would end them when it exits."""
    for worker in multiprocessing.active_children():
        worker.kill()
        worker.join()
