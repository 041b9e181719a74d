"""Streams of images through timm's readers: webdataset's shards, and Hugging Face datasets as they arrive.

timm's readers find the data: shards, splits, lengths, classes. Their iteration is for training alone: in evaluation
with several processes it stops each at the same number of images, which misses some and repeats others, and everywhere
it drops what can't be decoded without a word. So which images a process and a worker see is decided here.
"""

from __future__ import annotations

import io
import logging
import os
import random
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, islice
from pathlib import Path
from typing import Any

import fsspec
from PIL import Image

from experiments.errors import SettingsError
from experiments.images import BrokenImageError, decode
from experiments.randomness import Purpose, derive, permutation
from experiments.timm_readers import IMAGE, LABEL, explained

BUFFER = 4096
"""Images, still encoded, from which the next one is drawn in training."""
IMAGE_KEYS = ("jpg", "jpeg", "png", "webp")


@dataclass(frozen=True)
class Shards:
    """webdataset's tar files, each image beside a `.cls` file with its label.

    A share is a range of the epoch's images, shard after shard: shares are equal whatever the number of shards, and a
    worker opens only those that its range touches.
    """

    shards: Sequence[str]
    lengths: Sequence[int]
    classes: int

    @property
    def length(self) -> int:
        return sum(self.lengths)

    def images(
        self, epoch: int, *, shuffle: bool, rank: int, world: int, worker: int, workers: int
    ) -> Iterator[tuple[Image.Image, int]]:
        import webdataset

        order = permutation(len(self.shards), Purpose.ORDER, epoch).tolist() if shuffle else range(len(self.shards))
        whole = range(self.length - self.length % world if shuffle else self.length)
        share = _part(_part(whole, rank, world), worker, workers)
        samples = self._samples(order, share)
        if shuffle:
            seed = derive(Purpose.ORDER, epoch, rank, worker)
            samples = webdataset.shuffle(BUFFER, rng=random.Random(seed))(samples)
        return map(self._decoded, samples)  # unlike a generator's, its next() can be called again after an error

    def _samples(self, order: Sequence[int], share: range) -> Iterator[dict[str, Any]]:
        ends = accumulate(self.lengths[shard] for shard in order)
        for shard, end in zip(order, ends, strict=True):
            start = end - self.lengths[shard]
            first, last = max(share.start, start) - start, min(share.stop, end) - start
            if first < last:
                yield from self._range(shard, first, last)

    def _range(self, shard: int, first: int, last: int) -> Iterator[dict[str, Any]]:
        from webdataset import DataPipeline, SimpleShardList, reraise_exception, tarfile_to_samples

        url, length, seen = self.shards[shard], self.lengths[shard], 0
        pipeline = DataPipeline(SimpleShardList([url]), tarfile_to_samples(handler=reraise_exception))
        try:
            for sample in islice(pipeline, None if last == length else last):
                seen += 1
                if first < seen <= last:
                    yield sample
        except (OSError, ValueError, tarfile.TarError) as error:
            raise SettingsError(f"cannot read the shard {url}: {' '.join(str(error).split())}") from error
        if seen != last:
            raise SettingsError(f"the shard {url} has {seen} images, not {length}, as is said of it")

    def _decoded(self, sample: dict[str, Any]) -> tuple[Image.Image, int]:
        name = f"{sample['__key__']} in {sample['__url__']}"
        data = next((sample[key] for key in IMAGE_KEYS if key in sample), None)
        if data is None or "cls" not in sample:
            raise BrokenImageError(name, f"it needs a file .cls and one of .{', .'.join(IMAGE_KEYS)}")
        return decode(io.BytesIO(data), name), _label(sample["cls"], self.classes, name)


def wds(path: str, split: str, num_classes: int | None) -> Shards:
    """`path` is a folder of shards; `split` names one in its _info.json, or shards, like part-{000..146}.tar."""
    from timm.data.readers.reader_wds import ReaderWds
    from webdataset.shardlists import expand_urls

    local = "://" not in path
    root = str(Path(path).expanduser()) if local else path
    if local and not Path(root).is_dir():
        raise SettingsError(f"data.path={path} is not a folder")
    logging.getLogger(ReaderWds.__module__).setLevel(logging.ERROR)  # it warns where there is no _info.json
    try:
        reader = ReaderWds(root=root, split=split)
    except (RuntimeError, ValueError, KeyError) as error:
        todo = "name its shards, like part-{000..146}.tar, or put an _info.json with that split there"
        raise SettingsError(f"data.path={path} has no split {split!r}: {todo}") from error
    pattern, _, stated = split.partition("|")
    # of shards that are named while there is an _info.json, timm takes all that the split has
    files = expand_urls(pattern) if ".tar" in pattern or ".." in pattern else list(reader.split_info.filenames)
    known = dict(zip(reader.split_info.filenames, reader.split_info.shard_lengths, strict=False))
    shards = [os.path.join(root, file) for file in files]
    if local and (missing := [shard for shard in shards if not Path(shard).is_file()]):
        raise SettingsError(f"there is no shard {missing[0]} ({len(missing)} of {len(shards)} are missing)")
    if not local and not known.keys() >= {*files}:
        raise SettingsError(f"{path} needs an _info.json with the lengths of its shards: they are counted only locally")
    lengths = [known[file] if file in known else _count(shard) for file, shard in zip(files, shards, strict=True)]
    if stated and int(stated) != sum(lengths):
        raise SettingsError(f"the split {split!r} of data.path={path} has {sum(lengths)} images, not {stated}")
    classes = reader.info.get("num_classes") or num_classes
    if classes is None:
        raise SettingsError(f"{path} does not say how many classes it has: set data.num_classes")
    return Shards(shards, lengths, classes)


