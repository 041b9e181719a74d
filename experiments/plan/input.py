"""What it takes to read, decode and transform a study's images, measured on a few of them."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.config.dataset_folders import class_folders
from experiments.config.run import Run
from experiments.config.settings import IN_MEMORY, UNSTATED, Data
from experiments.data.batch import Batch
from experiments.data.cache import read_into_memory
from experiments.data.datasets import Collection, Streamed
from experiments.data.images import Images, Stream, is_stream, undecoded
from experiments.data.readers import load_images
from experiments.data.readers.folder import FolderImages, images_of
from experiments.data.transforms import Erasing, TrainingTransform, Transform, evaluation_transform
from experiments.errors import DataError, SettingsError
from experiments.plan.network import Network, Pace, pace_settings
from experiments.plan.throughput import Hardware, noise
from experiments.plan.time_limit import TimeIsUp, time_limit
from experiments.runtime.processes import Processes

CLASSES = 16
"""Class folders, at most, that images are taken from."""
CACHED = 64
"""Images, of those that a run keeps in memory."""
TOGETHER = 8
"""Images in a batch that is timed."""
TRANSFORMS = ("interpolation", "crop_pct", "rand_augment", "random_erasing", "erasing_mode", "erasing_count")
"""Settings of the recipe that say what is done to images."""
MOST = 1.5
"""Seconds, at most, for the images of one recipe."""


@dataclass(frozen=True)
class Input:
    """Seconds of a core per image, to read, decode and transform it."""

    training: float
    evaluation: float


def measure_inputs(networks: Sequence[Network], seconds: float) -> dict[str, Input]:
    """{series: input} of the networks whose images are here, within about `seconds`."""
    by_key: dict[str, list[Run]] = {}
    for network in networks:
        by_key.setdefault(_key(network.run), []).append(network.run)
    inputs: dict[str, Input] = {}
    threads_before = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a loader worker
    try:
        for runs in by_key.values():
            longest = max(runs, key=lambda run: run.recipe.epochs)  # whose images are transformed most
            if input := _measure(longest, min(MOST, seconds / len(by_key))):
                inputs |= {run.series: input for run in runs}
    finally:
        torch.set_num_threads(threads_before)
    return inputs


def with_input(pace: Pace, input: Input, run: Run, hardware: Hardware) -> Pace:
    """A pace of a device, with the input: loader workers prepare it meanwhile, on the cores of the run's process; and
    on a CPU the network is trained on the same cores. Without loader workers, the process does one after the other."""
    workers = loader_workers(run, hardware)

    def together(device: float, input: float) -> float:
        if not workers:
            return device + input
        both = (device * hardware.threads + input) / hardware.cores if hardware.unit == "core" else 0.0
        return max(device, input / min(workers, hardware.cores), both)

    evaluated = pace.evaluation * (2 if run.recipe.ema_decay else 1)  # of an image that is read once
    preparation = together(evaluated, input.evaluation) - evaluated
    return replace(pace, training=together(pace.training, input.training), preparation=preparation)


def loader_workers(run: Run, hardware: Hardware) -> int:
    """Of each process of the run, as the launchers choose them."""
    if run.workers is not None:
        return run.workers
    return 0 if run.data.reader in IN_MEMORY else hardware.cores


def _key(run: Run) -> str:
    """What the input depends on."""
    recipe = pace_settings(run.to_json())["recipe"]
    transforms = [recipe[name] for name in TRANSFORMS]
    return repr((replace(run.data, subset=1.0), run.resolution, transforms, run.crops_together))


def _measure(run: Run, seconds: float) -> Input | None:
    """None if the images are not here, can't be read, or can't be listed within `seconds`; the launch says why."""
    try:
        with time_limit(seconds):
            parts = _images(run.data)
        if parts is None:
            return None
        training = 0.0 if run.crops_together else _time(_training_batches(run, parts[0]), 0.7 * seconds)
        transform = evaluation_transform(run.resolution, run.recipe.interpolation, run.recipe.crop_pct)
        evaluation = _time(_batches(parts[1], transform), 0.3 * seconds)
    except (SettingsError, DataError, OSError, TimeIsUp):
        return None
    return None if training is None or evaluation is None else Input(training, evaluation)


def _images(data: Data) -> tuple[Images | Stream, Images | Stream] | None:
    """Images to train on and to evaluate on: noise in place of those that are in memory, and of class folders some.
    None if they are not on this machine."""
    if data.reader in IN_MEMORY:
        return noise(TOGETHER, 2), noise(TOGETHER, 2)
    root = Path(data.path or UNSTATED).expanduser()
    if not root.exists():
        return None
    data = replace(data, val=data.train) if data.holdout else data
    if data.reader not in ("folder", "imagenette"):
        return load_images(data)
    if data.reader == "imagenette" and not (root / data.train).is_dir():  # as torchvision unpacks it
        root /= data.name.replace("imagenette", "imagenette2").replace("_", "-")
    return _few(root / data.train), _few(root / data.val)


def _few(root: Path) -> FolderImages:
    names = class_folders(os.fsencode(root))
    chosen = np.random.default_rng(0).permutation(len(names))[:CLASSES]
    return images_of(root, [names[index] for index in sorted(chosen)])


def _training_batches(run: Run, images: Images | Stream) -> Iterator[Batch]:
    transform = TrainingTransform(run.recipe, run.resolution)
    erasing = Erasing(run.recipe, run.resolution, run.seed) if run.recipe.random_erasing else None
    images = undecoded(images) if run.data.reduced_decoding else images
    if run.data.cache and not is_stream(images):
        chosen = np.sort(_random(len(images.labels))[:CACHED])
        images, indices = _cached(images, chosen, run.resolution), chosen
        return _batches(images, transform, run.seed, erasing, indices)
    return _batches(images, transform, run.seed, erasing)


def _cached(images: Images, chosen: np.ndarray, resolution: int) -> Any:
    return read_into_memory(images, chosen, resolution, Processes(torch.device("cpu")), 0, set())


def _batches(
    images: Images | Stream,
    transform: Transform,
    seed: int | None = None,
    erasing: Erasing | None = None,
    indices: np.ndarray | None = None,
) -> Iterator[Batch]:
    """Batches as loader workers prepare them, of images in a random order; of a stream, from its beginning."""
    if is_stream(images):
        yield from Streamed(InOrder(images), transform, seed, TOGETHER, Processes(torch.device("cpu")))
        return
    indices = np.arange(len(images.labels)) if indices is None else indices
    collection = Collection(images, indices, transform, seed, erasing)
    positions = itertools.cycle(_random(len(indices)).tolist())
    for epoch in itertools.count():
        yield collection[[(epoch, position) for position in itertools.islice(positions, TOGETHER)]]


class InOrder:
    """A stream that is not shuffled: that would read thousands of images before the first."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.length, self.classes, self.fingerprint = stream.length, stream.classes, stream.fingerprint

    def images(self, epoch: int, *, shuffle: bool, **share: int) -> Iterator:
        return self.stream.images(epoch, shuffle=False, **share)


def _random(count: int) -> np.ndarray:
    return np.random.default_rng(0).permutation(count)


def _time(batches: Iterator[Batch], seconds: float, clock: Callable[[], float] = time.thread_time) -> float | None:
    """Seconds of this thread per image; None if none can be read."""
    next(batches, None)  # the first time, modules are imported
    start, end, images = clock(), time.perf_counter() + seconds, 0
    for batch in batches:
        images += len(batch.images)
        if time.perf_counter() >= end:
            break
    return (clock() - start) / images if images else None
