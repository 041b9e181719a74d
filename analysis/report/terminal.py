"""Findings, and the ladder as a table, in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.measures import measure
from analysis.report.factors import chapter_findings, holds_ladder
from analysis.report.findings import agreement_sentence
from analysis.report.section import Section
from analysis.report.sections import shows_ladder
from analysis.statistics.factors import Factorial
from analysis.statistics.ladder import compared_with, included
from analysis.text import NOTHING, chance, interval, macs_unit, percent, scaled, signed, stretches, whole

WIDE = 112
"""How many characters the table needs with all its columns."""
STYLES = {"up": "green", "down": "red"}


def print_sections(sections: Sequence[Section], console: Console) -> None:
    """Print the findings of sections, each under its title."""
    for section in sections:
        console.print(Text(section.title, "bold"))
        for sentence in section.findings:
            console.print(Text(sentence))
        console.print()


def print_ladder(
    ladder: pd.DataFrame,
    console: Console,
    effects: pd.DataFrame | None = None,
    factorial: Factorial | None = None,
) -> None:
    """Print the rungs of a `ladder_table` that have runs, within 80 characters, or with more columns where there is
    room; then the findings. With an `effect_table`, also those on steps that are on no rung; with a crossed study,
    first those on its switches, and no ladder if all of its rungs are in the study."""
    rungs = included(ladder)
    wide, has_margin = console.width >= WIDE, ladder.attrs.get("margin") is not None
    unit, prefix = macs_unit(ladder["macs"])
    has_published = ladder["published_change"].notna().any()
    metric = measure(ladder.attrs["metric"])
    heads = ["rung", "n", metric.head.replace("(%)", "%"), "change", "95 % interval", f"MACs {prefix}"]
    heads += ["p (Holm)", "verdict", "images/s"] if wide else []
    heads += ["paper Δ" if wide else "paper"] if has_published else []
    lines: list[tuple[list[str | Text], bool]] = []
    for _, rows in stretches(rungs):
        for row in rows.itertuples():
            cells: list[str | Text] = [
                Text(row.rung, "" if row.adopted else "italic"),
                f"{row.n} of {planned}" if (planned := row.n + row.diverged + row.stopped) > row.n else str(row.n),
                percent(row.mean, row.std),
                Text(signed(row.change) + " ≈" * (has_margin and row.negligible), STYLES.get(row.verdict, "")),
                interval(row.low, row.high),
                scaled(row.macs, unit),
            ]
            if wide:
                cells += [chance(row.p_holm), row.verdict + " †" * row.survivors, whole(row.images_per_second)]
            cells += [signed(row.published_change)] if has_published else []
            lines.append((cells, row.Index == rows.index[-1]))
    kept = [index for index in range(len(heads)) if any(str(cells[index]) != NOTHING for cells, _ in lines)]
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for head in (heads[index] for index in kept):
        style = "dim" if head.startswith("paper") else ""
        table.add_column(head, justify="left" if head in ("rung", "verdict") else "right", no_wrap=True, style=style)
    for row_cells, is_last in lines:
        table.add_row(*(row_cells[index] for index in kept), end_section=is_last)
    console.print(Text(ladder.attrs["scale"], "bold"))
    console.print(Text(ladder.attrs["about"]))
    has_added = effects is not None and effects["kind"].isin(("besides", "elsewhere")).any()
    held = factorial is not None and holds_ladder(factorial, ladder)
    has_table = shows_ladder(ladder, has_added=has_added) and not held
    if has_table:
        console.print(table)
    for sentence in filter(None, [*chapter_findings(ladder, effects, factorial), agreement_sentence(ladder)]):
        console.print(Text(sentence))
    if not has_table:
        return
    points = f", in {metric.unit}" if metric.unit else ""
    notes = [f"change: from {compared_with(ladder)}{points}, in colour where shown"]
    notes += ["italic: not adopted"] if not rungs["adopted"].all() else []
    looks = ladder.attrs.get("looks", 1)
    notes += [f"corrected for {looks} planned looks"] if looks > 1 else []
    notes += ["≈: negligible"] if has_margin and rungs["negligible"].any() else []
    notes += ["paper: ImageNet-1K"] if has_published else []
    others = [what for what in ("diverged", "stopped") if rungs[what].any()]
    others = ["were stopped early" if what == "stopped" else what for what in others]
    notes += [f"n: the seeds that finished; the others {' or '.join(others)}"] if others else []
    notes += ["†: of those that finished"] if wide and rungs["survivors"].any() else []
    console.print(Text("; ".join(notes), "dim"))