def _count(shard: str) -> int:
    """A shard's images from its headers alone: files of one name but for the extension are one, as in webdataset."""
    from webdataset.tariterators import base_plus_ext

    try:
        with tarfile.open(shard) as file:
            keys = [base_plus_ext(member.name)[0] for member in file if member.isreg()]
    except (OSError, tarfile.TarError) as error:
        raise SettingsError(f"cannot read the shard {shard}: {' '.join(str(error).split())}") from error
    return sum(1 for _ in groupby(key for key in keys if key and not key.startswith("__")))


@dataclass(frozen=True)
class HubStream:
    """A split of a Hugging Face dataset as it arrives.

    Shares are those of datasets' own `split_dataset_by_node`: whole shards where their number is a multiple of the
    number of shares, else every n-th image of all of them, which reads and throws away the rest.
    """

    path: str
    split: str
    dataset: Any
    length: int
    classes: int

    def images(
        self, epoch: int, *, shuffle: bool, rank: int, world: int, worker: int, workers: int
    ) -> Iterator[tuple[Image.Image, int]]:
        from datasets.distributed import split_dataset_by_node

        shares = world * workers
        dataset = self.dataset
        if shuffle:
            seed = derive(Purpose.ORDER, epoch)
            # one file after the other: mixing several, datasets 5 sleeps 5 s at the end of each share of Parquet files
            dataset = dataset.shuffle(seed=seed, buffer_size=BUFFER, max_buffer_input_shards=1)
        dataset = split_dataset_by_node(dataset, rank=worker * world + rank, world_size=shares)

        def rows() -> Iterator[
            dict[str, list]
        ]:  # unlike iter(), iter(1) doesn't split once more inside a loader worker
            return dataset.iter(batch_size=1)

        size = len(range(worker, self.length // world, workers))
        return map(self._decoded, _exactly(size, rows) if shuffle else rows())

    def _decoded(self, row: dict[str, list]) -> tuple[Image.Image, int]:
        (image,), (label,) = row[IMAGE], row[LABEL]
        name = (image or {}).get("path") or f"an image of {self.path}, split {self.split}"
        try:
            if not image["bytes"]:
                with fsspec.open(image["path"], "rb") as file:
                    return decode(file, name), _label(label, self.classes, name)
        except (OSError, TypeError) as error:  # the file is gone; there is no image in this row
            raise BrokenImageError(name, str(error)) from error
        return decode(io.BytesIO(image["bytes"]), name), _label(label, self.classes, name)


def hfids(path: str, split: str, num_classes: int | None) -> HubStream:
    """`path` is a folder that Hugging Face datasets can load, or a name on its hub; `split` like train, or
    train|1281167 where the dataset does not say how many images it has."""
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
            todo = f"state it, like {split}|1281167, or take data.reader=hfds"
            raise SettingsError(f"{path} does not say how many images its split {split!r} has: {todo}") from error
        dataset = reader.builder.as_streaming_dataset(split=split)
        if dataset.features and (lacking := {IMAGE, LABEL} - {*dataset.features}):
            raise SettingsError(
                f"{path} has columns {', '.join(dataset.features)}, but no {' and '.join(sorted(lacking))}"
            )
        names = getattr((dataset.features or {}).get(LABEL), "names", None)
        classes = len(names) if names else num_classes
        if classes is None:
            raise SettingsError(f"{path} does not say how many classes it has: set data.num_classes")
        dataset = dataset.cast_column(IMAGE, datasets.Image(decode=False))
    return HubStream(path, split, dataset, reader.num_samples, classes)


def _part(whole: range, index: int, parts: int) -> range:
    """The index-th of equal parts; they differ by one at most."""
    return whole[len(whole) * index // parts : len(whole) * (index + 1) // parts]


def _exactly(size: int, rows: Callable[[], Iterator]) -> Iterator:
    """`size` rows: shares of whole shards may be longer, or shorter, which begin again."""
    while size:
        before = size
        for row in islice(rows(), size):
            yield row
            size -= 1
        if size == before:
            raise SettingsError("a process or loader worker has no image to read: there are fewer than workers")


def _label(value: Any, classes: int, name: str) -> int:
    try:
        label = int(value)
    except (TypeError, ValueError):
        label = -1
    if not 0 <= label < classes:
        raise SettingsError(f"the label of {name} is {value!r}: not a class from 0 to {classes - 1}")
    return label
