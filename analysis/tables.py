"""The ladder as a table in the terminal."""

from __future__ import annotations

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.measures import measure
from analysis.story import agreement_sentence, headline, is_walked
from analysis.text import chance, interval, macs_unit, percent, scaled, signed, stretches, whole

WIDE = 112
"""Characters that the table needs with all its columns."""
STYLES = {"up": "green", "down": "red"}


def print_ladder(ladder: pd.DataFrame, console: Console, effects: pd.DataFrame | None = None) -> None:
    """Print a `ladder_table` so that it fits 80 characters, with more columns where there is room; with an
    `effect_table`, also what it says of steps that are on no rung."""
    wide = console.width >= WIDE
    unit, prefix = macs_unit(ladder["macs"])
    printed = ladder["published_change"].notna().any()
    metric = measure(ladder.attrs["metric"])
    heads = ["n", metric.head.replace("(%)", "%"), "change", "95 % interval", f"MACs {prefix}"]
    heads += ["p (Holm)", "verdict", "images/s"] if wide else []
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("rung", no_wrap=True)
    for head in heads:
        table.add_column(head, justify="left" if head == "verdict" else "right", no_wrap=True)
    if printed:
        table.add_column("paper Δ" if wide else "paper", justify="right", no_wrap=True, style="dim")
    for _, rows in stretches(ladder):
        for row in rows.itertuples():
            cells = [
                Text(row.rung, "" if row.adopted else "italic"),
                str(row.n),
                percent(row.mean, row.std),
                Text(signed(row.change), STYLES.get(row.verdict, "")),
                interval(row.low, row.high),
                scaled(row.macs, unit),
            ]
            cells += [chance(row.p_holm), row.verdict, whole(row.images_per_second)] if wide else []
            cells += [signed(row.published_change)] if printed else []
            table.add_row(*cells, end_section=row.Index == rows.index[-1])
    console.print(Text(ladder.attrs["scale"], "bold"))
    console.print(Text(ladder.attrs["about"]))
    besides = effects is not None and effects["kind"].isin(("besides", "elsewhere")).any()
    if walked := is_walked(ladder, besides=besides):
        console.print(table)
    console.print(Text(headline(ladder, effects)))
    if sentence := agreement_sentence(ladder):
        console.print(Text(sentence))
    if not walked:
        return
    unit = f", in {metric.unit}" if metric.unit else ""
    note = f"change: from the parent{unit}, in colour where shown; italic: not adopted"
    console.print(Text(f"{note}; paper: ImageNet-1K" if printed else note, "dim"))
