"""The images that networks are evaluated on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from experiments.data.batch import Batch
from experiments.data.cache import Cache
from experiments.data.correct_images import CorrectImages
from experiments.data.datasets import Collection, Streamed
from experiments.data.images import ArrayImages, Images, Stream, is_stream
from experiments.data.in_memory import CentreCrops, InMemory
from experiments.data.transforms import CentreCrop, Transform
from experiments.data.workers import BatchLoader
from experiments.runtime.processes import Processes

EVALUATION_BATCH_SIZE = 250
KEPT_BYTES = 256 * 2**20
"""Evaluation images that are smaller than this together are transformed once and kept."""


class Evaluation:
    """Images to evaluate on: a stream, or those of a collection at `indices` (all if None)."""

    def __init__(
        self,
        images: Images | Stream,
        indices: np.ndarray | None,
        transform: Transform,
        processes: Processes,
        workers: int,
        broken: set[str] | None = None,
    ) -> None:
        self.processes = processes
        self.dataset: Streamed | InMemory | Collection
        if is_stream(images):
            self.count = images.length
            self.dataset = Streamed(images, transform, None, EVALUATION_BATCH_SIZE, processes)
        else:
            indices = np.arange(len(images.labels)) if indices is None else indices
            self.count = len(indices)
            if isinstance(images, ArrayImages) and isinstance(transform, CentreCrop) and not workers:
                cache = Cache.of_array(images, indices)
                self.dataset = InMemory(cache, CentreCrops(cache.pixels, transform.size))
            else:
                self.dataset = Collection(images, indices, transform)
        self.loader: BatchLoader | None = BatchLoader(self.dataset, processes, workers, broken)
        self._kept: list[Batch] = []

    def __len__(self) -> int:
        return self.count

    def correct_images(self) -> CorrectImages | None:
        """For `evaluate` to note which images a network gets right; None of a stream, whose images have no order."""
        return None if isinstance(self.dataset, Streamed) else CorrectImages(self.dataset.images, self.dataset.indices)

    def batches(self) -> Iterator[Batch]:
        """This process's share of the images: over all processes, each image once."""
        if self.loader is None:
            return iter(self._kept)
        if isinstance(self.dataset, Streamed):
            return self.loader.load(0)
        share = torch.arange(len(self))[self.processes.rank :: self.processes.world]
        return self._keep(self.loader.load(0, share.split(EVALUATION_BATCH_SIZE)))

    def _keep(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches, which are kept for the next time if all of them together are small: then no loader worker is
        needed again."""
        kept: list[Batch] | None = []
        for batch in batches:
            yield batch
            if kept is not None:
                kept.append(batch)
                kept = kept if sum(batch.images.nbytes for batch in kept) <= KEPT_BYTES else None
        if kept is not None:
            self._kept, self.loader = kept, None
