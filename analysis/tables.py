"""The ladder as a table in the terminal."""

from __future__ import annotations

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.story import agreement_sentence, headline
from analysis.text import chance, interval, macs_unit, percent, scaled, signed, whole

WIDE = 112
"""Characters that the table needs with all its columns."""
STYLES = {"up": "green", "down": "red"}


def print_ladder(ladder: pd.DataFrame, console: Console) -> None:
    """Print a `ladder_table` so that it fits 80 characters, with more columns where there is room."""
    wide = console.width >= WIDE
    unit, prefix = macs_unit(ladder["macs"])
    heads = ["n", "top-1 %", "change", "95 % interval", f"MACs {prefix}"]
    heads += ["p (Holm)", "verdict", "images/s"] if wide else []
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("rung", no_wrap=True)
    for head in heads:
        table.add_column(head, justify="left" if head == "verdict" else "right", no_wrap=True)
    table.add_column("paper Δ" if wide else "paper", justify="right", no_wrap=True, style="dim")
    for _, rows in ladder.groupby("section", sort=False):
        for row in rows.itertuples():
            cells = [
                Text(row.rung, "" if row.adopted else "italic"),
                str(row.n),
                percent(row.top1_mean, row.top1_std),
                Text(signed(row.change), STYLES.get(row.verdict, "")),
                interval(row.low, row.high),
                scaled(row.macs, unit),
            ]
            cells += [chance(row.p_holm), row.verdict, whole(row.images_per_second)] if wide else []
            table.add_row(*cells, signed(row.published_change), end_section=row.Index == rows.index[-1])
    console.print(Text(ladder.attrs["scale"], "bold"))
    console.print(Text(ladder.attrs["about"]))
    console.print(table)
    console.print(Text(headline(ladder)))
    console.print(Text(agreement_sentence(ladder)))
    console.print(
        Text(
            "change: from the parent, in points, in colour where shown; italic: not adopted; paper: ImageNet-1K", "dim"
        )
    )
