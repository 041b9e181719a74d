"""A cost as text: a table with one row per network, and below it sums, where they come from, and warnings."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.plan.cost import GB, Cost
from roadmap.common.words import counted, duration

UNITS = {"h": 3600, "min": 60, "s": 1}


def show(cost: Cost, seeds: Sequence[str] = ()) -> None:
    """Print the table, the sums, lines on the number of `seeds`, and what is wrong."""
    console = Console(highlight=False, markup=False)
    console.print(table(cost))
    for line in [*sums(cost), *seeds]:
        console.print(line, soft_wrap=True)
    for line in cost.lines(cost.warnings):
        console.print(Text(f"warning: {line}", "yellow"), soft_wrap=True)
    for line in cost.lines(cost.problems):
        console.print(Text(f"will fail: {line}", "bold red"), soft_wrap=True)


def table(cost: Cost) -> Table:
    million, letter = (10**9, "G") if max(network.macs for network in cost.networks) >= 10**9 else (10**6, "M")
    longest = 3600 * max((cost.hours(network.seconds) or 0 for network in cost.networks), default=0)
    unit = next((name for name, seconds in UNITS.items() if longest >= seconds), "s")
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    table.add_column("network", overflow="fold", min_width=21)
    heads = ("runs", "done", f"MACs\n({letter})", "params\n(M)", "epochs", "memory\n(GB)")
    for head in (*heads, f"each\n({cost.hardware.unit}-{unit})", f"left\n({cost.hardware.unit}-{unit})"):
        table.add_column(head, justify="right", no_wrap=True)
    for network in cost.networks:
        hours = (cost.hours(seconds) for seconds in (network.seconds, network.seconds_left))
        table.add_row(
            network.run.title,
            str(len(network.runs)),
            f"{network.done} ({network.partly})" if network.partly else str(network.done),
            f"{network.macs / million:.2f}",
            f"{network.footprint.params / 10**6:.2f}",
            str(network.run.recipe.epochs),
            "?" if network.memory is None else f"{network.memory / GB:.2f}",
            *("?" if value is None else _number(value * 3600 / UNITS[unit]) for value in hours),
        )
    return table


def sums(cost: Cost) -> list[str]:
    runs, done, partly = (
        sum(counts) for counts in zip(*((len(it.runs), it.done, it.partly) for it in cost.networks), strict=True)
    )
    exist = f"{done} done already" + (f", ({partly}) partly trained" if partly else "")
    hardware = cost.hardware
    devices = f"{counted(hardware.devices, hardware.unit)} each"
    each = devices if hardware.runs_per_gpu == 1 else f"{hardware.runs_per_gpu} on a GPU"
    time = " to ".join(dict.fromkeys(map(_time, cost.wall_seconds or ()))) or "?"
    where = f" on {counted(cost.gpus, 'GPU')}" if cost.gpus else ""
    number = "; --gpus N says how many" if cost.gpus else ""
    limit = f", if the cluster has as many{number}" if cost.is_limit else ""
    input_line = [f"input: {cost.input_note}"] if cost.input_note else []
    return [
        f"{counted(runs, 'run')} of {counted(len(cost.networks), 'network')}: {exist}",
        f"{hardware.unit}-hours: {_hours(cost.hours_in_all)} in all, {_hours(cost.hours_left)} left",
        f"time: {time} until all are done{where}, {hardware.runs_at_once} at a time, {each}{limit}",
        f"hours from: {cost.note}",
        *input_line,
        f"images: {_images(cost)}",
        f"disk: up to {_size(cost.disk_bytes)} of {_size(cost.free_bytes)} free",
    ]


def _time(seconds: float) -> str:
    days = seconds / 86400
    return duration(seconds) if days < 2 else f"{days:.1f} days" if days < 10 else f"{days:,.0f} days"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _hours(hours: float | None) -> str:
    return "?" if hours is None else _number(hours) if hours >= 1 else f"{hours:.3f}"


def _images(cost: Cost) -> str:
    amounts = {(network.amounts.training, network.amounts.evaluation) for network in cost.networks}
    counts = [["?" if count is None else f"{count:,}" for count in pair] for pair in amounts]
    return "; ".join(f"{training} to train on and {evaluation} to evaluate on" for training, evaluation in counts)


def _size(count: int) -> str:
    return f"{count / GB:,.1f} GB" if count >= GB / 10 else f"{count / 2**20:.1f} MB"
