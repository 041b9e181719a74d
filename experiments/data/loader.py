"""The batches of training epochs: which images, in which order, on which process. And the images to evaluate on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch

from experiments.config.run import Run
from experiments.data.batch import Batch, Sample
from experiments.data.cache import Cache, read_into_memory
from experiments.data.datasets import NO_IMAGES, Collection, Streamed
from experiments.data.evaluation import Evaluation
from experiments.data.images import ArrayImages, Images, Stream, is_stream, undecoded
from experiments.data.in_memory import InMemory, training_crops
from experiments.data.partition import partition
from experiments.data.readers import load_images
from experiments.data.transforms import Erasing, TrainingTransform, evaluation_transform
from experiments.data.workers import BatchLoader, loader_workers
from experiments.errors import DataError, SettingsError
from experiments.runtime.processes import Processes
from experiments.runtime.randomness import Purpose, permutation


class Loader:
    """A process's batches of training epochs, and what it evaluates on.

    Raises:
        SettingsError: if the data are not there, or too few.
        StoppedError: if the run is asked to stop while images are read into memory.
    """

    def __init__(
        self,
        run: Run,
        processes: Processes,
        say: Callable[[str], None] = lambda line: None,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        self.run, self.processes, self.say, self.stop_requested = run, processes, say, stop_requested
        # A run that is evaluated on held-out images needs no others.
        data = replace(run.data, val=run.data.train) if run.data.holdout else run.data
        train, test = processes.of_node(lambda: load_images(data))
        self.num_classes, self.fingerprint = train.classes, train.fingerprint
        self.class_names: tuple[str, ...] | None = None if is_stream(train) else train.class_names
        self.broken: set[str] = set()
        """The images that could not be read so far, and why."""
        self.reported: set[str] = set()
        """Those of them that are in the log."""
        self.workers = loader_workers(run.workers, in_memory=isinstance(train, ArrayImages))
        self.skipped = self.broken if run.data.broken == "skip" else None
        self.erasing = Erasing(run.recipe, run.resolution, run.seed) if run.recipe.random_erasing else None
        self.evaluated_on = "holdout" if run.data.holdout else "test"
        held_out: np.ndarray | None = None
        dataset: Streamed | Collection | InMemory
        if is_stream(train):
            self.training_images = train.length
            dataset = self._stream(train)
        else:
            chosen, held_out = partition(train, run.data)
            self.training_images = len(chosen)
            dataset = self._collection(train, chosen)
        self.training = BatchLoader(dataset, processes, self.workers, self.skipped)
        images, indices = (train, held_out) if run.data.holdout else (test, None)
        transform = evaluation_transform(run.resolution, run.recipe.interpolation, run.recipe.crop_pct)
        self.evaluation = Evaluation(images, indices, transform, processes, self.workers, self.skipped)
        self.steps_per_epoch = self.training_images // run.recipe.batch_size
        if not self.steps_per_epoch:
            raise SettingsError(
                f"recipe.batch_size={run.recipe.batch_size} is more than the {self.training_images} training images; "
                "take a smaller batch or more data"
            )

    def _stream(self, stream: Stream) -> Streamed:
        run = self.run
        transform = TrainingTransform(run.recipe, run.resolution)
        stream = undecoded(stream) if run.data.reduced_decoding else stream
        return Streamed(stream, transform, run.seed, run.split.micro_batch_size, self.processes)

    def _collection(self, images: Images, chosen: np.ndarray) -> Collection | InMemory:
        run, cache = self.run, None
        if run.data.cache:
            self.say(f"reading {len(chosen):,} images into memory")
            cache = read_into_memory(
                images, chosen, run.resolution, self.processes, self.workers, self.skipped, self.stop_requested
            )
            images = cast(Images, cache)
        if run.crops_together:
            cache = cache or Cache.of_array(cast(ArrayImages, images), chosen)
            pixels = cache.pixels.to(self.processes.device) if run.data.cache == "device" else cache.pixels
            return InMemory(cache, training_crops(pixels, run.recipe, run.resolution, run.seed), self.erasing)
        images = undecoded(images) if run.data.reduced_decoding else images
        transform, skip = TrainingTransform(run.recipe, run.resolution), self.skipped is not None
        return Collection(images, chosen, transform, run.seed, self.erasing, replace_broken=skip)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """This process's batches of training epoch `epoch` from step `first` on, in an order of that epoch: as many per
        step as it accumulates. What does not fill a step is dropped. A step has the same images on any number of
        processes. Of a stream, `first` must be 0."""
        run = self.run
        if not self.resumes_within_epochs:
            return self._full(self.training.load(epoch))
        order = permutation(self.training_images, Purpose.ORDER, run.seed, epoch)
        steps = order[: self.steps_per_epoch * run.recipe.batch_size].view(self.steps_per_epoch, run.split.passes, -1)
        share = steps[first:, self.processes.rank :: run.split.processes].flatten(0, 1)
        return self.training.load(epoch, share)

    def _full(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Full batches of a stream, of which each loader worker's last may be smaller: as many as an epoch has. If
        images could not be read, the last batch is repeated in their place."""
        size, left = self.run.split.micro_batch_size, self.steps_per_epoch * self.run.split.accumulation
        images, labels = NO_IMAGES, torch.empty(0, dtype=torch.int64)
        samples: list[Sample] = []
        full: Batch | None = None
        for batch in batches:
            images = torch.cat([images, batch.images]) if len(images) else batch.images
            labels, samples = torch.cat([labels, batch.labels]), samples + batch.samples
            while left and len(images) >= size:
                erased = self.erasing(samples[:size]) if self.erasing else None
                yield (full := Batch(images[:size], labels[:size], samples[:size], erased=erased))
                images, labels, samples, left = images[size:], labels[size:], samples[size:], left - 1
        while left and full and self.broken:
            yield full
            left -= 1
        if left:
            raise DataError(
                f"the stream ended {left} batches before its epoch did: it has fewer images than the "
                f"{self.training_images} that it states"
            )

    # Stopping and resuming.

    @property
    def resumes_within_epochs(self) -> bool:
        """Whether a run can resume in the middle of an epoch: a stream always starts at its beginning."""
        return not isinstance(self.training.dataset, Streamed)

    def resume_point(self, epoch: int) -> str:
        """Where a run that is stopped within an epoch resumes, in words."""
        return "there" if self.resumes_within_epochs else f"the beginning of epoch {epoch + 1}: its data are a stream"

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the data, gathered from all processes."""
        self._gather_broken()
        return {"broken": sorted(self.broken), "told": sorted(self.reported), "images": self.fingerprint}

    def load_state_dict(self, state: Mapping[str, Any], step: int) -> None:
        """Resume after optimizer step `step`.

        Raises:
            SettingsError: within an epoch, if the images are now others or in another order.
        """
        if step % self.steps_per_epoch and state["images"] != self.fingerprint:
            raise SettingsError(
                f"stopped after step {step}, within an epoch whose images came in another order than those of "
                f"data.path={self.run.data.path} ({state['images']}, not {self.fingerprint}); resume with the data it "
                "began with"
            )
        self.broken.update(state["broken"])
        self.reported.update(state["told"])

    def report_broken(self) -> int:
        """Log the images that could not be read and are not in the log yet. Returns how many there are so far."""
        self._gather_broken()
        for name in sorted(self.broken - self.reported):
            self.say(f"skipped: {name}")
        self.reported |= self.broken
        return len(self.broken)

    def _gather_broken(self) -> None:
        self.broken.update(self.processes.gather_names(self.broken))
