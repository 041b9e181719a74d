"""How long a network takes for an image: as stated, as a record says, or as measured here within a few seconds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from experiments.config.run import Run
from experiments.config.settings import IN_MEMORY
from experiments.data.batch import Batch
from experiments.data.cache import Cache
from experiments.data.datasets import Collection
from experiments.data.images import ArrayImages
from experiments.data.in_memory import InMemory, training_crops
from experiments.data.prefetch import prefetch
from experiments.data.transforms import Preprocess, TrainingTransform, evaluation_transform
from experiments.data.workers import BatchLoader, loader_workers
from experiments.records.schema import BrokenRecordError, config_of, count, summary_of
from experiments.runtime.devices import autocast, device_name, keep_memory, set_precision
from experiments.runtime.processes import Processes
from experiments.training.models import enable_gradient_checkpointing, make_network
from experiments.training.recipe import make_average, make_optimizer
from experiments.training.tasks.classification import Objective, evaluate

FORWARD = 1 / 3
"""Of a training step's time, the part of its forward pass: the backward pass has two products for each of its. Used
where a training throughput is all that is known."""
TIMES = 8
"""How often, at most, what is timed is repeated."""


@dataclass(frozen=True)
class Pace:
    """Of one process with a device of its own, for a network of so many multiply-adds. Of runs that share a GPU, each
    one's part of its time."""

    macs: int
    training: float
    """Seconds an image: transformed by the process itself or not at all, both passes, its part of a step's update."""
    evaluation: float
    """Seconds an image that is prepared."""
    preparation: float
    """Seconds to transform an image for evaluation; 0 where loader workers do, beside the network."""
    source: str
    """stated, recorded, measured; shared: recorded of runs that shared a GPU as they are to; or between: from networks
    with fewer and with more multiply-adds."""


def stated(macs: int, images_per_second: float) -> Pace:
    return Pace(macs, 1 / images_per_second, FORWARD / images_per_second, 0, "stated")


def between(known: Sequence[Pace], macs: int) -> Pace:
    """Linear in multiply-adds between the nearest that are known, in proportion to them beyond."""
    below = max((one for one in known if one.macs <= macs), key=lambda one: one.macs, default=None)
    above = min((one for one in known if one.macs >= macs), key=lambda one: one.macs, default=None)
    if below and above:
        part = (macs - below.macs) / ((above.macs - below.macs) or 1)
        times = [(1 - part) * one + part * other for one, other in zip(_times(below), _times(above), strict=True)]
        return Pace(macs, *times, "between")
    nearest = below or above
    training, evaluation, preparation = _times(nearest)
    factor = macs / nearest.macs
    return Pace(macs, factor * training, factor * evaluation, preparation, "between")


def _times(pace: Pace) -> tuple[float, float, float]:
    return pace.training, pace.evaluation, pace.preparation


# What records say.

NEEDED = ("device", "processes", "threads", "images_per_second", "train_images", "evaluation_images")
NEEDED += ("seconds_per_epoch",)
"""Of a summary: what a pace is made of."""
Records = list[tuple[Mapping[str, Any], Mapping[str, Any]]]
"""config.json and summary.json of each."""


def read_records(runs: Path) -> Records:
    """Of the runs that have finished an epoch."""
    found = []
    for path in runs.glob("*/config.json"):
        with suppress(BrokenRecordError):
            config, summary = config_of(path.parent), summary_of(path.parent)
            if all(summary.get(fact) for fact in NEEDED) and count(config["recipe"].get("batch_size")):
                found.append((config, summary))
    return found


def recorded(
    records: Records, run: Run, macs: int, device: torch.device, threads: int, runs_per_gpu: int = 1
) -> Pace | None:
    """The median of the records of this network on this device, with as many threads and processes, and runs on a GPU
    at a time, if there are."""
    keys = ("model", "design", "resolution", "precision", "micro_batch_size")
    asked, paces = run.to_json(), []
    for config, summary in records:
        here = summary["device"] == device_name(device) and summary["processes"] == run.split.processes
        here = here and (device.type == "cuda" or summary["threads"] == threads)
        here = here and (summary.get("runs_per_gpu") or 1) == runs_per_gpu and not summary.get("retried_alone")
        if here and config["data"]["name"] == run.data.name and all(config.get(key) == asked[key] for key in keys):
            paces.append(_recorded(config["recipe"], summary))
    if not paces:
        return None
    training, evaluation = (statistics.median(times) / runs_per_gpu for times in zip(*paces, strict=True))
    return Pace(macs, training, evaluation, 0, "recorded" if runs_per_gpu == 1 else "shared")


