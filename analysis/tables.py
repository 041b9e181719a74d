"""Numbers as text, the same in the terminal, the report and the figure; and the ladder as a table in the terminal."""

from __future__ import annotations

import math

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.ladder import Ladder, agreement
from analysis.provenance import describe

NOTHING = "–"
MINUS = "−"
WIDE = 112
"""Characters that the table needs with all its columns."""
STYLES = {"up": "green", "down": "red"}


def percent(mean: float, std: float = math.nan) -> str:
    """An accuracy in percent with its standard deviation: "83.27 ± 0.45"."""
    if pd.isna(mean):
        return NOTHING
    return f"{mean:.2f}" if pd.isna(std) else f"{mean:.2f} ± {std:.2f}"


def signed(points: float) -> str:
    """A change in points: "+0.65", "−1.23"."""
    if pd.isna(points):
        return NOTHING
    text = f"{points:+.2f}".replace("-", MINUS)
    return text[1:] if text[1:] == "0.00" else text


def interval(low: float, high: float) -> str:
    return NOTHING if pd.isna(low) else f"{signed(low)} to {signed(high)}"


def macs_unit(macs: pd.Series) -> tuple[float, str]:
    """Multiply-adds a unit, and its prefix: billions from half a billion on, else millions."""
    return (1e9, "G") if macs.max() >= 5e8 else (1e6, "M")


def scaled(value: float, unit: float) -> str:
    return NOTHING if pd.isna(value) else f"{value / unit:.2f}"


def count(value: float) -> str:
    """A number of parameters: "388 k", "28.6 M"."""
    if pd.isna(value):
        return NOTHING
    return f"{value / 1e6:.1f} M" if value >= 999_500 else f"{value / 1e3:.0f} k"


def whole(value: float) -> str:
    return NOTHING if pd.isna(value) else f"{value:,.0f}"


def agreement_sentence(ladder: Ladder) -> str:
    """How many of the paper's clear changes have the same sign here, in plain words."""
    found = agreement(ladder.table)
    text = (
        f"{found.clear} of the paper's changes exceed twice their own noise over seeds. "
        f"Measured here: {found.measured} of them; with the same sign: {found.same_sign}."
    )
    if not found.clear:
        text = "The paper tells no seed noise for this ladder, so none of its changes can be called clear."
    elif found.unknown:
        text += f" Left out, for the paper tells no noise: {found.unknown}."
    return text


def print_ladder(ladder: Ladder, console: Console) -> None:
    """Print the ladder as a table that fits 80 characters, with more columns where there is room."""
    wide = console.width >= WIDE
    unit, prefix = macs_unit(ladder.table["macs"])
    heads = ["n", "top-1 %", "change", "95 % interval", f"MACs {prefix}"]
    heads += ["verdict", "images/s", "paper %"] if wide else []
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("rung", no_wrap=True)
    for head in heads:
        table.add_column(head, justify="left" if head == "verdict" else "right", no_wrap=True)
    table.add_column("paper Δ" if wide else "paper", justify="right", no_wrap=True, style="dim")
    for _, rows in ladder.table.groupby("section", sort=False):
        for row in rows.itertuples():
            cells = [
                Text(row.rung, "" if row.adopted else "italic"),
                str(row.n),
                percent(row.top1_mean, row.top1_std),
                Text(signed(row.change), STYLES.get(row.verdict, "")),
                interval(row.low, row.high),
                scaled(row.macs, unit),
            ]
            cells += [row.verdict, whole(row.images_per_second), percent(row.published_top1)] if wide else []
            table.add_row(*cells, signed(row.published_change), end_section=row.Index == rows.index[-1])
    console.print(Text(ladder.context.scale, "bold"))
    console.print(Text(describe(ladder)))
    console.print(table)
    console.print(Text(agreement_sentence(ladder)))
    console.print(Text("change: from the parent, in points; italic: not adopted; paper: ImageNet-1K", "dim"))
