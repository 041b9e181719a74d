"""What a study costs: time, memory and disk of its runs, before any of them is trained."""

from __future__ import annotations

import heapq
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from experiments.config.run import Run
from experiments.config.settings import Data
from experiments.errors import SettingsError
from experiments.launch.preflight import Amounts, amounts, check_device, stated
from experiments.plan.network import Network, count
from experiments.plan.rates import Clock
from experiments.training.checkpoint import KEPT
from roadmap.common.words import shortened

GB = 2**30
"""Bytes, of memory and of disk."""
CONTEXT = GB // 2
"""Of a GPU's memory, what CUDA takes for each process that uses it, about."""
AT_MOST = KEPT + 1
"""Checkpoints of a run at a time: a new one is written before the oldest goes."""


@dataclass(frozen=True)
class Terms:
    """On what a study is to be trained, as far as its settings don't say."""

    side_by_side: int | None = None
    """Runs at a time; as many as there are cores, or GPUs, if None."""
    images_per_second: Mapping[str | None, float] = field(default_factory=dict)
    """{network: training throughput of one device}, None being the first network; found here if there are none."""
    memory: float | None = None
    """GB of one device."""
    runs_per_gpu: int = 1
    """At a time."""


@dataclass(frozen=True)
class Row:
    """A network of the study. What can't be known is None."""

    title: str
    runs: int
    done: int
    partly: int
    """Runs that have finished some epochs, which `seconds_left` doesn't count again."""
    macs: int
    params: int
    epochs: int
    training_images: int | None
    evaluation_images: int | None
    seconds: float | None
    """Of one run, on all its devices together; if it shares a GPU, of the GPU's time: as if it had it to itself, or
    where `pace` is shared its part."""
    seconds_left: float | None
    """Of all runs that are missing, one after the other."""
    pace: str | None
    """Where the time comes from: `Pace.source`."""
    memory_bytes: int | None
    """Of each device of a run, at least."""
    weights_bytes: int
    """Of a run that is done."""
    checkpoint_bytes: int
    """Of each checkpoint of one that is trained."""


@dataclass(frozen=True)
class Price:
    rows: tuple[Row, ...]
    unit: str
    """What hours are of: GPU or core."""
    devices: int
    """GPUs, or cores, of one run."""
    side_by_side: int
    runs_per_gpu: int
    """At a time."""
    wall_seconds: float | None
    """Until the last missing run is done, at most."""
    wall_seconds_at_least: float | None
    """Less only where runs share a GPU and no record says how much they slow each other down."""
    disk_bytes: int
    """That the missing runs need at most."""
    free_bytes: int
    note: str
    """Where the hours come from."""
    warnings: tuple[str, ...]
    problems: tuple[str, ...]
    """What will certainly fail."""

    def hours(self, seconds: float | None) -> float | None:
        """Of a GPU, or of a core, that a run's seconds are."""
        return None if seconds is None else seconds * self.devices / 3600

    @property
    def hours_in_all(self) -> float | None:
        """As if none were done."""
        return self.hours(_sum(row.seconds and row.seconds * row.runs for row in self.rows))

    @property
    def hours_left(self) -> float | None:
        return self.hours(_sum(row.seconds_left for row in self.rows))

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"hours_in_all": self.hours_in_all, "hours_left": self.hours_left}


LISTED = ("tar", "wds", "tiny_imagenet")
"""The readers whose files here say how many images they hold, if nothing else does; that takes a while."""

Finding = tuple[str, str]
"""(network's title, what is wrong with it)."""


