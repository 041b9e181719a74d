"""webdataset's shards, streamed.

timm's reader finds the data: shards, splits, lengths, classes. Its iteration is not used: in evaluation with several
processes it gives each the same number of images, which misses some and repeats others, and it drops images that can't
be decoded silently. So this module decides which images a process and a loader worker read.
"""

from __future__ import annotations

import io
import logging
import os
import random
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.config.settings import Data
from experiments.data.images import BrokenImageError, Jpeg, decode, fingerprint
from experiments.data.readers import streaming
from experiments.errors import SettingsError
from experiments.runtime.randomness import Purpose, derive, permutation

IMAGE_KEYS = ("jpg", "jpeg", "png", "webp")


@dataclass(frozen=True)
class Shards:
    """webdataset's tar files, each image beside a `.cls` file with its label.

    A share is a range of the epoch's images, shard after shard: shares are equal whatever the number of shards, and a
    worker only opens the shards of its range.
    """

    shards: Sequence[str]
    lengths: Sequence[int]
    classes: int
    lazy: bool = False

    @property
    def length(self) -> int:
        return sum(self.lengths)

    @property
    def fingerprint(self) -> str:
        shards = [os.fsencode(os.path.basename(shard)) for shard in self.shards]
        return fingerprint("wds", shards, np.array(self.lengths))

    def images(
        self, epoch: int, *, shuffle: bool, rank: int, world: int, worker: int, workers: int
    ) -> Iterator[tuple[Image.Image | Jpeg, int]]:
        import webdataset

        order = permutation(len(self.shards), Purpose.ORDER, epoch).tolist() if shuffle else range(len(self.shards))
        whole = range(self.length - self.length % world if shuffle else self.length)
        share = _part(_part(whole, rank, world), worker, workers)
        samples = self._samples(order, share)
        if shuffle:
            seed = derive(Purpose.ORDER, epoch, rank, worker)
            samples = webdataset.shuffle(streaming.BUFFER, rng=random.Random(seed))(samples)
        return map(self._decoded, samples)  # not a generator, whose next() can't be called again after an error

    def _samples(self, order: Sequence[int], share: range) -> Iterator[dict[str, Any]]:
        ends = accumulate(self.lengths[shard] for shard in order)
        for shard, end in zip(order, ends, strict=True):
            start = end - self.lengths[shard]
            first, last = max(share.start, start) - start, min(share.stop, end) - start
            if first < last:
                yield from self._range(shard, first, last)

    def _range(self, shard: int, first: int, last: int) -> Iterator[dict[str, Any]]:
        from webdataset import DataPipeline, SimpleShardList, reraise_exception, tarfile_to_samples

        url, length, count = self.shards[shard], self.lengths[shard], 0
        pipeline = DataPipeline(SimpleShardList([url]), tarfile_to_samples(handler=reraise_exception))
        try:
            for sample in islice(pipeline, None if last == length else last):
                count += 1
                if first < count <= last:
                    yield sample
        except (OSError, ValueError, tarfile.TarError) as error:
            raise SettingsError(f"cannot read the shard {url}: {' '.join(str(error).split())}") from error
        if count != last:
            raise SettingsError(f"the shard {url} has {count} images, not {length} as stated")

    def _decoded(self, sample: dict[str, Any]) -> tuple[Image.Image | Jpeg, int]:
        name = f"{sample['__key__']} in {sample['__url__']}"
        data = next((sample[key] for key in IMAGE_KEYS if key in sample), None)
        if data is None or "cls" not in sample:
            raise BrokenImageError(name, f"it needs a file .cls and one of .{', .'.join(IMAGE_KEYS)}")
        return decode(io.BytesIO(data), name, self.lazy), streaming.label_of(sample["cls"], self.classes, name)


def load(data: Data) -> tuple[Shards, Shards]:
    path = data.path or ""
    return shards_of(path, data.train, data.num_classes), shards_of(path, data.val, data.num_classes)


def shards_of(path: str, split: str, num_classes: int | None) -> Shards:
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
    # if shards are named and there is an _info.json, timm returns all shards of the split
    files = expand_urls(pattern) if ".tar" in pattern or ".." in pattern else list(reader.split_info.filenames)
    known = dict(zip(reader.split_info.filenames, reader.split_info.shard_lengths, strict=False))
    shards = [os.path.join(root, file) for file in files]
    if local and (missing := [shard for shard in shards if not Path(shard).is_file()]):
        raise SettingsError(f"there is no shard {missing[0]} ({len(missing)} of {len(shards)} are missing)")
    if not local and not known.keys() >= {*files}:
        raise SettingsError(f"{path} needs an _info.json with the lengths of its shards: only local ones are counted")
    lengths = [known[file] if file in known else _count(shard) for file, shard in zip(files, shards, strict=True)]
    if stated and int(stated) != sum(lengths):
        raise SettingsError(f"the split {split!r} of data.path={path} has {sum(lengths)} images, not {stated}")
    classes = reader.info.get("num_classes") or num_classes
    if classes is None:
        raise SettingsError(f"{path} does not say how many classes it has: set data.num_classes")
    return Shards(shards, lengths, classes)


def _count(shard: str) -> int:
    """The number of images in a shard, from its headers: files that differ in extension alone are one sample, as in
    webdataset."""
    from webdataset.tariterators import base_plus_ext

    try:
        with tarfile.open(shard) as file:
            keys = [base_plus_ext(member.name)[0] for member in file if member.isreg()]
    except (OSError, tarfile.TarError) as error:
        raise SettingsError(f"cannot read the shard {shard}: {' '.join(str(error).split())}") from error
    return sum(1 for _ in groupby(key for key in keys if key and not key.startswith("__")))


def _part(whole: range, index: int, parts: int) -> range:
    """The part `index` of nearly equal parts, whose lengths differ by at most one."""
    return whole[len(whole) * index // parts : len(whole) * (index + 1) // parts]
