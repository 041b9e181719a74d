"""The same rungs measured here and as published, side by side: each step a bar from one accuracy to the next."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from analysis.figures.style import PALETTE, Drawing, blank, heading, style
from analysis.measures import VERDICTS, measure
from analysis.statistics.comparison import Comparison
from analysis.statistics.ladder import ladder_table
from analysis.text import signed, stretches, wrapped
from roadmap.common.words import counted

# The layout in inches, from the left: names, bars and changes measured here, bars and changes as published.
WIDTH, TOP, BOTTOM = 9.2, 1.42, 0.92
NAME_X, HERE, CHANGE_X, PUBLISHED, PUBLISHED_CHANGE_X = 2.5, (2.65, 5.3), 5.88, (6.15, 8.4), 8.98
LOWEST_ROW, HIGHEST_ROW, ROWS = 0.28, 0.42, 3.4
LONGEST_TITLE = 34
"""Characters of a rung's title; the rest is cut."""
GAIN = 0.5
"""Opacity of a gain, so that seeds and interval are seen on it."""
TITLE = "measured here, and as published"
PAPER = "ImageNet-1K, 224 px, 90/300 epochs, not ours"


def beside_paper_figure(comparison: Comparison) -> Figure:
    """The rungs with finished runs, from the first at the top to the last, measured here (left) and as published
    (right), each on an accuracy axis of its own.

    A bar leads from the accuracy of the rung that a change is counted from to the rung's own: filled where it gains,
    hollow where it loses. Left, dots are seeds and a line is the 95 % interval of the mean; right, a line is one
    standard deviation. Where a study skips rungs, a row is a section of the road or whatever lies between two rungs
    (`ladder_table` with `nearest`). If nothing was published for them, the figure says so.
    """
    table = ladder_table(comparison, nearest=True)
    table = table[table["n"] > 0].reset_index(drop=True)
    title = f"{wrapped(table.attrs['road'], 40, 1)}, {TITLE}"
    if table["published_top1"].isna().all():
        return blank(title, "Nothing was published about the networks measured here.", table.attrs["scale"])
    with style():
        row_height = min(max(ROWS / len(table), LOWEST_ROW), HIGHEST_ROW)
        height = TOP + row_height * len(table) + BOTTOM
        figure = Drawing(figsize=(WIDTH, height))
        page = _axes(figure, (0, WIDTH), len(table))
        page.set_xlim(0, WIDTH)
        page.axis("off")
        _draw_rows(page, table)
        here, published = (_axes(figure, span, len(table)) for span in (HERE, PUBLISHED))
        _draw_measured(here, table, comparison)
        _draw_published(published, table)
        heading(figure, title, table.attrs["about"])
        for left, text, about, colour in (
            (HERE[0], "measured here", _trained(table, comparison), PALETTE["bar"]),
            (PUBLISHED[0], "published", PAPER, PALETTE["published"]),
        ):
            figure.text(left / WIDTH, 1 - 1.02 / height, text, fontsize=11, fontweight="bold", color=colour)
            figure.text(left / WIDTH, 1 - 1.21 / height, about, fontsize=8.5, color=colour)
        _draw_legend(figure, table)
        return figure


def _trained(table: pd.DataFrame, comparison: Comparison) -> str:
    context = comparison.context
    epochs = counted(context.epochs, "epoch") if context.epochs else ""
    return ", ".join(filter(None, [f"{context.regime}: {table.attrs['dataset']}", f"{context.resolution} px", epochs]))


def _axes(figure: Figure, span: tuple[float, float], rows: int) -> Axes:
    """Axes between two distances from the left (inches), where y is the row, 0 at the top."""
    height = figure.get_figheight()
    left, right = span
    axes = figure.add_axes((left / WIDTH, BOTTOM / height, (right - left) / WIDTH, 1 - (TOP + BOTTOM) / height))
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    return axes


