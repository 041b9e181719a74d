"""How fast a study's networks train: as stated, as records say, or as measured here within a few seconds."""

from __future__ import annotations

import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.config.run import Run
from experiments.data.batch import Batch
from experiments.data.cache import Cache
from experiments.data.datasets import Collection
from experiments.data.images import ArrayImages
from experiments.data.in_memory import InMemory, training_crops
from experiments.data.prefetch import prefetch
from experiments.data.transforms import Preprocess, TrainingTransform, evaluation_transform
from experiments.data.workers import BatchLoader
from experiments.errors import SettingsError
from experiments.plan.launch import Launch
from experiments.plan.network import Network, Pace, pace_settings
from experiments.records.schema import BrokenRecordError, config_of, count, summary_of
from experiments.runtime.devices import autocast, device_name, keep_memory, set_precision
from experiments.runtime.machine import cores
from experiments.runtime.processes import Processes
from experiments.training.models import enable_gradient_checkpointing, make_network
from experiments.training.recipe import make_average, make_optimizer
from experiments.training.tasks.classification import Objective, evaluate
from roadmap.designs import did_you_mean

FORWARD = 1 / 3
"""The forward pass's part of a training step: the backward pass has two matrix products for each of its."""
BUDGET = 9.0
"""Seconds from the start of a command to its answer, if there is enough time for what can't be left out."""
LEAST = 1.5
"""Seconds for all measurements together, whatever else took long."""
REPEATS = 8
"""At most, of what is timed."""
MACS = {"cpu": 4e9, "mps": 4e10, "cuda": 1e12}
"""Multiply-adds of a forward pass that is timed: enough to keep the device busy for a moment."""


@dataclass(frozen=True)
class Hardware:
    """What the study is to be trained on."""

    device: torch.device | None
    """None if it is elsewhere."""
    unit: str
    """What hours are of: GPU or core."""
    runs_at_once: int
    runs_per_gpu: int
    threads: int
    """Of each process."""
    devices: int
    """GPUs, or cores, of one run."""
    cores: int
    """For each process, with its loader workers."""