def price(runs: Sequence[Run], terms: Terms, refused: Sequence[Finding] = ()) -> Price:
    """Price runs, each asked for once. `refused` is what was found wrong with them before.

    Raises:
        SettingsError: if none of them can be, or the terms name a network that is not among them.
    """
    problems = [*refused]
    networks = _networks(runs, problems)
    if not networks:
        raise SettingsError(problems[0][1])
    warnings = [(it.title, _unknown(it)) for it in networks if None in (it.amounts.training, it.amounts.evaluation)]
    clock, unknown = None, ""
    try:
        clock = Clock(networks, terms.images_per_second, terms.side_by_side, terms.runs_per_gpu)
    except SettingsError as error:
        if terms.images_per_second:
            raise
        unknown = f"{error}; or state --images-per-second of the one that will train"
        problems += [(it.title, unknown) for it in networks]
    if clock and clock.device:
        problems += _device_problems(networks, clock)
    if clock and clock.busy:
        busy = "others kept this machine busy while it was measured: on an idle one the hours are fewer"
        warnings += [(it.title, busy) for it in networks]
    rows = [_row(network, clock) for network in networks]
    memory, runs_per_gpu = terms.memory or _memory_here(clock), clock.runs_per_gpu if clock else terms.runs_per_gpu
    problems += _memory_problems(networks, memory) + _sharing_problems(networks, memory, runs_per_gpu)
    side_by_side = clock.side_by_side if clock else terms.side_by_side or 1
    slower = [runs_per_gpu if row.pace == "shared" else 1 for row in rows]
    at_least = _wall(networks, rows, side_by_side, slower)
    in_turn = _wall(networks, rows, -(-side_by_side // runs_per_gpu), [1] * len(rows))
    need, free = _disk(networks, rows, side_by_side, runs_per_gpu), _free(networks[0].run.runs)
    if need > free:
        full = f"runs={networks[0].run.runs} has {free / GB:.1f} GB of disk left; up to {need / GB:.1f} GB are needed"
        warnings += [(it.title, full) for it in networks]
    return Price(
        rows=tuple(rows),
        unit=clock.unit if clock else "GPU",
        devices=clock.devices if clock else networks[0].run.split.processes,
        side_by_side=side_by_side,
        runs_per_gpu=runs_per_gpu,
        wall_seconds=None if at_least is None else max(at_least, in_turn),
        wall_seconds_at_least=at_least,
        disk_bytes=need,
        free_bytes=free,
        note=clock.note(networks) if clock else "unknown",
        warnings=_lines(warnings, networks),
        problems=_lines(problems, networks),
    )


def _lines(findings: Sequence[Finding], networks: Sequence[Network]) -> tuple[str, ...]:
    """A line for each different finding, with whom it concerns unless that is everyone."""
    everyone = {network.title for network in networks}
    concerned: dict[str, dict[str, None]] = {}
    for title, finding in findings:
        concerned.setdefault(finding, {})[title] = None
    said = []
    for finding, titles in ((finding, [*titles]) for finding, titles in concerned.items()):
        whom = shortened(titles, 3)
        said.append(finding if everyone == {*titles} else f"{whom}: {finding}")
    return tuple(said)


def _networks(runs: Sequence[Run], problems: list[Finding]) -> list[Network]:
    by_series: dict[str, list[Run]] = {}
    for run in runs:
        by_series.setdefault(run.series, []).append(run)
    networks, looked_at = [], {}
    for ones in by_series.values():
        data, title = ones[0].data, ones[0].title
        if repr(data) not in looked_at:
            looked_at[repr(data)] = _look(data)
        found, problem = looked_at[repr(data)]
        if problem:
            problems.append((title, problem))
        try:
            networks.append(count(ones, found))
        except SettingsError as error:
            problems.append((title, str(error)))
    return networks


def _look(data: Data) -> tuple[Amounts, str | None]:
    """How many images there are, as stated if they are not there; and then why not."""
    try:
        found = amounts(data)
        if None not in found or data.reader not in LISTED:
            return found, None
        return _listed(data), None
    except SettingsError as error:
        return stated(data), str(error)


def _listed(data: Data) -> Amounts:
    from experiments.data.partition import partition
    from experiments.data.readers import load_images

    train, val = load_images(replace(data, val=data.train) if data.holdout else data)
    if not hasattr(train, "labels"):
        return Amounts(train.length, val.length, train.classes)
    chosen, held_out = partition(train, data)
    return Amounts(len(chosen), len(held_out) if data.holdout else len(val.labels), train.classes)


def _unknown(network: Network) -> str:
    return f"how many images {network.run.data.name} has is not known here: say --images TRAIN,VAL to have hours"


def _row(network: Network, clock: Clock | None) -> Row:
    run, left = network.run, network.left
    pace = clock.pace(network) if clock else None
    seconds = network.seconds(pace)
    return Row(
        title=network.title,
        runs=len(network.runs),
        done=len(network.runs) - len(left),
        partly=sum(part < 1 for part in left.values()),
        macs=network.macs,
        params=network.params,
        epochs=run.recipe.epochs,
        training_images=network.amounts.training,
        evaluation_images=network.amounts.evaluation,
        seconds=seconds,
        seconds_left=seconds and seconds * sum(left.values()) if left else 0.0,
        pace=pace and pace.source,
        memory_bytes=network.footprint.memory(run.split.micro_batch_size),
        weights_bytes=network.footprint.weights,
        checkpoint_bytes=network.footprint.checkpoint,
    )


def _device_problems(networks: Sequence[Network], clock: Clock) -> list[Finding]:
    findings = []
    for one in networks:
        try:
            check_device(one.run, gpus=clock.device.type == "cuda")
        except SettingsError as error:
            findings.append((one.title, str(error)))
    return findings


def _memory_here(clock: Clock | None) -> float | None:
    """GB of the GPU that was measured on."""
    if clock is None or clock.device is None or clock.device.type != "cuda":
        return None
    return torch.cuda.get_device_properties(clock.device).total_memory / GB


def _memory_problems(networks: Sequence[Network], memory: float | None) -> list[Finding]:
    findings = []
    for one in networks if memory else ():
        run, at_once = one.run, one.run.split.micro_batch_size
        need = one.footprint.memory(at_once)
        if need is None or need <= memory * GB:
            continue
        remedies = []
        if fitting := one.footprint.fitting(at_once, memory * GB):
            remedies.append(f"micro_batch_size={fitting}")
        if not run.gradient_checkpointing and not run.compile:
            least = one.footprint.an_image_at_least
            fits = least and one.footprint.fixed + at_once * least <= memory * GB
            remedies += ["gradient_checkpointing=true"] if fits else []
        todo = f"take {' or '.join(remedies)}" if remedies else "its weights alone are too much, or nearly so"
        findings.append((one.title, f"{at_once} images at once need more than {memory:g} GB of memory; {todo}"))
    return findings


def _sharing_problems(networks: Sequence[Network], memory: float | None, runs_per_gpu: int) -> list[Finding]:
    """Runs that follow each other in the study meet on a GPU."""
    needs = [(one, one.footprint.memory(one.run.split.micro_batch_size) or 0) for one in networks for _ in one.left]

    def dearest(count: int) -> tuple[float, list[Network]]:
        meetings = [needs[first : first + count] for first in range(max(1, len(needs) - count + 1))]
        return max(
            ((sum(need + CONTEXT for _, need in some) / GB, [one for one, _ in some]) for some in meetings),
            key=lambda one: one[0],
        )

    need, meeting = dearest(runs_per_gpu)
    if not memory or runs_per_gpu == 1 or need <= memory:
        return []
    fitting = max((count for count in range(1, runs_per_gpu) if dearest(count)[0] <= memory), default=1)
    problem = (
        f"{min(runs_per_gpu, len(needs))} runs on a GPU at a time need more than {memory:g} GB of memory "
        f"({need:.1f} GB); take hydra.launcher.runs_per_gpu={fitting}"
    )
    return [(one.title, problem) for one in meeting]


def _disk(networks: Sequence[Network], rows: Sequence[Row], side_by_side: int, runs_per_gpu: int) -> int:
    """Weights of all missing runs, and the checkpoints of the dearest of those that run at a time, or keep them."""
    weights, checkpoints, forever = 0, [], 0
    for network, row in zip(networks, rows, strict=True):
        missing = row.runs - row.done
        weights += missing * row.weights_bytes
        size = row.checkpoint_bytes * network.checkpoints(row.seconds and row.seconds * runs_per_gpu, AT_MOST)
        if network.run.keep == "all":
            forever += missing * size
        else:
            checkpoints += [size] * missing
    return weights + forever + sum(heapq.nlargest(side_by_side, checkpoints))


def _free(runs: Path) -> int:
    there = next(folder for folder in (runs.absolute(), *runs.absolute().parents) if folder.is_dir())
    return shutil.disk_usage(there).free


def _wall(networks: Sequence[Network], rows: Sequence[Row], side_by_side: int, slower: Sequence[int]) -> float | None:
    """Seconds until the last run is done if each, in the order of the study, begins when another ends, and those of
    each network are so many times `slower`."""
    if _sum(row.seconds_left for row in rows) is None:
        return None
    ends = [0.0] * side_by_side
    for network, row, times in zip(networks, rows, slower, strict=True):
        for part in network.left.values():
            heapq.heapreplace(ends, ends[0] + part * row.seconds * times)
    return max(ends)


def _sum(values: Any) -> float | None:
    values = [*values]
    return None if None in values else sum(values)