def _draw_rows(page: Axes, table: pd.DataFrame) -> None:
    """A band for every other section, the names, and both changes."""
    for index, (_, rows) in enumerate(stretches(table)):
        if index % 2 == 0:
            page.axhspan(rows.index[0] - 0.5, rows.index[-1] + 0.5, xmin=0.012, xmax=0.988, color=PALETTE["band"], lw=0)
    for row in table.itertuples():
        name = wrapped(row.title, LONGEST_TITLE, 1)
        page.text(NAME_X, row.Index, name, ha="right", va="center", style="normal" if row.adopted else "italic")
        if row.reference is None or pd.isna(row.reference):
            continue
        shown: dict[str, Any] = {"ha": "right", "va": "center"}
        bold = "bold" if row.verdict in VERDICTS else "normal"
        page.text(CHANGE_X, row.Index, signed(row.change), fontweight=bold, color=PALETTE["bar"], **shown)
        page.text(PUBLISHED_CHANGE_X, row.Index, signed(row.published_change), color=PALETTE["published"], **shown)


def _draw_measured(axes: Axes, table: pd.DataFrame, comparison: Comparison) -> None:
    colour = PALETTE["bar"]
    _draw_bars(axes, table, "mean", colour)
    road = comparison.road
    for row in table.itertuples():
        axes.plot([row.mean_low, row.mean_high], [row.Index] * 2, color=PALETTE["ink"], lw=1.1, zorder=4)
        seeds = comparison.values(road[row.rung].steps)
        offsets = np.linspace(-0.2, 0.2, len(seeds)) if len(seeds) > 1 else [0.0]
        axes.plot(
            seeds,
            row.Index + np.asarray(offsets),
            "o",
            ms=3.8,
            color=PALETTE["ink"],
            mec=PALETTE["paper"],
            mew=0.6,
            zorder=5,
        )
    axes.set_xlabel(measure(comparison.metric).axis)


def _draw_published(axes: Axes, table: pd.DataFrame) -> None:
    _draw_bars(axes, table, "published_top1", PALETTE["published"])
    for row in table[table["published_std"].notna()].itertuples():
        ends = [row.published_top1 - row.published_std, row.published_top1 + row.published_std]
        axes.plot(ends, [row.Index] * 2, color=PALETTE["ink"], lw=1.1, zorder=4)
    axes.set_xlabel("top-1 accuracy (%), as published")


def _draw_bars(axes: Axes, table: pd.DataFrame, column: str, colour: str) -> None:
    """From each reference's accuracy to the rung's own."""
    values = dict(zip(table["rung"], table[column], strict=True))
    first = table[column].iloc[0]
    axes.axvline(first, color=PALETTE["muted"], lw=0.8, ls=(0, (3, 3)), zorder=1)
    for row, value in zip(table.itertuples(), table[column], strict=True):
        start = values.get(row.reference, np.nan)
        gains = value >= start
        if not (pd.isna(start) or pd.isna(value)):  # on a longer road than the paper's some rungs are not published
            axes.barh(
                row.Index,
                value - start,
                left=start,
                height=0.62,
                color=colour if gains else PALETTE["paper"],
                alpha=GAIN if gains else 1,
                edgecolor=colour,
                linewidth=1.1,
                zorder=2,
            )
        axes.plot([value] * 2, [row.Index - 0.38, row.Index + 0.38], color=colour, lw=2.2, zorder=3)
    axes.use_sticky_edges = False
    axes.margins(x=0.05)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.grid(axis="x")
    axes.set_axisbelow(True)


def _draw_legend(figure: Figure, table: pd.DataFrame) -> None:
    ink, height = PALETTE["ink"], figure.get_figheight()
    keys: list[Any] = [
        Patch(facecolor=PALETTE["muted"], alpha=GAIN, label="gain"),
        Patch(facecolor=PALETTE["paper"], edgecolor=PALETTE["muted"], label="loss"),
        Line2D([], [], ls="", marker="o", ms=3.8, color=ink, label="a seed"),
        Line2D([], [], color=ink, lw=1.1, label="95 % interval of an accuracy; published: ± one std"),
        Line2D([], [], color=PALETTE["muted"], lw=0.8, ls=(0, (3, 3)), label="the first network"),
    ]
    figure.legend(
        handles=keys, loc="lower left", ncols=len(keys), fontsize=8, bbox_to_anchor=(0.25 / WIDTH, 0.26 / height),
        borderaxespad=0, borderpad=0, columnspacing=1.3, handlelength=1.4,
    )  # fmt: skip
    note = "change in points, from where its bar begins; bold: shown here (Holm-corrected p < 0.05)"
    if not table["adopted"].all():
        note += "; italic: not adopted by the paper"
    figure.text(0.25 / WIDTH, 0.1 / height, note, fontsize=8, color=PALETTE["muted"])
