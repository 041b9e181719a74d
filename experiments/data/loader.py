"""The batches of training epochs and of evaluations: which images, in which order, on which process."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, get_worker_info

from experiments.config.run import Run
from experiments.data.batch import Batch, Failure, Sample
from experiments.data.correct_images import CorrectImages
from experiments.data.images import ArrayImages, BrokenImageError, Images, Jpeg, Stream, undecoded
from experiments.data.in_memory import Cache, CentreCrops, InMemory, Whole, check_room, training_crops, why_not
from experiments.data.partition import partition
from experiments.data.readers import load_images
from experiments.data.transforms import CentreCrop, Erasing, TrainingTransform, Transform, evaluation_transform, stack
from experiments.errors import DataError, SettingsError, StoppedError
from experiments.runtime.machine import cores
from experiments.runtime.processes import Processes
from experiments.runtime.randomness import Purpose, derive, permutation, preserved

KEEP = 256 * 2**20
"""Bytes of evaluation images up to which they are transformed once and kept."""
EVALUATED_AT_ONCE = 250
START = "fork" if sys.platform == "linux" else None
"""How loader workers start; None is Python's default. Forked ones share an index of a million images and import
nothing, whatever started the run itself; elsewhere they are sent all they need."""
NO_IMAGES = torch.empty(0, 3, 1, 1, dtype=torch.uint8)


class Collection(Dataset):
    """Some of a collection's images, transformed. What is random about a sample depends on (seed, epoch, sample);
    without a seed, for evaluation, nothing is."""

    def __init__(
        self,
        images: Images,
        indices: np.ndarray,
        transform: Transform,
        seed: int | None = None,
        erasing: Erasing | None = None,
        *,
        replace_broken: bool = False,
    ) -> None:
        self.images, self.indices, self.transform, self.seed = images, indices, transform, seed
        self.erasing, self.replace_broken = erasing, replace_broken

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, keys: Sequence[tuple[int, int]]) -> Batch:
        """A batch of (epoch, position) pairs."""
        pixels, labels, samples, broken = [], [], [], []
        try:
            with preserved():
                for epoch, position in keys:
                    sample = epoch, int(self.indices[position])
                    image, index = self._readable(position, sample, broken)
                    if image is None:
                        continue
                    pixels.append(image)
                    labels.append(self.images.labels[index])
                    samples.append(sample)
            batch = _batch(pixels, labels, samples, broken)
            return batch._replace(erased=self.erasing(samples)) if self.erasing else batch
        except _caught() as error:
            return _failed(error)

    def _readable(self, position: int, sample: Sample, broken: list[str]) -> tuple:
        """The image at a position, transformed, and its index; of a broken one the next that can be read, if it is to
        be replaced."""
        for offset in range(len(self) if self.replace_broken else 1):
            index = int(self.indices[(position + offset) % len(self)])
            try:
                image = self.images.image(index)
                return _transformed(image, self.transform, self.seed, sample, self.images.name(index)), index
            except BrokenImageError as error:
                broken.append(str(error))
        return None, None


class Streamed(IterableDataset):
    """This process's part of a stream, transformed, in batches of `size`, but for each loader worker's last. Its
    samples are counted by each loader worker for itself."""

    def __init__(self, stream: Stream, transform: Transform, seed: int | None, size: int, processes: Processes) -> None:
        self.stream, self.transform, self.seed, self.size = stream, transform, seed, size
        self.rank, self.world = processes.rank, processes.world
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        """The next epoch: loader workers, which live longer than one, look at it when they begin."""

    def __iter__(self) -> Iterator[Batch]:
        batches = self._batches()
        while True:
            try:
                batch = next(batches, None)
            except _caught() as error:
                batch = _failed(error)
            if batch is None:
                return
            yield batch

    def _batches(self) -> Iterator[Batch]:
        loader = get_worker_info()
        worker, workers = (loader.id, loader.num_workers) if loader else (0, 1)
        part = {"rank": self.rank, "world": self.world, "worker": worker, "workers": workers}
        epoch, first, shares = int(self.epoch), self.rank * workers + worker, self.world * workers
        order = derive(Purpose.ORDER, self.seed or 0, epoch) >> 1  # of 63 bits, and every seed's own
        images = self.stream.images(order, shuffle=self.seed is not None, **part)
        counted = ((epoch, number) for number in itertools.count(first, shares))
        while batch := self._next(images, counted):
            yield batch

    def _next(self, images: Iterator[tuple[Image.Image | Jpeg, int]], counted: Iterator[Sample]) -> Batch | None:
        """The next batch; None after the last."""
        pixels, labels, samples, broken = [], [], [], []
        with preserved():
            for sample in itertools.islice(counted, self.size):
                try:
                    image, label = next(images)
                    name = f"number {sample[1]} of a stream"
                    pixels.append(_transformed(image, self.transform, self.seed, sample, name))
                except StopIteration:
                    break
                except BrokenImageError as error:  # the next() after it goes on
                    broken.append(str(error))
                    continue
                labels.append(label)
                samples.append(sample)
        return _batch(pixels, labels, samples, broken) if pixels or broken else None


def _caught() -> type[BaseException]:
    """In a loader worker everything, sys.exit() too: one that dies can't say why."""
    return BaseException if get_worker_info() else Exception


