"""The ladder as a table in the terminal."""

from __future__ import annotations

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.measures import measure
from analysis.report.sections import agreement_sentence, findings, is_walked
from analysis.statistics.ladder import included
from analysis.text import NOTHING, chance, interval, macs_unit, percent, scaled, signed, stretches, whole

WIDE = 112
"""Characters that the table needs with all its columns."""
STYLES = {"up": "green", "down": "red"}


def print_ladder(ladder: pd.DataFrame, console: Console, effects: pd.DataFrame | None = None) -> None:
    """Print a `ladder_table` so that it fits 80 characters, with more columns where there is room: the rungs that were
    asked for. With an `effect_table`, also what it says of steps that are on no rung."""
    rungs = included(ladder)
    wide = console.width >= WIDE
    unit, prefix = macs_unit(ladder["macs"])
    printed = ladder["published_change"].notna().any()
    metric = measure(ladder.attrs["metric"])
    heads = ["rung", "n", metric.head.replace("(%)", "%"), "change", "95 % interval", f"MACs {prefix}"]
    heads += ["p (Holm)", "verdict", "images/s"] if wide else []
    heads += ["paper Δ" if wide else "paper"] if printed else []
    lines: list[tuple[list[str | Text], bool]] = []
    for _, rows in stretches(rungs):
        for row in rows.itertuples():
            cells = [
                Text(row.rung, "" if row.adopted else "italic"),
                f"{row.n} of {row.n + row.diverged}" if row.diverged else str(row.n),
                percent(row.mean, row.std),
                Text(signed(row.change), STYLES.get(row.verdict, "")),
                interval(row.low, row.high),
                scaled(row.macs, unit),
            ]
            cells += (
                [chance(row.p_holm), row.verdict + " †" * row.survivors, whole(row.images_per_second)] if wide else []
            )
            cells += [signed(row.published_change)] if printed else []
            lines.append((cells, row.Index == rows.index[-1]))
    kept = [place for place in range(len(heads)) if any(str(cells[place]) != NOTHING for cells, _ in lines)]
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for head in (heads[place] for place in kept):
        justify, style = "left" if head in ("rung", "verdict") else "right", "dim" if head.startswith("paper") else ""
        table.add_column(head, justify=justify, no_wrap=True, style=style)
    for cells, end in lines:
        table.add_row(*(cells[place] for place in kept), end_section=end)
    console.print(Text(ladder.attrs["scale"], "bold"))
    console.print(Text(ladder.attrs["about"]))
    besides = effects is not None and effects["kind"].isin(("besides", "elsewhere")).any()
    if walked := is_walked(ladder, besides=besides):
        console.print(table)
    for sentence in findings(ladder, effects):
        console.print(Text(sentence))
    if sentence := agreement_sentence(ladder):
        console.print(Text(sentence))
    if not walked:
        return
    unit = f", in {metric.unit}" if metric.unit else ""
    start = f"“{reference}”" if (reference := ladder.attrs["reference"]) else "the parent"
    notes = [f"change: from {start}{unit}, in colour where shown"]
    notes += ["italic: not adopted"] if not rungs["adopted"].all() else []
    notes += ["paper: ImageNet-1K"] if printed else []
    notes += ["n: the seeds that trained; the others diverged"] if rungs["diverged"].any() else []
    notes += ["†: of those that trained"] if wide and rungs["survivors"].any() else []
    console.print(Text("; ".join(notes), "dim"))
