"""Images as datasets of torch's: transformed one by one, in batches, whatever reads them."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from experiments.data.batch import Batch, Failure, Sample
from experiments.data.images import BrokenImageError, Images, Jpeg, Stream
from experiments.data.transforms import Erasing, Transform, stack
from experiments.errors import DataError, SettingsError
from experiments.runtime.processes import Processes
from experiments.runtime.randomness import Purpose, derive, preserved

NO_IMAGES = torch.empty(0, 3, 1, 1, dtype=torch.uint8)


class Collection(Dataset):
    """The images of a collection at some indices, transformed. What is random about a sample depends on (seed, epoch,
    sample); without a seed, for evaluation, nothing is random."""

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
        pixels, labels, samples = [], [], []
        broken: list[str] = []
        try:
            with preserved():
                for epoch, position in keys:
                    sample = epoch, int(self.indices[position])
                    image, index = self._readable(position, sample, broken)
                    if image is None:
                        continue
                    pixels.append(image)
                    labels.append(int(self.images.labels[index]))
                    samples.append(sample)
            batch = _batch(pixels, labels, samples, broken)
            return batch._replace(erased=self.erasing(samples)) if self.erasing else batch
        except _caught() as error:
            return _failed(error)

    def _readable(self, position: int, sample: Sample, broken: list[str]) -> tuple[Tensor, int] | tuple[None, None]:
        """The image at a position, transformed, and its index. A broken one is added to `broken`; the next that can
        be read may replace it."""
        for offset in range(len(self) if self.replace_broken else 1):
            index = int(self.indices[(position + offset) % len(self)])
            try:
                image = self.images.image(index)
                return _transformed(image, self.transform, self.seed, sample, self.images.name(index)), index
            except BrokenImageError as error:
                broken.append(str(error))
        return None, None


class Streamed(IterableDataset):
    """This process's share of a stream, transformed, in batches of `size`; each loader worker's last may be smaller.
    Samples are numbered by each loader worker for itself."""

    def __init__(self, stream: Stream, transform: Transform, seed: int | None, size: int, processes: Processes) -> None:
        self.stream, self.transform, self.seed, self.size = stream, transform, seed, size
        self.rank, self.world = processes.rank, processes.world
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        """The next epoch: loader workers, which live longer than one, read it when they start on it."""

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
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        share = {"rank": self.rank, "world": self.world, "worker": worker, "workers": workers}
        epoch, first, shares = int(self.epoch), self.rank * workers + worker, self.world * workers
        order = derive(Purpose.ORDER, self.seed or 0, epoch) >> 1  # 63 bits, different for each seed
        images = self.stream.images(order, shuffle=self.seed is not None, **share)
        samples = ((epoch, number) for number in itertools.count(first, shares))
        while batch := self._next(images, samples):
            yield batch

    def _next(self, images: Iterator[tuple[Image.Image | Jpeg, int]], numbered: Iterator[Sample]) -> Batch | None:
        """The next batch; None after the last."""
        pixels, labels, samples, broken = [], [], [], []
        with preserved():
            for sample in itertools.islice(numbered, self.size):
                try:
                    image, label = next(images)
                    name = f"number {sample[1]} of a stream"
                    pixels.append(_transformed(image, self.transform, self.seed, sample, name))
                except StopIteration:
                    break
                except BrokenImageError as error:  # the following next() continues after it
                    broken.append(str(error))
                    continue
                labels.append(label)
                samples.append(sample)
        return _batch(pixels, labels, samples, broken) if pixels or broken else None


def _caught() -> type[BaseException]:
    """In a loader worker everything, even SystemExit: a worker that dies can't say why."""
    return BaseException if get_worker_info() else Exception


def _transformed(
    image: Image.Image | Jpeg, transform: Transform, seed: int | None, sample: Sample, name: str
) -> Tensor:
    key = () if seed is None else (derive(Purpose.SAMPLE, seed, *sample),)
    try:
        return transform(image, *key)
    except BrokenImageError:  # of a `Jpeg`, which the transform decodes
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