def _transformed(
    image: Image.Image | Jpeg, transform: Transform, seed: int | None, sample: Sample, name: str
) -> Tensor:
    key = () if seed is None else (derive(Purpose.SAMPLE, seed, *sample),)
    try:
        return transform(image, *key)
    except BrokenImageError:  # of a JPEG, which is decoded there
        raise
    except _caught() as error:
        width, height = image.size
        raise DataError(f"cannot transform the image {name}, {width} x {height} px: {_reason(error)}") from error


def _batch(pixels: list[Tensor], labels: list[int], samples: list[Sample], broken: list[str]) -> Batch:
    images = stack(pixels) if pixels else NO_IMAGES
    return Batch(images, torch.tensor(np.array(labels, dtype=np.int64)), samples, broken)


def _failed(error: BaseException) -> Batch:
    return Batch(NO_IMAGES, torch.empty(0, dtype=torch.int64), [], [], Failure(_reason(error), traceback.format_exc()))


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())[:500]
    return text if isinstance(error, (SettingsError, DataError)) else f"{type(error).__name__}: {text}".rstrip(": ")


class Requests(Sampler):
    """What the loader workers are to fetch next: for each batch its (epoch, position) pairs."""

    def __init__(self) -> None:
        self.epoch, self.batches = 0, ()

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in self.batches:
            yield [(self.epoch, position) for position in batch.tolist()]


