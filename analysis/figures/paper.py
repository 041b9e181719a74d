"""Published changes compared with measured ones."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.labels import label_points
from analysis.figures.style import PALETTE, Drawing, blank, heading, style
from analysis.statistics.paper import VERDICTS
from analysis.text import signed, step_name, wrapped

# The layout in inches: names are rows beside the axes, and many of them make the figure taller.
WIDTH, HEIGHT, TOP, ROW, BOTTOM = 10.2, 6.4, 0.96, 0.23, 0.7
KEYS = 1.3
"""Height of the legend, below the names."""
TITLE = "Does a step go the same way here?"


def paper_figure(table: pd.DataFrame) -> Figure:
    """One point per step of `paper_table`: the published change (x) and the one measured here (y).

    In the shaded quadrants the two have the same sign. Bars are the 95 % interval here, and the published noise, one
    standard deviation to each side; steps whose published change is within twice that, or whose noise is unknown, are
    pale. Squares are steps that the paper measured and did not adopt. Numbers are in the paper's order, with the names
    beside the figure. If there is no such step, the figure says so.
    """
    shown = table[table["change"].notna()].reset_index(drop=True)
    if shown.empty:
        return blank(TITLE, "None of the published changes was measured here.", table.attrs.get("scale", ""))
    with style():
        height = max(HEIGHT, TOP + ROW * (len(shown) + 1) + KEYS)
        figure = Drawing(figsize=(WIDTH, height))
        axes = figure.add_axes((0.075, BOTTOM / height, 0.53, 1 - (TOP + BOTTOM) / height))
        _draw_quadrants(axes, shown)
        for row in shown.itertuples():
            _draw_step(axes, row)
        labels = [(row.published_change, row.change, str(row.Index + 1)) for row in shown.itertuples()]
        label_points(axes, labels, fontsize=9, fontweight="bold", color=PALETTE["ink"], zorder=6)
        axes.set_xlabel("published change: ImageNet-1K (points)")
        dataset = table.attrs.get("dataset")
        axes.set_ylabel(f"measured change{f': {dataset}' if dataset else ''} (points)")
        _draw_names(figure, shown)
        title = "Does a rung differ the same way here?" if table.attrs.get("reference") else TITLE
        heading(figure, title, table.attrs.get("scale", ""))
        return figure


def _draw_quadrants(axes: Axes, shown: pd.DataFrame) -> None:
    ends = pd.concat([shown["change"], shown["low"], shown["high"]]).abs().max()
    high = 1.12 * max(ends, 0.5)
    wide = 1.12 * max(shown["published_change"].abs().max(), 0.5)
    axes.set_xlim(-wide, wide)
    axes.set_ylim(-high, high)
    for side in (1, -1):
        axes.fill_between([0, side * wide], 0, side * high, color=PALETTE["band"], lw=0, zorder=0)
    axes.axhline(0, color=PALETTE["muted"], lw=0.8, zorder=1)
    axes.axvline(0, color=PALETTE["muted"], lw=0.8, zorder=1)
    style: dict[str, Any] = {"fontsize": 8, "color": PALETTE["muted"], "style": "italic"}
    axes.text(0.985 * wide, 0.97 * high, "up in both", ha="right", va="top", **style)
    axes.text(-0.985 * wide, -0.97 * high, "down in both", ha="left", va="bottom", **style)
    axes.text(-0.985 * wide, 0.97 * high, "up here only", ha="left", va="top", **style)
    axes.text(0.985 * wide, -0.97 * high, "down here only", ha="right", va="bottom", **style)


def _draw_step(axes: Axes, row: Any) -> None:
    clear = row.published_verdict in VERDICTS
    colour = PALETTE["bar" if clear else "side"]
    if not pd.isna(row.low):
        axes.plot([row.published_change] * 2, [row.low, row.high], color=colour, lw=1, zorder=2)
    if not pd.isna(row.published_noise):
        ends = [row.published_change - row.published_noise, row.published_change + row.published_noise]
        axes.plot(ends, [row.change] * 2, color=colour, lw=1, zorder=2)
    axes.plot(
        *(row.published_change, row.change),
        "o" if row.adopted else "s",
        ms=6.5,
        color=colour if row.adopted else PALETTE["paper"],
        mec=PALETTE["bar"] if clear else colour,
        mew=1.3,
        zorder=3 + clear,
    )


def _draw_names(figure: Figure, shown: pd.DataFrame) -> None:
    """The legend: number, step, published and measured change; and what the markers mean."""
    left, height = 0.645, figure.get_figheight()
    columns = {left + 0.255: "published", left + 0.335: "here"}
    for x, head in columns.items():
        figure.text(x, 1 - (TOP + 0.03) / height, head, ha="right", fontsize=8, color=PALETTE["muted"])
    for row in shown.itertuples():
        y = 1 - (TOP + 0.03 + ROW * (row.Index + 1)) / height
        shown_here = row.verdict in VERDICTS
        figure.text(left, y, f"{row.Index + 1}", ha="right", fontsize=8, color=PALETTE["muted"])
        name = wrapped(step_name(row.title), 26, 1)
        figure.text(left + 0.012, y, name, fontsize=8.5, style="normal" if row.adopted else "italic")
        figure.text(left + 0.255, y, signed(row.published_change), ha="right", fontsize=8.5)
        figure.text(left + 0.256, y, "*" * row.noise_assumed, fontsize=8.5)
        weight = "bold" if shown_here else "normal"
        figure.text(left + 0.335, y, signed(row.change), ha="right", fontsize=8.5, fontweight=weight)
    has_noise = shown["published_noise"].notna().any()
    looks: dict[str, dict[str, Any]] = {
        "published change beyond 2 × its noise": {"marker": "o", "color": PALETTE["bar"]},
        "about 0 there: within 2 × its noise" if has_noise else "noise not published": {
            "marker": "o",
            "color": PALETTE["side"],
        },
        "measured, not adopted": {"marker": "s", "color": PALETTE["paper"], "mec": PALETTE["bar"]},
    }
    keys = [Line2D([], [], ls="", ms=6.5, label=label, **look) for label, look in looks.items()]
    corner = (left - 0.02, 0.35 / height)
    figure.legend(handles=keys, loc="lower left", bbox_to_anchor=corner, fontsize=8, borderpad=0, borderaxespad=0)
    notes = {0.13: "bold: shown here (Holm-corrected p < 0.05)"}
    if shown["noise_assumed"].any():
        notes[1.05] = "* noise not printed: the ladder’s largest is assumed"
    for y, note in notes.items():
        figure.text(left - 0.012, y / height, note, fontsize=8, color=PALETTE["muted"])