def _recorded(recipe: Mapping[str, Any], summary: Mapping[str, Any]) -> tuple[float, float]:
    """(training, evaluation) of a record, whose evaluation has its preparation in it."""
    training = 1 / summary["images_per_second"]
    trained = summary["train_images"] // recipe["batch_size"] * recipe["batch_size"]
    evaluated = summary["evaluation_images"] * (2 if recipe.get("ema_decay") else 1)
    evaluation = max(summary["seconds_per_epoch"] - trained * training, 0) / evaluated
    return training * summary["processes"], evaluation * summary["processes"]


# What is measured here.


class Sample(NamedTuple):
    """What is to be measured."""

    run: Run
    macs: int
    classes: int
    at_once: int
    """Images a pass: fewer than a run takes at once are enough, and fit."""


def measured(samples: Sequence[Sample], device: torch.device, seconds: float) -> dict[str, Pace]:
    """{series: pace} of as many as `seconds` allow, and of one in any case: the cheapest, the dearest, then always
    what is farthest from those."""
    ends, waiting, known = time.perf_counter() + seconds, [*samples], {}
    share, spent = seconds / max(len(samples), 1), 0.0
    while waiting:
        done = [pace.macs for pace in known.values()]
        one = max(waiting, key=lambda it: min((abs(it.macs - macs) for macs in done), default=-it.macs))
        waiting.remove(one)
        left = ends - time.perf_counter()
        if known and spent * one.macs > left:
            continue
        began = time.perf_counter()
        known[one.run.series] = measure(one, device, min(share, left))
        spent = (time.perf_counter() - began) / one.macs
    return known


def measure(sample: Sample, device: torch.device, seconds: float) -> Pace:
    """Time real passes, updates and evaluations of the run's network on noise, for about so many seconds."""
    keep_memory()
    run, macs, classes, at_once = sample
    set_precision(run.precision, device)
    precision, processes = partial(autocast, run.precision, device), Processes(device)
    network = make_network(run, classes)
    if run.gradient_checkpointing:
        enable_gradient_checkpointing(network)
    network.to(device, memory_format=torch.channels_last).train()
    optimizer, average = make_optimizer(run.recipe, network), make_average(run.recipe, network)
    objective, preprocess = Objective(run.recipe, classes), Preprocess(device)
    loads = run.crops_together or loader_workers(run.workers, in_memory=run.data.reader in IN_MEMORY) == 0
    batches = prefetch(_batches(run, at_once, classes, processes, loads), preprocess)

    def train() -> None:
        optimizer.zero_grad()
        images, labels, _ = next(batches)
        with precision():
            loss = objective(network, images, labels)
        loss.backward()
        loss.item()  # which waits for the device

    def update() -> None:
        optimizer.step()
        if average:
            average.update(network)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    train(), update()  # the first time, torch chooses and prepares
    trained, updated = _median(train, 0.5 * seconds), _median(update, 0.1 * seconds)
    noise = _noise(at_once, classes)
    began = time.perf_counter()
    prepare = evaluation_transform(run.resolution, run.recipe.interpolation, run.recipe.crop_pct)
    batch = Collection(noise, np.arange(at_once), prepare)[[(0, one) for one in range(at_once)]]
    prepared = time.perf_counter() - began
    evaluated = _median(lambda: evaluate([network], [batch], preprocess, processes, precision), 0.2 * seconds)
    training = trained / at_once + updated / (run.split.micro_batch_size * run.split.accumulation)
    return Pace(macs, training, evaluated / at_once, prepared / at_once if loads else 0, "measured")


def _batches(run: Run, at_once: int, classes: int, processes: Processes, loads: bool) -> Iterator[Batch]:
    """Batches without end: transformed one by one if the run's process `loads` them itself, else always the same."""
    images, indices = _noise(at_once, classes), np.arange(at_once)
    if run.crops_together:
        cache = Cache.of_array(images, indices)
        images = InMemory(cache, training_crops(cache.pixels, run.recipe, run.resolution, run.seed))
    else:
        images = Collection(images, indices, TrainingTransform(run.recipe, run.resolution), run.seed)
    batches = BatchLoader(images, processes, 0).load(0, cycle([torch.arange(at_once)]))
    return batches if loads else cycle([next(batches)])


def _noise(count: int, classes: int) -> ArrayImages:
    rng = np.random.default_rng(0)
    return ArrayImages(rng.integers(0, 256, (count, 32, 32, 3), np.uint8), rng.integers(0, classes, count))


def _median(call: Callable[[], object], seconds: float) -> float:
    """Seconds of a call, repeated for about so many."""
    ends, times = time.perf_counter() + seconds, []
    while not times or (len(times) < TIMES and time.perf_counter() + times[-1] < ends):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)
