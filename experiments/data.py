"""The batches of training epochs and of evaluations: which images, in which order, on which process."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from experiments.errors import DataError, SettingsError
from experiments.images import ArrayImages, BrokenImageError, Images, Stream, load_images
from experiments.machine import cores
from experiments.partition import partition
from experiments.processes import Processes
from experiments.randomness import Purpose, derive, permutation, preserved, seed_cpu
from experiments.run import Run
from experiments.transforms import Transform, evaluation_transform, stack, training_transform

KEEP = 256 * 2**20
"""Bytes of evaluation images up to which they are transformed once and kept."""
EVALUATED_AT_ONCE = 250
NO_IMAGES = torch.empty(0, 3, 1, 1, dtype=torch.uint8)

Sample = tuple[int, int]
"""(epoch, index of the image in its collection)."""


class Batch(NamedTuple):
    images: Tensor
    """(N, 3, H, W), uint8."""
    labels: Tensor
    """(N,), int64."""
    samples: list[Sample]
    """Which these are."""
    broken: list[str] = []  # noqa: RUF012 - a NamedTuple's default, never changed
    """Images that could not be read, and why. In training another takes the place of each; in evaluation none does."""


class Transformed(Dataset):
    """Some of a collection's images, transformed. What is random about a sample depends on (seed, epoch, sample)."""

    def __init__(
        self, images: Images, indices: np.ndarray, transform: Transform, seed: int, *, replace_broken: bool = False
    ) -> None:
        self.images, self.indices, self.transform, self.seed = images, indices, transform, seed
        self.replace_broken = replace_broken

    def __len__(self) -> int:
        return len(self.indices)

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> Batch:
        """A batch of (epoch, position) pairs."""
        pixels, labels, samples, broken = [], [], [], []
        with preserved():
            for epoch, position in keys:
                sample = epoch, int(self.indices[position])
                image, index = self._readable(position, broken)
                if image is None:
                    continue
                seed_cpu(derive(Purpose.SAMPLE, self.seed, *sample))
                pixels.append(self.transform(image))
                labels.append(self.images.labels[index])
                samples.append(sample)
        images = stack(pixels) if pixels else NO_IMAGES
        return Batch(images, torch.tensor(np.array(labels, dtype=np.int64)), samples, broken)

    def _readable(self, position: int, broken: list[str]) -> tuple:
        """The image at a position and its index; of a broken one the next that can be read, if it is to be replaced."""
        for offset in range(len(self) if self.replace_broken else 1):
            index = int(self.indices[(position + offset) % len(self)])
            try:
                return self.images.image(index), index
            except BrokenImageError as error:
                broken.append(str(error))
        return None, None


class Batches:
    """What a DataLoader asks a dataset for, a list of (epoch, position) a batch."""

    def __init__(self, epoch: int, positions: Sequence[Tensor] | Tensor) -> None:
        self.epoch, self.positions = epoch, positions

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in self.positions:
            yield [(self.epoch, position) for position in batch.tolist()]


class Streamed(IterableDataset):
    """This process's part of a stream, transformed. Its samples are counted by each loader worker for itself."""

    def __init__(
        self, stream: Stream, transform: Transform, seed: int, epoch: int | None, processes: Processes
    ) -> None:
        self.stream, self.transform, self.seed, self.epoch = stream, transform, seed, epoch
        self.rank, self.world = processes.rank, processes.world

    def __iter__(self) -> Iterator[tuple[Tensor, int, Sample] | str]:
        """(image, label, sample), or of an image that can't be read which it is and why."""
        loader = get_worker_info()
        worker, workers = (loader.id, loader.num_workers) if loader else (0, 1)
        shares, epoch = self.world * workers, self.epoch or 0
        part = {"rank": self.rank, "world": self.world, "worker": worker, "workers": workers}
        order = derive(Purpose.ORDER, self.seed, epoch) >> 1  # of 63 bits, and every seed's own
        images = self.stream.images(order, shuffle=self.epoch is not None, **part)
        for count in itertools.count():
            sample = epoch, (count * shares) + self.rank * workers + worker
            try:
                image, label = next(images)
            except StopIteration:
                return
            except BrokenImageError as error:  # the next() after it goes on
                yield str(error)
                continue
            with preserved():
                seed_cpu(derive(Purpose.SAMPLE, self.seed, *sample))
                pixels = self.transform(image)
            yield pixels, label, sample


