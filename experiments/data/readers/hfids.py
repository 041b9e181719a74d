"""Hugging Face datasets, streamed."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import fsspec
import numpy as np
from PIL import Image

from experiments.config.settings import Data
from experiments.data.images import BrokenImageError, Jpeg, decode, fingerprint
from experiments.data.readers import streaming
from experiments.data.readers.hfds import IMAGE, LABEL, explained
from experiments.errors import SettingsError
from experiments.runtime.randomness import Purpose, derive
from roadmap.common.words import listed


@dataclass(frozen=True)
class HubStream:
    """A split of a Hugging Face dataset, streamed.

    Shares are those of datasets' own `split_dataset_by_node`: whole shards if their number is a multiple of that of
    shares, else every n-th image, for which all images are read.
    """

    path: str
    split: str
    dataset: Any
    length: int
    classes: int
    lazy: bool = False

    @property
    def fingerprint(self) -> str:
        return fingerprint("hfids", [self.path.encode(), self.split.encode()], np.array([self.length]))

    def images(
        self, epoch: int, *, shuffle: bool, rank: int, world: int, worker: int, workers: int
    ) -> Iterator[tuple[Image.Image | Jpeg, int]]:
        from datasets.distributed import split_dataset_by_node

        shares = world * workers
        dataset = self.dataset
        if shuffle:
            seed = derive(Purpose.ORDER, epoch)
            # from one file at a time: with several, datasets 5 sleeps for 5 s at the end of each share of Parquet files
            dataset = dataset.shuffle(seed=seed, buffer_size=streaming.BUFFER, max_buffer_input_shards=1)
        dataset = split_dataset_by_node(dataset, rank=worker * world + rank, world_size=shares)

        def rows() -> Iterator[dict[str, list]]:
            return dataset.iter(batch_size=1)  # unlike iter(), it does not split again inside a loader worker

        size = len(range(worker, self.length // world, workers))
        return map(self._decoded, _exactly(size, rows) if shuffle else rows())

    def _decoded(self, row: dict[str, list]) -> tuple[Image.Image | Jpeg, int]:
        (image,), (label,) = row[IMAGE], row[LABEL]
        path = (image or {}).get("path") or ""
        name = path or f"an image of {self.path}, split {self.split}"
        try:
            if image["bytes"]:
                pixels = decode(io.BytesIO(image["bytes"]), name, self.lazy)
            elif "://" in path:
                with fsspec.open(path, "rb") as file:
                    pixels = decode(file, name, self.lazy)
            else:
                pixels = decode(path, name, self.lazy)
        except (OSError, TypeError) as error:  # the file is gone, or there is no image in this row
            raise BrokenImageError(name, str(error)) from error
        return pixels, streaming.label_of(label, self.classes, name)


def load(data: Data) -> tuple[HubStream, HubStream]:
    path = data.path or ""
    return stream_of(path, data.train, data.num_classes), stream_of(path, data.val, data.num_classes)


def stream_of(path: str, split: str, num_classes: int | None) -> HubStream:
    """`path` is a folder that Hugging Face datasets can load, or a name on its hub; `split` like train, or
    train|1281167 if the dataset does not say how many images it has."""
    import datasets
    from timm.data.readers.reader_hfids import ReaderHfids

    split, _, stated = split.partition("|")
    with explained(path, split):
        count = int(stated) if stated else None
        try:
            reader = ReaderHfids(path, split=split, num_samples=count)
        except ValueError as error:
            if "length is unknown" not in str(error):
                raise
            todo = f"state it, like {split}|1281167, or use data.reader=hfds"
            raise SettingsError(f"{path} does not say how many images its split {split!r} has: {todo}") from error
        dataset = reader.builder.as_streaming_dataset(split=split)
        if dataset.features and (lacking := {IMAGE, LABEL} - {*dataset.features}):
            raise SettingsError(f"{path} has columns {', '.join(dataset.features)}, but no {listed(sorted(lacking))}")
        names = getattr((dataset.features or {}).get(LABEL), "names", None)
        classes = len(names) if names else num_classes
        if classes is None:
            raise SettingsError(f"{path} does not say how many classes it has: set data.num_classes")
        dataset = dataset.cast_column(IMAGE, datasets.Image(decode=False))
    return HubStream(path, split, dataset, reader.num_samples, classes)


def _exactly(size: int, rows: Callable[[], Iterator]) -> Iterator:
    """`size` rows. Shares of whole shards may be longer, or shorter: these start again."""
    while size:
        size_before = size
        for row in islice(rows(), size):
            yield row
            size -= 1
        if size == size_before:
            raise SettingsError("a process or loader worker has no image to read: there are fewer than workers")
