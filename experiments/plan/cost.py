"""What a study costs: time, memory and disk space of its runs, before any of them is trained."""

from __future__ import annotations

import heapq
import math
import shutil
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from experiments.config.run import Run
from experiments.config.settings import IN_MEMORY, Data
from experiments.data.images import is_stream
from experiments.data.partition import partition
from experiments.data.readers import load_images
from experiments.errors import SettingsError
from experiments.launch.preflight import Amounts, amounts, check_device, stated
from experiments.plan import throughput
from experiments.plan.input import Input, loader_workers, measure_inputs, with_input
from experiments.plan.launch import SINGLE_RUN, Launch
from experiments.plan.network import CLASSES, Network, Pace, check, footprints, kind_of
from experiments.plan.parallel import on_all_cores
from experiments.plan.throughput import Hardware, between, hardware_for
from experiments.plan.time_limit import TimeIsUp, time_limit
from experiments.runtime.devices import device_name, pick_device
from experiments.runtime.machine import is_busy
from roadmap.common.words import counted, shortened

GB = 2**30
"""Bytes, of memory and of disk."""
CUDA_CONTEXT = GB // 2
"""Of a GPU's memory, what CUDA takes for each process, about."""
INPUT = 0.3
"""The part of the time for measurements that the images may take."""
LISTED = ("tar", "wds", "tiny_imagenet")
"""The readers whose files tell how many images they hold, where nothing else does; that takes a while."""


Findings = dict[str, list[str]]
"""{what is wrong: titles of the networks that it concerns}."""


