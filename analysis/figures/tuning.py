"""Tuned networks: the changes of steps untuned beside tuned, and how each value of the setting did."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from analysis.figures.effects import draw_effect
from analysis.figures.style import LINES, MARKERS, PALETTE, Drawing, blank, heading, style
from analysis.measures import measure
from analysis.text import NOTHING, step_name, wrapped

ROW = 0.5
LOOKS = {"untuned": (LINES[1], MARKERS[1], -0.16), "tuned": (LINES[0], MARKERS[0], 0.16)}
"""The colour, the marker, and the offset in its row."""
COLUMNS = ("change", "low", "high", "verdict")
MOST_BEHIND = 3.0
"""Points behind the best value at which a cell is white."""


def tuned_figure(table: pd.DataFrame, search: pd.DataFrame, setting: str) -> Figure:
    """One row per pair of a `tuned_table`: the change untuned and tuned, with 95 % intervals; and, below, one row per
    network: its mean on the holdout with each value that was tried (`Tuning.search`).

    Markers are filled where a change is shown (Holm-corrected p < 0.05), hollow where it is not.
    """
    title, about = "Does it survive tuning?", table.attrs.get("scale", "")
    if table.empty:
        return blank(title, "No two tuned networks are comparable: they differ in more than the road's steps.", about)
    networks = [*dict.fromkeys(search["network"])]
    tried = search.groupby("network")["value"].size().max()
    with style():
        above, between, below = 1.15, 1.05, 0.4
        height = above + ROW * (len(table) + len(networks)) + between + below
        figure = Drawing(figsize=(9.2, height))
        axes = figure.add_axes((0.3, (height - above - ROW * len(table)) / height, 0.66, ROW * len(table) / height))
        for which, (color, marker, offset) in LOOKS.items():
            for index, row in enumerate(table.to_dict("records")):
                if not pd.isna(row[f"change_{which}"]):
                    change, low, high, verdict = (row[f"{name}_{which}"] for name in COLUMNS)
                    draw_effect(axes, change, low, high, index + offset, verdict, color=color, marker=marker)
        _rows(axes, table["title"].map(step_name))
        axes.axvline(0, color=PALETTE["muted"], lw=0.9, zorder=1)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        value = measure(table.attrs.get("metric", "top1"))
        axes.set_xlabel(f"change of {value.name}" + (f" ({value.unit})" if value.unit else ""))
        cells = figure.add_axes((0.3, below / height, 0.66, ROW * len(networks) / height))
        for index, network in enumerate(networks):
            _cells(cells, index, search[search["network"] == network])
        _rows(cells, pd.Series(networks))
        cells.set_xlim(-0.5, tried - 0.5)
        cells.set_xticks([])
        cells.spines["bottom"].set_visible(False)
        head = f"{value.axis} on the holdout by {setting}\ndarker: nearer to the row’s best, framed; underlined: own"
        cells.set_title(head, loc="left", fontsize=9, color=PALETTE["muted"])
        labels = ("the recipe’s own value", "the best value of each network")
        keys = [
            Line2D([], [], color=color, marker=marker, ms=6, label=label)
            for (color, marker, _), label in zip(LOOKS.values(), labels, strict=True)
        ]
        figure.legend(
            handles=keys, loc="upper left", ncols=2, fontsize=8, bbox_to_anchor=(0.3, 1 - 0.85 / height),
            borderaxespad=0, borderpad=0,
        )  # fmt: skip
        heading(figure, title, about)
        note = "bars: 95 % interval; filled: shown (Holm-corrected p < 0.05)"
        figure.text(0.96, 0.1 / height, note, ha="right", fontsize=8, color=PALETTE["muted"])
        return figure


def _rows(axes: Axes, names: pd.Series) -> None:
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), names.map(wrapped))
    axes.tick_params(axis="y", length=0, labelcolor=PALETTE["ink"])
    axes.spines["left"].set_visible(False)


def _cells(axes: Axes, y: int, values: pd.DataFrame) -> None:
    """One cell per value, darker the nearer its mean is to the best."""
    shade = LinearSegmentedColormap.from_list("shade", [PALETTE["paper"], PALETTE["side"]])
    best = values["mean"].max()
    for x, row in enumerate(values.itertuples()):
        behind = 1.0 if pd.isna(row.mean) else min((best - row.mean) / MOST_BEHIND, 1.0)
        edge, width = (PALETTE["ink"], 1.2) if row.best else (PALETTE["grid"], 0.6)
        cell = Rectangle((x - 0.47, y - 0.36), 0.94, 0.72, fc=shade(1 - behind), ec=edge, lw=width, zorder=2 + row.best)
        axes.add_patch(cell)
        number = f"{row.value:g}" if isinstance(row.value, int | float) else str(row.value)
        without = "diverged" if row.diverged and not row.left else NOTHING
        mean = without if pd.isna(row.mean) else f"{row.mean:.1f}"
        axes.text(x, y - 0.13, number, ha="center", va="center", fontsize=7, color=PALETTE["muted"])
        axes.text(x, y + 0.14, mean, ha="center", va="center", fontsize=8.5)
        if row.own:
            axes.plot([x - 0.2, x + 0.2], [y + 0.3, y + 0.3], color=PALETTE["ink"], lw=1, zorder=4)