class Reader:
    """How a process gets at the batches of a part of the data: through loader workers, which live as long as the run,
    and past what can't be read.

    `broken` is where it notes the images that it passes over; None if it must not.
    """

    def __init__(
        self, part: Collection | InMemory | Streamed, processes: Processes, workers: int, broken: set[str] | None = None
    ) -> None:
        self.part, self.broken = part, broken
        self.requests = None if isinstance(part, Streamed) else Requests()
        if isinstance(part, InMemory):  # which may be on a GPU, where nothing is to be loaded
            return
        self.loader = DataLoader(
            part,
            batch_size=None,  # the part makes them
            sampler=self.requests,
            collate_fn=_as_it_is,
            num_workers=workers,
            persistent_workers=workers > 0,
            multiprocessing_context=START if workers else None,
            worker_init_fn=_begin_worker,
            pin_memory=processes.device.type == "cuda",
            generator=torch.Generator(),  # nothing reads it; without it, torch draws from the global one
        )

    def read(self, epoch: int, batches: Iterable[Tensor] = ()) -> Iterator[Batch]:
        """The batches at these positions in the collection; of a stream, all of an epoch's.

        Raises:
            DataError: for an image that can't be read, unless it may be passed over; for one that can't be transformed;
                if a loader worker dies.
        """
        if self.requests is None:
            self.part.epoch.fill_(epoch)
        else:
            self.requests.epoch, self.requests.batches = epoch, batches
        for batch in self._fetched():
            if batch.failure:
                failed = DataError(batch.failure.reason)
                failed.add_note(batch.failure.trace)
                raise failed
            if batch.broken and self.broken is None:
                raise DataError(f"{batch.broken[0]}; mend or remove it, or pass over such images with data.broken=skip")
            if batch.broken:
                self.broken.update(batch.broken)
            if len(batch.images):
                yield batch

    def _fetched(self) -> Iterator[Batch]:
        if isinstance(self.part, InMemory):
            yield from map(self.part.__getitem__, self.requests)
            return
        batches = iter(self.loader)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises in the middle of whatever goes on
        while True:
            try:
                batch = _awaited(batches)
            except RuntimeError as error:
                raise DataError(
                    f"a loader worker died, as when memory runs out: {error}; take fewer of them with workers=..."
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
    """Seconds for which this process has now been waiting for a batch of its loader workers."""
    return 0.0 if _waiting_since is None else time.monotonic() - _waiting_since


def _as_it_is(batch: Batch) -> Batch:
    return batch


def _begin_worker(_: int) -> None:
    """A loader worker leaves to its run what a terminal or a cluster tells the whole group of processes. It ends when
    the run does, whatever ends that: of a process that was killed, workers would otherwise hold the lock."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    run = multiprocessing.parent_process()
    threading.Thread(target=lambda: (run.join(), os._exit(1)), daemon=True).start()


def end_workers() -> None:
    """End this process's loader workers, whatever they are at: nothing in them is worth waiting for, and they ignore
    the signal by which Python would end them when it exits."""
    for worker in multiprocessing.active_children():
        worker.kill()
        worker.join()


def in_memory(images: ArrayImages, indices: np.ndarray) -> Cache:
    pixels = torch.from_numpy(images.pixels)
    pixels = pixels if len(indices) == len(pixels) else pixels[indices]
    return Cache(images, indices, pixels if pixels.ndim == 4 else pixels[..., None], {})


def read_into_memory(
    images: Images,
    indices: np.ndarray,
    resolution: int,
    processes: Processes,
    workers: int,
    broken: set[str] | None,
    asked_to_stop: Callable[[], bool] = lambda: False,
) -> Cache:
    """Some of a collection's images, read by loader workers. `broken`: as of `Reader`.

    Raises:
        DataError: if they are not of one size, or too many; or for one that can't be read and may not be passed over.
        StoppedError: if it is asked to stop.
    """
    whole = Whole(images, indices)
    check_room(len(indices), whole.size, resolution)
    width, height = whole.size
    pixels, is_read = torch.empty(len(indices), height, width, 3, dtype=torch.uint8), np.zeros(len(indices), bool)
    reader = Reader(Collection(images, indices, whole), processes, workers, broken)
    for batch in reader.read(0, torch.arange(len(indices)).split(EVALUATED_AT_ONCE)):
        positions = np.searchsorted(indices, [index for _, index in batch.samples])
        pixels[positions] = batch.images.permute(0, 2, 3, 1)
        is_read[positions] = True
        if asked_to_stop():
            raise StoppedError("stopped while its images were read into memory; the same command begins with that anew")
    return Cache(
        images, indices, pixels, {int(one): why_not(images, int(indices[one])) for one in np.flatnonzero(~is_read)}
    )


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
        self.processes, self.streamed = processes, not hasattr(images, "labels")
        if self.streamed:
            self.images = images.length
            part = Streamed(images, transform, None, EVALUATED_AT_ONCE, processes)
        else:
            indices = np.arange(len(images.labels)) if indices is None else indices
            self.images = len(indices)
            if isinstance(images, ArrayImages) and isinstance(transform, CentreCrop) and not workers:
                cache = in_memory(images, indices)
                part = InMemory(cache, CentreCrops(cache.pixels, transform.size))
            else:
                part = Collection(images, indices, transform)
        self.part = part
        self.reader: Reader | None = Reader(part, processes, workers, broken)
        self._kept: list[Batch] = []

    def __len__(self) -> int:
        return self.images

    def outcomes(self) -> CorrectImages | None:
        """For `evaluate` to note in what becomes of each image; None of a stream, whose images have no order."""
        return None if self.streamed else CorrectImages(self.part.images, self.part.indices)

    def batches(self) -> Iterator[Batch]:
        """This process's share of the images: over all processes, each image once."""
        if self.reader is None:
            return iter(self._kept)
        mine = torch.arange(0 if self.streamed else len(self))[self.processes.rank :: self.processes.world]
        batches = self.reader.read(0, mine.split(EVALUATED_AT_ONCE))
        return batches if self.streamed else self._keep(batches)

    def _keep(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Pass batches on, and keep them for the next time if all of them together are small: then no loader worker is
        needed again."""
        kept: list[Batch] | None = []
        for batch in batches:
            yield batch
            if kept is not None:
                kept.append(batch)
                kept = kept if sum(one.images.nbytes for one in kept) <= KEEP else None
        if kept is not None:
            self._kept, self.reader = kept, None


class Loader:
    """A process's batches of training epochs, and what it evaluates on.

    Raises:
        SettingsError: if the data are not there, or too few.
        StoppedError: if it is asked to stop while images are read into memory.
    """

    def __init__(
        self,
        run: Run,
        processes: Processes,
        say: Callable[[str], None] = lambda line: None,
        asked_to_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.run, self.processes, self.say, self.asked_to_stop = run, processes, say, asked_to_stop
        # What is evaluated on held-out images needs no others.
        data = replace(run.data, val=run.data.train) if run.data.holdout else run.data
        train, test = processes.of_node(lambda: load_images(data))
        self.num_classes, self.fingerprint = train.classes, train.fingerprint
        self.streamed = not hasattr(train, "labels")
        self.broken: set[str] = set()
        """The images that could not be read so far, and why."""
        self.erasing = Erasing(run.recipe, run.resolution, run.seed) if run.recipe.random_erasing else None
        skip = run.data.broken == "skip"
        reading = (
            processes,
            loader_workers(run.workers, in_memory=isinstance(train, ArrayImages)),
            self.broken if skip else None,
        )
        prepare = evaluation_transform(run.resolution, run.recipe.interpolation, run.recipe.crop_pct)
        self.evaluated_on = "holdout" if run.data.holdout else "test"
        if self.streamed:
            self.training_images, held_out, part = train.length, None, self._streamed(train)
        else:
            chosen, held_out = partition(train, run.data)
            self.training_images, part = len(chosen), self._collected(train, chosen, *reading)
        self.training = Reader(part, *reading)
        evaluated = (train, held_out) if run.data.holdout else (test, None)
        self.evaluation = Evaluation(*evaluated, prepare, *reading)
        self.steps_per_epoch = self.training_images // run.recipe.batch_size
        if not self.steps_per_epoch:
            raise SettingsError(
                f"recipe.batch_size={run.recipe.batch_size} is more than the {self.training_images} training images; "
                "take a smaller batch or more data"
            )

    def _streamed(self, stream: Stream) -> Streamed:
        run = self.run
        transform = TrainingTransform(run.recipe, run.resolution)
        stream = undecoded(stream) if run.data.reduced_decoding else stream
        return Streamed(stream, transform, run.seed, run.split.micro_batch_size, self.processes)

    def _collected(
        self, images: Images, chosen: np.ndarray, processes: Processes, workers: int, broken: set[str] | None
    ) -> Collection | InMemory:
        run = self.run
        if run.data.cache:
            self.say(f"reading {len(chosen):,} images into memory")
            images = read_into_memory(images, chosen, run.resolution, processes, workers, broken, self.asked_to_stop)
        if run.crops_together:
            cache = images if run.data.cache else in_memory(images, chosen)
            pixels = cache.pixels.to(processes.device) if run.data.cache == "device" else cache.pixels
            return InMemory(cache, training_crops(pixels, run.recipe, run.resolution, run.seed), self.erasing)
        transform, skip = TrainingTransform(run.recipe, run.resolution), broken is not None
        images = undecoded(images) if run.data.reduced_decoding else images
        return Collection(images, chosen, transform, run.seed, self.erasing, replace_broken=skip)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """This process's batches of training epoch `epoch` from step `first` on, as many a step as it accumulates, in
        an order of the epoch's own; what does not fill a step is dropped. A step has the same images on any number of
        processes. Of a stream `first` must be 0."""
        run = self.run
        if self.streamed:
            return self._full(self.training.read(epoch))
        order = permutation(self.training_images, Purpose.ORDER, run.seed, epoch)
        steps = order[: self.steps_per_epoch * run.recipe.batch_size].view(self.steps_per_epoch, run.split.passes, -1)
        mine = steps[first:, self.processes.rank :: run.split.processes].flatten(0, 1)
        return self.training.read(epoch, mine)

    def _full(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """A stream's batches, of which each loader worker's last is short, as full ones, as many as an epoch has. Where
        images that could not be read are missing at its end, the last batch comes again."""
        size, left = self.run.split.micro_batch_size, self.steps_per_epoch * self.run.split.accumulation
        images, labels, samples, full = NO_IMAGES, torch.empty(0, dtype=torch.int64), [], None
        for batch in batches:
            images = torch.cat([images, batch.images]) if len(images) else batch.images
            labels, samples = torch.cat([labels, batch.labels]), samples + batch.samples
            while left and len(images) >= size:
                full = Batch(images[:size], labels[:size], samples[:size])
                yield (full := full._replace(erased=self.erasing and self.erasing(full.samples)))
                images, labels, samples, left = images[size:], labels[size:], samples[size:], left - 1
        for _ in range(left if self.broken and full else 0):
            yield full
            left -= 1
        if left:
            raise DataError(
                f"the stream ended {left} batches before its epoch did: it has fewer images than the "
                f"{self.training_images} that it states"
            )


def loader_workers(asked: int | None, *, in_memory: bool) -> int:
    """As many loader workers as were asked for; else none for images in memory, and for files a core each."""
    if asked is not None:
        return asked
    here = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    return 0 if in_memory else max(1, cores() // here)