@dataclass(frozen=True)
class Cost:
    """Of networks, with their paces where these are known. What is not known is None."""

    networks: Sequence[Network]
    hardware: Hardware
    problems: Findings
    """What will certainly fail."""
    warnings: Findings
    is_limit: bool = False
    """Whether as many runs at a time as `hardware` says are only the most that the launcher allows."""

    def hours(self, seconds: float | None) -> float | None:
        """Hours of a GPU, or of a core, from seconds of a run."""
        return None if seconds is None else seconds * self.hardware.devices / 3600

    @property
    def hours_in_all(self) -> float | None:
        """As if none were done."""
        return self.hours(_sum(network.seconds and network.seconds * len(network.runs) for network in self.networks))

    @property
    def hours_left(self) -> float | None:
        return self.hours(_sum(network.seconds_left for network in self.networks))

    @property
    def wall_seconds(self) -> tuple[float, float] | None:
        """Until the last missing run is done, (at least, at most). They differ only where runs share a GPU, and no
        record says how much they slow each other down."""
        runs_at_once, per_gpu = self.hardware.runs_at_once, self.hardware.runs_per_gpu
        if self.hours_left is None:
            return None
        at_least, in_turn = [0.0] * runs_at_once, [0.0] * -(-runs_at_once // per_gpu)  # when each slot is free
        for network in self.networks:
            is_shared = network.pace and network.pace.source == "shared"
            for part in network.missing:  # in the order of the study, each starts when another ends
                seconds = part * (network.seconds or 0)
                heapq.heapreplace(at_least, at_least[0] + seconds * (per_gpu if is_shared else 1))
                heapq.heapreplace(in_turn, in_turn[0] + seconds)
        return max(at_least), max(*at_least, *in_turn)

    @property
    def disk_bytes(self) -> int:
        """At most: weights of all missing runs, and the largest checkpoints of those that train at a time; or with
        keep=all, all checkpoints."""
        total, checkpoints = 0, []
        for network in self.networks:
            total += len(network.missing) * network.footprint.weights
            sizes = [network.checkpoint_bytes(self.hardware.runs_per_gpu)] * len(network.missing)
            if network.run.keep == "all":
                total += sum(sizes)
            else:
                checkpoints += sizes
        return total + sum(heapq.nlargest(self.hardware.runs_at_once, checkpoints))

    @property
    def free_bytes(self) -> int:
        runs = self.networks[0].run.runs.absolute()
        return shutil.disk_usage(next(folder for folder in (runs, *runs.parents) if folder.is_dir())).free

    @property
    def note(self) -> str:
        """Where the hours come from."""
        hardware, rates = self.hardware, []
        sources: dict[str, list[Network]] = defaultdict(list)
        for network in self.networks:
            if network.pace is None:
                return "unknown: all runs are done, on another device" if hardware.device else "unknown"
            sources[network.pace.source].append(network)
            if network.pace.source == "stated":
                rates.append(f"{1 / network.pace.training:,.0f} images/s of {network.run.title}")
        device = device_name(hardware.device) if hardware.device else ""
        device += f", {counted(hardware.threads, 'thread')}" if hardware.unit == "core" else ""
        notes = []
        for source, networks in sources.items():
            names = networks[0].run.title if len(networks) == 1 else f"{len(networks)} networks"
            phrases = {
                "stated": f"stated: {', '.join(rates)}",
                "between": f"{names} by multiply-adds",
                "recorded": f"{names} as records of this device say",
                "shared": f"{names} as records of {hardware.runs_per_gpu} runs on this GPU at a time say",
                "measured": f"{names} measured here ({device})",
            }
            notes.append(phrases[source])
        if hardware.runs_per_gpu > 1 and {*sources} != {"shared"}:
            notes.append(
                f"how much {hardware.runs_per_gpu} runs on a GPU slow each other down is not known: from not at all to "
                "as if each had it in turn"
            )
        return "; ".join(notes)

    @property
    def input_note(self) -> str | None:
        """What reading and transforming the images takes; None where there is nothing to say."""
        networks = [network for network in self.networks if network.images_per_core]
        if not networks:
            paced = [it for it in self.networks if it.pace and it.run.data.reader not in IN_MEMORY]
            is_included = all(network.pace and network.pace.source in ("recorded", "shared") for network in paced)
            unread = "not counted, as no images could be read here within a few seconds: assumed to be no bottleneck"
            return None if is_included else unread
        rates = sorted({round(network.images_per_core or 0) for network in networks})
        rate = f"{' to '.join(f'{rate:,}' for rate in dict.fromkeys((rates[0], rates[-1])))} images/s per core here"
        largest = max(networks, key=lambda network: network.input_cores or 0)
        cores = largest.input_cores or 0
        if self.hardware.unit == "core":
            return f"{rate}, up to {cores / (1 + cores):.0%} of the core-hours of training"
        return f"{rate}; {largest.run.title} needs {counted(math.ceil(cores), 'such core')} per GPU"

    @property
    def gpus(self) -> int | None:
        """How many the study is trained on; None on CPUs."""
        hardware = self.hardware
        return (
            None if hardware.unit == "core" else -(-hardware.runs_at_once // hardware.runs_per_gpu) * hardware.devices
        )

    def lines(self, findings: Findings) -> list[str]:
        """One per finding, with the networks that it concerns unless these are all."""
        everyone = {network.run.title for network in self.networks}
        return [
            finding if everyone == {*titles} else f"{shortened(dict.fromkeys(titles), 3)}: {finding}"
            for finding, titles in findings.items()
        ]

    def to_json(self) -> dict[str, Any]:
        at_least, at_most = self.wall_seconds or (None, None)
        return {
            "rows": [network.to_json() for network in self.networks],
            "unit": self.hardware.unit,
            "devices": self.hardware.devices,
            "gpus": self.gpus,
            "side_by_side": self.hardware.runs_at_once,
            "runs_per_gpu": self.hardware.runs_per_gpu,
            "wall_seconds": at_most,
            "wall_seconds_at_least": at_least,
            "disk_bytes": self.disk_bytes,
            "free_bytes": self.free_bytes,
            "note": self.note,
            "input": self.input_note,
            "warnings": self.lines(self.warnings),
            "problems": self.lines(self.problems),
            "hours_in_all": self.hours_in_all,
            "hours_left": self.hours_left,
        }


def _sum(values: Iterable[float | None]) -> float | None:
    """None if a value is not known."""
    total = 0.0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def estimate(
    runs: Sequence[Run],
    refused: Sequence[tuple[str, str]],
    images_per_second: Mapping[str | None, float],
    memory: float | None = None,
    launch: Launch = SINGLE_RUN,
    started: float | None = None,
) -> Cost:
    """What different runs cost. `refused` has (title, why) of those that the launch would refuse; `images_per_second`
    is {network: training throughput of one device}, where None is the first network; `memory` is in GB of one device;
    `started` is when the command did, by time.perf_counter(), so that the answer comes in time.

    Raises:
        SettingsError: if nothing can be said of any run, or `images_per_second` names a network that is not among them.
    """
    started = time.perf_counter() if started is None else started
    problems, warnings = defaultdict(list), defaultdict(list)
    for title, reason in refused:
        problems[reason].append(title)
    networks = _count_all(runs, problems, _left(started))
    if not networks:
        raise SettingsError(next(iter(problems)))
    titles = [network.run.title for network in networks]
    for network in networks:
        if None in (network.amounts.training, network.amounts.evaluation):
            name = network.run.data.name
            uncounted = f"how many images {name} has is not known here, or takes too long to count"
            warnings[f"{uncounted}; state --images TRAIN,VAL to get hours"].append(network.run.title)
    device = None
    try:
        is_unmeasured = images_per_second or launch.gpus_elsewhere
        device = None if is_unmeasured else pick_device(networks[0].run.device)
    except SettingsError as error:
        problems[f"{error}; or state --images-per-second of the one that will train"] += titles
    hardware = hardware_for(networks[0].run, len(runs), device, launch)
    if launch.gpus_elsewhere and not images_per_second:
        warnings["the study trains on GPUs that are not here; state --images-per-second of one to get hours"] += titles
    if images_per_second:
        paces = throughput.stated(networks, images_per_second)
        inputs = measure_inputs(networks, _left(started))
        networks = _paced(networks, {}, paces, inputs, hardware)
    elif device:
        _check_devices(networks, device, problems)
        recorded = throughput.paces_of_records(networks, device, hardware)
        unknown = [network for network in networks if network.missing and network.run.series not in recorded]
        busy = device.type == "cpu" and is_busy()
        inputs = measure_inputs(unknown, INPUT * _left(started))
        paces = throughput.measured_paces(unknown, device, hardware, _left(started))
        networks = _paced(networks, recorded, paces, inputs, hardware)
        if busy and paces:
            warnings["other programs keep this machine busy: while they do, it takes longer"] += titles
    if hardware.unit == "GPU" and (device or launch.cores_per_process):
        _check_input(networks, hardware, device is not None, warnings)
    if device and device.type == "cuda":
        memory = memory or torch.cuda.get_device_properties(device).total_memory / GB
    if memory:
        _check_memory(networks, memory, problems)
        _check_sharing(networks, memory, hardware.runs_per_gpu, problems)
    cost = Cost(networks, hardware, problems, warnings, launch.is_limit)
    if cost.disk_bytes > cost.free_bytes:
        free, needed = (f"{size / GB:.1f} GB" for size in (cost.free_bytes, cost.disk_bytes))
        warnings[f"runs={networks[0].run.runs} has {free} of disk left; up to {needed} are needed"] += titles
    return cost


def _left(started: float) -> float:
    """Seconds for measurements."""
    return max(throughput.LEAST, throughput.BUDGET - (time.perf_counter() - started))


def _paced(
    networks: Sequence[Network],
    recorded: Mapping[str, Pace],
    others: Mapping[str, Pace],
    inputs: Mapping[str, Input],
    hardware: Hardware,
) -> list[Network]:
    """The networks with their paces: as recorded, or else one of `others`, which are measured or stated, or between all
    of these. The input is in records already, and so in what is between them; it is not added to what is stated."""
    is_stated = any(pace.source == "stated" for pace in others.values())

    def with_its_input(network: Network, pace: Pace) -> Network:
        input = inputs.get(network.run.series)
        if input is None:
            return replace(network, pace=pace)
        network = _with_rates(network, pace, input, hardware)
        return replace(network, pace=pace if is_stated else with_input(pace, input, network.run, hardware))

    whole = {it.run.series: with_its_input(it, others[it.run.series]) for it in networks if it.run.series in others}
    whole |= {it.run.series: replace(it, pace=recorded[it.run.series]) for it in networks if it.run.series in recorded}
    known = [network.pace for network in whole.values() if network.pace]
    paced = []
    for network in networks:
        if network.run.series in whole:
            network = whole[network.run.series]
        elif recorded:
            network = replace(network, pace=between(known, network.macs))
        elif others:
            network = with_its_input(network, between([*others.values()], network.macs))
        paced.append(network)
    return paced


def _with_rates(network: Network, pace: Pace, input: Input, hardware: Hardware) -> Network:
    """The network with how fast a core prepares its images, and how many cores are as fast as the device."""
    if not input.training or network.run.data.reader in IN_MEMORY:
        return network
    cores = input.training / pace.training / (hardware.threads if hardware.unit == "core" else 1)
    return replace(network, images_per_core=1 / input.training, input_cores=cores)


# The networks and their data.


def _count_all(runs: Sequence[Run], problems: Findings, seconds: float) -> list[Network]:
    """`seconds` is how long it may take to count the images."""
    deadline = time.perf_counter() + seconds
    by_series: dict[str, list[Run]] = {}
    for run in runs:
        by_series.setdefault(run.series, []).append(run)
    checked: list[tuple[list[Run], Amounts, str]] = []
    kinds: dict[str, tuple[Run, int]] = {}
    known: dict[str, tuple[Amounts, str | None]] = {}
    for replicates in by_series.values():
        data, title = replicates[0].data, replicates[0].title
        if repr(data) not in known:
            known[repr(data)] = _amounts(data, deadline - time.perf_counter())
        images, problem = known[repr(data)]
        if problem:
            problems[problem].append(title)
        try:
            check(replicates[0], images)
        except SettingsError as error:
            problems[str(error)].append(title)
            continue
        classes = images.classes or CLASSES
        kind = kind_of(replicates[0], classes)
        kinds.setdefault(kind, (replicates[0], classes))
        checked.append((replicates, images, kind))
    sizes = dict(zip(kinds, on_all_cores(footprints, [*kinds.values()]), strict=True))
    networks = []
    for replicates, images, kind in checked:
        size = sizes[kind]
        if isinstance(size, SettingsError):
            problems[str(size)].append(replicates[0].title)
        else:
            networks.append(Network(tuple(replicates), images, size, kind))
    return networks


def _amounts(data: Data, seconds: float) -> tuple[Amounts, str | None]:
    """How many images there are: as stated if the data are missing, and then what is wrong, or if it takes longer than
    `seconds` to count them."""
    try:
        with time_limit(seconds):
            return _counted(data), None
    except TimeIsUp:
        return stated(data), None
    except SettingsError as error:
        return stated(data), str(error)


def _counted(data: Data) -> Amounts:
    known = amounts(data)
    if None not in known or data.reader not in LISTED:
        return known
    train, val = load_images(replace(data, val=data.train) if data.holdout else data)
    if is_stream(train) or is_stream(val):  # either both are, or neither
        return Amounts(train.length, val.length, train.classes)
    chosen, held_out = partition(train, data)
    return Amounts(len(chosen), len(held_out) if data.holdout else len(val.labels), train.classes)


# What will fail, or wait.


def _check_input(networks: Sequence[Network], hardware: Hardware, is_counted: bool, warnings: Findings) -> None:
    for network in networks:
        cores = min(hardware.cores, loader_workers(network.run, hardware))
        if network.input_cores is None or network.input_cores <= cores:
            continue
        why = f"{counted(cores, 'core')} per GPU can't read and transform them as fast"
        warning = f"GPUs wait for images: {why if cores else 'without loader workers, none is read while they compute'}"
        warnings[f"{warning}; the hours {'' if is_counted else 'do not '}include that"].append(network.run.title)


def _check_devices(networks: Sequence[Network], device: torch.device, problems: Findings) -> None:
    for network in networks:
        try:
            check_device(network.run, gpus=device.type == "cuda")
        except SettingsError as error:
            problems[str(error)].append(network.run.title)


def _check_memory(networks: Sequence[Network], memory: float, problems: Findings) -> None:
    for network in networks:
        run, images, size = network.run, network.run.split.micro_batch_size, network.footprint
        if (network.memory or 0) <= memory * GB:
            continue
        remedies = []
        if micro_batch_size := size.largest_micro_batch(images, memory * GB):
            remedies.append(f"micro_batch_size={micro_batch_size}")
        with_checkpointing = size.fixed + images * (size.per_image_checkpointed or math.inf)
        if not run.gradient_checkpointing and not run.compile and with_checkpointing <= memory * GB:
            remedies.append("gradient_checkpointing=true")
        todo = f"take {' or '.join(remedies)}" if remedies else "its weights alone are too much, or nearly so"
        problem = f"{images} images at once need more than {memory:g} GB of memory; {todo}"
        problems[problem].append(run.title)


def _check_sharing(networks: Sequence[Network], memory: float, runs_per_gpu: int, problems: Findings) -> None:
    """Runs that follow each other in the study may share a GPU."""
    missing = [network for network in networks for _ in network.missing]

    def largest(count: int) -> tuple[float, list[Network]]:
        """GB, at most, of `count` runs, and which runs these are."""
        groups = [missing[first : first + count] for first in range(max(1, len(missing) - count + 1))]
        sizes = [sum((network.memory or 0) + CUDA_CONTEXT for network in group) / GB for group in groups]
        return max(zip(sizes, groups, strict=True), key=lambda pair: pair[0])

    size, group = largest(runs_per_gpu)
    if runs_per_gpu == 1 or size <= memory:
        return
    fitting = max((count for count in range(1, runs_per_gpu) if largest(count)[0] <= memory), default=1)
    problem = (
        f"{min(runs_per_gpu, len(missing))} runs on a GPU at a time need more than {memory:g} GB of memory "
        f"({size:.1f} GB); take hydra.launcher.runs_per_gpu={fitting}"
    )
    problems[problem] += [network.run.title for network in group]