def hardware_for(run: Run, runs: int, device: torch.device | None, launch: Launch) -> Hardware:
    """Of a study of `runs` runs. Where the launch doesn't say how many train at a time: as many as there are cores, or
    as fit on the GPUs here; and where it doesn't say how many cores a process has: its share of those here."""
    on_cpu, processes = (device.type if device else run.device) == "cpu", run.split.processes
    gpus = max(1, torch.cuda.device_count() // processes) if device else 1
    runs_at_once = min(runs, launch.runs_at_once or (cores() if on_cpu else gpus * launch.runs_per_gpu))
    runs_here = runs_at_once if on_cpu else min(runs_at_once, gpus * launch.runs_per_gpu)
    share = launch.cores_per_process or max(1, cores() // (runs_here * processes))
    is_alone = runs_at_once == 1 and launch.cores_per_process is None
    threads = run.threads or (torch.get_num_threads() if is_alone else share)
    if on_cpu:
        return Hardware(device, "core", runs_at_once, 1, threads, processes * threads, share)
    return Hardware(device, "GPU", runs_at_once, min(launch.runs_per_gpu, runs_at_once), threads, processes, share)


def stated(networks: Sequence[Network], images_per_second: Mapping[str | None, float]) -> dict[str, Pace]:
    """{series: pace} of {network: training throughput of one device}, where None is the first network.

    Raises:
        SettingsError: if a network is not among those of the study.
    """
    paces = {}
    for name, rate in images_per_second.items():
        network = next((it for it in networks if name in (None, it.run.label, it.run.title)), None)
        if network is None:
            hint = did_you_mean(name, [network.run.label for network in networks])
            raise SettingsError(f"--images-per-second is of no network {name!r}{hint}")
        paces[network.run.series] = Pace(network.macs, 1 / rate, FORWARD / rate, 0, "stated")
    return paces


def paces_of_records(networks: Sequence[Network], device: torch.device, hardware: Hardware) -> dict[str, Pace]:
    """{series: pace} as records of the same network on this device say, of whatever budget. They include the input."""
    records = {runs: read_records(runs) for runs in {network.run.runs for network in networks}}
    paces = {}
    for network in networks:
        same = records[network.run.runs].get(_key(network.run.to_json()), [])
        arguments = same, network.run, network.macs, device, hardware.threads
        if pace := recorded(*arguments, hardware.runs_per_gpu) or recorded(*arguments):
            paces[network.run.series] = pace
    return paces


def measured_paces(
    networks: Sequence[Network], device: torch.device, hardware: Hardware, seconds: float
) -> dict[str, Pace]:
    """{series: pace} of networks of which a few are measured, within about `seconds`. They do not include the input.
    A run on more cores than there are here takes as many core-hours as on those."""
    by_kind = {network.kind: network for network in reversed(networks)}
    threads, threads_before = min(hardware.threads, cores()), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        paces = measured([*by_kind.values()], device, seconds)
    finally:
        torch.set_num_threads(threads_before)
    if hardware.unit == "core":
        paces = {series: pace.scaled(threads / hardware.threads) for series, pace in paces.items()}
    of_kind = {kind: paces.get(network.run.series) for kind, network in by_kind.items()}
    return {network.run.series: pace for network in networks if (pace := of_kind[network.kind])}


def between(known: Sequence[Pace], macs: int) -> Pace:
    """Linear in multiply-adds between the nearest known paces, and in proportion to them beyond."""
    known = sorted(known, key=lambda pace: pace.macs)
    scale = macs / np.clip(macs, known[0].macs, known[-1].macs)
    times = [(pace.training, pace.evaluation, pace.preparation) for pace in known]
    training, evaluation, preparation = (
        float(np.interp(macs, [pace.macs for pace in known], column)) for column in zip(*times, strict=True)
    )
    return Pace(macs, float(scale * training), float(scale * evaluation), preparation, "between")


# Records.

Records = list[tuple[Mapping[str, Any], Mapping[str, Any]]]
"""config.json and summary.json of each run."""
NEEDED: tuple[str, ...] = ("device", "processes", "threads", "images_per_second", "train_images")
NEEDED += ("evaluation_images", "seconds_per_epoch")
"""What of a summary a pace is computed from."""


def read_records(runs: Path) -> dict[str, Records]:
    """Of the runs that have finished an epoch, by what their pace depends on."""
    records: dict[str, Records] = defaultdict(list)
    for path in runs.glob("*/config.json"):
        with suppress(BrokenRecordError):
            config, summary = config_of(path.parent), summary_of(path.parent)
            if all(summary.get(name) for name in NEEDED) and count(config["recipe"].get("batch_size")):
                records[_key(config)].append((config, summary))
    return records


def _key(config: Mapping[str, Any]) -> str:
    return json.dumps(pace_settings(config), sort_keys=True)


def recorded(
    records: Records, run: Run, macs: int, device: torch.device, threads: int, runs_per_gpu: int = 1
) -> Pace | None:
    """The median of those of a network's records that are of this device, with as many threads, processes and runs per
    GPU."""
    same_hardware = {"device": device_name(device), "processes": run.split.processes}
    same_hardware |= {} if device.type == "cuda" else {"threads": threads}
    times = [
        _times(config["recipe"], summary)
        for config, summary in records
        if all(summary[name] == value for name, value in same_hardware.items())
        and (summary.get("runs_per_gpu") or 1) == runs_per_gpu
        and not summary.get("retried_alone")
    ]
    if not times:
        return None
    training, evaluation = (statistics.median(column) / runs_per_gpu for column in zip(*times, strict=True))
    return Pace(macs, training, evaluation, 0, "recorded" if runs_per_gpu == 1 else "shared")


def _times(recipe: Mapping[str, Any], summary: Mapping[str, Any]) -> tuple[float, float]:
    """(training, evaluation), the latter with the preparation: what an epoch took beyond its training steps."""
    training = 1 / summary["images_per_second"]
    trained = summary["train_images"] // recipe["batch_size"] * recipe["batch_size"]
    evaluated = summary["evaluation_images"] * (2 if recipe.get("ema_decay") else 1)
    evaluation = max(summary["seconds_per_epoch"] - trained * training, 0) / evaluated
    return training * summary["processes"], evaluation * summary["processes"]


# Measurements.


def measured(networks: Sequence[Network], device: torch.device, seconds: float) -> dict[str, Pace]:
    """{series: pace} of as many networks as `seconds` allow, at least one: the one with the fewest multiply-adds, the
    one with the most, then always the one that is farthest from those."""
    end, share = time.perf_counter() + seconds, seconds / max(len(networks), 1)
    waiting, seconds_per_mac = [*networks], 0.0
    paces: dict[str, Pace] = {}
    while waiting:
        known = [pace.macs for pace in paces.values()]
        network = max(waiting, key=lambda it: min((abs(it.macs - macs) for macs in known), default=-it.macs))
        waiting.remove(network)
        start = time.perf_counter()
        if paces and seconds_per_mac * network.macs > end - start:
            continue
        paces[network.run.series] = measure(network, device, min(share, end - start))
        seconds_per_mac = (time.perf_counter() - start) / network.macs
    return paces


def measure(network: Network, device: torch.device, seconds: float) -> Pace:
    """Time training steps, updates and an evaluation on noise, for about `seconds`: what the device takes, without what
    it takes to read and transform images (input.py), except where these are cropped together."""
    keep_memory()
    run, classes, images = network.run, network.classes, _images_at_once(network, device)
    set_precision(run.precision, device)
    precision, processes = partial(autocast, run.precision, device), Processes(device)
    model = make_network(run, classes)
    if run.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    model.to(device).to(memory_format=torch.channels_last).train()
    optimizer, average = make_optimizer(run.recipe, model), make_average(run.recipe, model)
    objective, preprocess = Objective(run.recipe, classes), Preprocess(device)
    batches = prefetch(_batches(run, images, classes, processes), preprocess)

    def train() -> None:
        optimizer.zero_grad()
        inputs, labels, _ = next(batches)
        with precision():
            loss = objective(model, inputs, labels)
        loss.backward()
        loss.item()  # which waits for the device

    def update() -> None:
        optimizer.step()
        if average:
            average.update(model)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    train()  # the first time, torch chooses kernels
    update()
    clock = clock_for(device)
    trained, updated = _median(train, 0.5 * seconds, clock), _median(update, 0.1 * seconds, clock)
    transform = evaluation_transform(run.resolution, run.recipe.interpolation, run.recipe.crop_pct)
    batch = Collection(noise(images, classes), np.arange(images), transform)[[(0, index) for index in range(images)]]
    evaluated = _median(lambda: evaluate([model], [batch], preprocess, processes, precision), 0.2 * seconds, clock)
    training = trained / images + updated / (run.split.micro_batch_size * run.split.accumulation)
    return Pace(network.macs, training, evaluated / images, 0, "measured")


def _images_at_once(network: Network, device: torch.device) -> int:
    """An even number, which fits into the device's memory and is not above the run's own."""
    images = MACS[device.type] / network.macs
    if device.type == "cuda" and network.footprint.per_image:
        free, _ = torch.cuda.mem_get_info(device)
        images = min(images, (0.7 * free - network.footprint.fixed) / network.footprint.per_image)
    return min(network.run.split.micro_batch_size, max(2, int(images) // 2 * 2))


def _batches(run: Run, count: int, classes: int, processes: Processes) -> Iterator[Batch]:
    """Batches without end; always the same unless the run's process crops the images together."""
    images, indices = noise(count, classes), np.arange(count)
    collection: InMemory | Collection
    if run.crops_together:
        cache = Cache.of_array(images, indices)
        collection = InMemory(cache, training_crops(cache.pixels, run.recipe, run.resolution, run.seed))
    else:
        collection = Collection(images, indices, TrainingTransform(run.recipe, run.resolution), run.seed)
    batches = BatchLoader(collection, processes, 0).load(0, cycle([torch.arange(count)]))
    return batches if run.crops_together else cycle([next(batches)])


def noise(count: int, classes: int) -> ArrayImages:
    rng = np.random.default_rng(0)
    return ArrayImages(rng.integers(0, 256, (count, 32, 32, 3), np.uint8), rng.integers(0, classes, count))


def clock_for(device: torch.device) -> Callable[[], float]:
    """Seconds. On a single core those in which other programs don't have it; but the CPU time of several threads says
    little about a run's: they sleep, or spin, while they wait for each other."""
    return time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


def _median(call: Callable[[], object], seconds: float, clock: Callable[[], float]) -> float:
    """The median duration of a call by a clock, repeated for about `seconds`."""
    end = time.perf_counter() + seconds
    times: list[float] = []
    while not times or (len(times) < REPEATS and time.perf_counter() + times[-1] < end):
        start = clock()
        call()
        times.append(clock() - start)
    return statistics.median(times)