class Reader:
    """How a process gets at batches: through its loader workers, and past what can't be read."""

    def __init__(self, processes: Processes, workers: int, seed: int = 0, *, skip_broken: bool = False) -> None:
        self.processes, self.workers, self.seed, self.skip_broken = processes, workers, seed, skip_broken
        self.broken: set[str] = set()

    def read(self, dataset: Transformed, batches: Batches) -> Iterator[Batch]:
        return self._checked(DataLoader(dataset, batch_sampler=batches, collate_fn=lambda batch: batch, **self._how()))

    def stream(self, stream: Stream, transform: Transform, size: int, epoch: int | None) -> Iterator[Batch]:
        """Batches of `size`, but for each loader worker's last; not shuffled, for evaluation, if `epoch` is None."""
        dataset = Streamed(stream, transform, self.seed, epoch, self.processes)
        return self._checked(DataLoader(dataset, batch_size=size, collate_fn=_collate, **self._how()))

    def _how(self) -> dict:
        return {
            "num_workers": self.workers,
            "pin_memory": self.processes.device.type == "cuda",
            "worker_init_fn": _leave_signals,
            "generator": torch.Generator(),  # nothing reads it; without it, torch draws from the global one
        }

    def _checked(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            if batch.broken and not self.skip_broken:
                raise DataError(f"{batch.broken[0]}; mend or remove it, or pass over such images with data.broken=skip")
            self.broken.update(batch.broken)
            if len(batch.images):
                yield batch


class Evaluation:
    """Images to evaluate on: a stream, or those of a collection at `indices` (all if None)."""

    def __init__(
        self, images: Images | Stream, indices: np.ndarray | None, transform: Transform, reader: Reader
    ) -> None:
        self.reader, self.transform = reader, transform
        self.stream = None if hasattr(images, "labels") else images
        if self.stream is None:
            indices = np.arange(len(images.labels)) if indices is None else indices
            self.dataset = Transformed(images, indices, transform, reader.seed)
        self._kept: list[Batch] | None = None

    def __len__(self) -> int:
        return self.stream.length if self.stream else len(self.dataset)

    def batches(self) -> Iterator[Batch]:
        """This process's share of the images: over all processes, each image once."""
        if self._kept is not None:
            return iter(self._kept)
        if self.stream:
            return self.reader.stream(self.stream, self.transform, EVALUATED_AT_ONCE, None)
        mine = torch.arange(len(self))[self.reader.processes.rank :: self.reader.processes.world]
        return self._keep(self.reader.read(self.dataset, Batches(0, mine.split(EVALUATED_AT_ONCE))))

    def _keep(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Pass batches on, and keep them for the next time if all of them together are small."""
        kept: list[Batch] | None = []
        for batch in batches:
            yield batch
            if kept is not None:
                kept.append(batch)
                kept = kept if sum(one.images.nbytes for one in kept) <= KEEP else None
        self._kept = kept


class Loader:
    """A process's batches of training epochs, and what it evaluates on.

    Raises:
        SettingsError: if the data are not there, or too few.
    """

    def __init__(self, run: Run, processes: Processes) -> None:
        self.run, self.processes = run, processes
        # What is evaluated on held-out images needs no others.
        train, test = load_images(replace(run.data, val=run.data.train) if run.data.holdout else run.data)
        self.num_classes = train.classes
        self.streamed = not hasattr(train, "labels")
        workers = loader_workers(run.workers, in_memory=isinstance(train, ArrayImages))
        skip = run.data.broken == "skip"
        self.reader = Reader(processes, workers, run.seed, skip_broken=skip)
        self.transform = training_transform(run.recipe, run.resolution)
        prepare = evaluation_transform(run.resolution, run.recipe.interpolation, run.recipe.crop_pct)
        self.evaluated_on = "holdout" if run.data.holdout else "test"
        if self.streamed:
            self.training, self.training_images = train, train.length
            self.evaluation = Evaluation(test, None, prepare, self.reader)
        else:
            chosen, held_out = partition(train, run.data)
            self.training = Transformed(train, chosen, self.transform, run.seed, replace_broken=skip)
            self.training_images = len(chosen)
            evaluated = (train, held_out) if run.data.holdout else (test, None)
            self.evaluation = Evaluation(*evaluated, prepare, self.reader)
        self.steps_per_epoch = self.training_images // run.recipe.batch_size
        if not self.steps_per_epoch:
            raise SettingsError(
                f"recipe.batch_size={run.recipe.batch_size} is more than the {self.training_images} training images; "
                "take a smaller batch or more data"
            )

    @property
    def broken(self) -> set[str]:
        """The images that could not be read so far, and why."""
        return self.reader.broken

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """This process's batches of training epoch `epoch` from step `first` on, as many a step as it accumulates, in
        an order of the epoch's own; what does not fill a step is dropped. A step has the same images on any number of
        processes. Of a stream `first` must be 0."""
        run = self.run
        if self.streamed:
            return self._full(self.reader.stream(self.training, self.transform, run.split.device_batch, epoch))
        order = permutation(len(self.training), Purpose.ORDER, run.seed, epoch)
        steps = order[: self.steps_per_epoch * run.recipe.batch_size].view(self.steps_per_epoch, run.split.passes, -1)
        mine = steps[first:, self.processes.rank :: run.split.processes].flatten(0, 1)
        return self.reader.read(self.training, Batches(epoch, mine))

    def _full(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """A stream's batches, of which each loader worker's last is short, as full ones, as many as an epoch has. Where
        images that could not be read are missing at its end, the last batch comes again."""
        size, left = self.run.split.device_batch, self.steps_per_epoch * self.run.split.accumulation
        images, labels, samples, full = NO_IMAGES, torch.empty(0, dtype=torch.int64), [], None
        for batch in batches:
            images = torch.cat([images, batch.images]) if len(images) else batch.images
            labels, samples = torch.cat([labels, batch.labels]), samples + batch.samples
            while left and len(images) >= size:
                yield (full := Batch(images[:size], labels[:size], samples[:size]))
                images, labels, samples, left = images[size:], labels[size:], samples[size:], left - 1
        for _ in range(left if self.broken and full else 0):
            yield full
            left -= 1
        if left:
            raise DataError(
                f"the stream ended {left} batches before its epoch did: it has fewer images than the "
                f"{self.training_images} that it states"
            )


def _collate(samples: list[tuple[Tensor, int, Sample] | str]) -> Batch:
    broken = [one for one in samples if isinstance(one, str)]
    whole = [one for one in samples if not isinstance(one, str)]
    if not whole:
        return Batch(NO_IMAGES, torch.empty(0, dtype=torch.int64), [], broken)
    pixels, labels, keys = zip(*whole, strict=True)
    return Batch(stack(pixels), torch.tensor(labels), [*keys], broken)


def _leave_signals(*_: object) -> None:
    """A loader worker leaves to its run what a terminal or a cluster tells the whole group of processes."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def loader_workers(asked: int | None, *, in_memory: bool) -> int:
    """As many loader workers as were asked for; else none for images in memory, and for files a core each."""
    if asked is not None:
        return asked
    here = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    return 0 if in_memory else max(1, cores() // here)
