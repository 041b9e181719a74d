"""A price as a person reads it: a table with a row a network, and below it sums, where they come from, and warnings."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.plan.cost import GB, Price, Row

SPANS = {"h": 3600, "min": 60, "s": 1}


def show(price: Price, console: Console | None = None) -> None:
    console = console or Console(highlight=False, markup=False)
    console.print(table(price))
    for line in sums(price):
        console.print(line, soft_wrap=True)
    for line in price.warnings:
        console.print(Text(f"warning: {line}", "yellow"), soft_wrap=True)
    for line in price.problems:
        console.print(Text(f"will fail: {line}", "bold red"), soft_wrap=True)


def table(price: Price) -> Table:
    million, letter = (10**9, "G") if max(row.macs for row in price.rows) >= 10**9 else (10**6, "M")
    span = span_of(max((price.hours(row.seconds) or 0 for row in price.rows), default=0))
    made = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    made.add_column("network", overflow="fold", min_width=21)
    heads = ("runs", "done", f"MACs\n({letter})", "params\n(M)", "epochs", "memory\n(GB)")
    for head in (*heads, f"each\n({price.unit}-{span})", f"left\n({price.unit}-{span})"):
        made.add_column(head, justify="right", no_wrap=True)
    for row in price.rows:
        hours = [price.hours(seconds) for seconds in (row.seconds, row.seconds_left)]
        times = ["?" if one is None else _number(one * 3600 / SPANS[span]) for one in hours]
        memory = "?" if row.memory_bytes is None else f"{row.memory_bytes / GB:.2f}"
        made.add_row(
            row.title,
            str(row.runs),
            _done(row),
            f"{row.macs / million:.2f}",
            f"{row.params / 10**6:.2f}",
            str(row.epochs),
            memory,
            *times,
        )
    return made


def sums(price: Price) -> list[str]:
    runs, done = (sum(getattr(row, name) for row in price.rows) for name in ("runs", "done"))
    partly = sum(row.partly for row in price.rows)
    exist = f"{done} done already" + (f", ({partly}) partly trained" if partly else "")
    each = f"{_some(price.devices, price.unit)} each" if price.runs_per_gpu == 1 else f"{price.runs_per_gpu} on a GPU"
    least, most = _clock(price.wall_seconds_at_least), _clock(price.wall_seconds)
    time = most if least == most else f"{least} to {most}"
    return [
        f"{_some(runs, 'run')} of {_some(len(price.rows), 'network')}: {exist}",
        f"{price.unit}-hours: {_hours(price.hours_in_all)} in all, {_hours(price.hours_left)} left",
        f"time: {time} until all are done, {price.side_by_side} at a time, {each}",
        f"hours from: {price.note}",
        f"images: {_images(price)}",
        f"disk: up to {_bytes(price.disk_bytes)} of {_bytes(price.free_bytes)} free",
    ]


def _some(count: int, name: str) -> str:
    return f"{count} {name}{'' if count == 1 else 's'}"


def _done(row: Row) -> str:
    return f"{row.done} ({row.partly})" if row.partly else str(row.done)


def span_of(hours: float) -> str:
    """The unit in which the dearest run is a number above one."""
    return next((name for name, seconds in SPANS.items() if hours * 3600 >= seconds), "s")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _hours(hours: float | None) -> str:
    return "?" if hours is None else _number(hours) if hours >= 1 else f"{hours:.3f}"


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    for unit, length in {"days": 86400, "hours": 3600, "min": 60}.items():
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def _images(price: Price) -> str:
    counts = {(row.training_images, row.evaluation_images) for row in price.rows}
    said = [
        " and ".join(
            f"{'?' if count is None else format(count, ',')} to {purpose} on"
            for count, purpose in zip(pair, ("train", "evaluate"), strict=True)
        )
        for pair in counts
    ]
    return "; ".join(said)


def _bytes(count: int) -> str:
    return f"{count / GB:,.1f} GB" if count >= GB / 10 else f"{count / 2**20:.1f} MB"
