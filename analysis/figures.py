"""Figures: the ladder, drawn like the paper's Figure 2, and learning curves."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, MultipleLocator

from analysis.context import SECTIONS
from analysis.ladder import Ladder
from analysis.provenance import describe
from analysis.style import LINES, PALETTE, style
from analysis.tables import macs_unit, percent, scaled, signed

# The ladder's layout in inches, from the left: section, rung, bars, change, MACs, the paper's numbers.
WIDTH, ROW, TOP, BOTTOM = 11.6, 0.33, 1.5, 1.0
SECTION_X, RUNG_X, BARS, CHANGE_X, MACS_X, PUBLISHED = 0.25, 3.95, (4.1, 7.75), 8.45, 9.15, (9.45, 11.35)


def ladder_figure(ladder: Ladder) -> Figure:
    """A bar a rung from ResNet at the top to ConvNeXt at the bottom, the paper's accuracies on an axis of their own.

    Hatched bars are the steps that the paper measured and did not adopt; error bars are one standard deviation
    over seeds.
    """
    with style():
        height = TOP + ROW * len(ladder.table) + BOTTOM
        figure = Figure(figsize=(WIDTH, height))
        page = _columns(figure, height, (0, WIDTH), len(ladder.table))
        page.set_xlim(0, WIDTH)
        page.axis("off")
        _draw_sections(page, ladder.table)
        _draw_texts(page, ladder.table)
        bars = _columns(figure, height, BARS, len(ladder.table))
        _draw_bars(bars, ladder.table)
        bars.set_xlabel(f"top-1 accuracy on {ladder.context.dataset} (%); the axis starts at {bars.get_xlim()[0]:g}")
        published = _columns(figure, height, PUBLISHED, len(ladder.table))
        _draw_published(published, ladder.table)
        _draw_titles(figure, height, ladder)
        return figure


def learning_curves(ladder: Ladder, epochs: pd.DataFrame) -> Figure:
    """Accuracy by epoch, a panel a section with its rungs in colour before all the others in grey.

    Lines are means over seeds, bands a standard deviation; dashed lines are steps not adopted. `epochs`: `Runs.epochs`.
    """
    curves = _curves(ladder, epochs)
    with style():
        figure = Figure(figsize=(WIDTH, 6.6))
        panels = figure.subplots(2, 3, sharex=True, sharey=True)
        figure.subplots_adjust(left=0.065, right=0.98, top=0.87, bottom=0.09, hspace=0.22, wspace=0.08)
        for panel, (section, title) in zip(panels.flat, SECTIONS.items(), strict=True):
            _draw_curves(panel, curves, ladder.table[ladder.table["section"] == section])
            panel.set_title(f"{section}  {title}", loc="left", fontsize=10, fontweight="bold")
        for panel in panels[-1]:
            panel.set_xlabel("epoch")
        for panel in panels[:, 0]:
            panel.set_ylabel("top-1 accuracy (%)")
        figure.text(0.065, 0.955, "Learning curves", fontsize=14, fontweight="bold")
        about = f"{ladder.context.scale}. Mean over seeds, band one standard deviation, dashed if not adopted."
        figure.text(0.065, 0.925, about, color=PALETTE["muted"])
        return figure


def _columns(figure: Figure, height: float, span: tuple[float, float], rows: int) -> Axes:
    """Axes between two distances from the left (inches), where y is the row, 0 at the top."""
    left, right = span
    box = (left / WIDTH, BOTTOM / height, (right - left) / WIDTH, ROW * rows / height)
    axes = figure.add_axes(box)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    return axes


def _draw_sections(page: Axes, table: pd.DataFrame) -> None:
    """A band and a name for each of the paper's sections."""
    for index, (section, rows) in enumerate(table.groupby("section", sort=False)):
        first, last = rows.index[0] - 0.5, rows.index[-1] + 0.5
        if index % 2 == 0:
            page.axhspan(first, last, xmin=0.12 / WIDTH, xmax=1 - 0.12 / WIDTH, color=PALETTE["band"], lw=0)
        middle = (first + last) / 2
        page.text(SECTION_X, middle, section, va="center", fontsize=8.5, color=PALETTE["muted"])
        page.text(SECTION_X + 0.34, middle, SECTIONS[section].replace(" ", "\n", 1), va="center", fontsize=8.5)


def _draw_texts(page: Axes, table: pd.DataFrame) -> None:
    """The columns of text: rung, change, multiply-adds."""
    unit, prefix = macs_unit(table["macs"])
    heads = {RUNG_X: "step", CHANGE_X: "change", MACS_X: f"MACs ({prefix})"}
    for x, head in heads.items():
        page.text(x, -0.85, head, ha="right", fontsize=8.5, color=PALETTE["muted"])
    ends = (table.index[0], table.index[-1])
    for row in table.itertuples():
        weight = "bold" if row.Index in ends else "normal"
        page.text(RUNG_X, row.Index, row.title, ha="right", va="center", fontweight=weight)
        clear = row.verdict in ("up", "down")
        page.text(
            CHANGE_X,
            row.Index,
            "" if pd.isna(row.parent) else signed(row.change),
            ha="right",
            va="center",
            fontweight="bold" if clear else "normal",
            color=PALETTE["ink" if clear else "muted"],
        )
        page.text(MACS_X, row.Index, scaled(row.macs, unit), ha="right", va="center")


def _draw_bars(axes: Axes, table: pd.DataFrame) -> None:
    """Mean accuracy, its standard deviation and its value; a note where there is no run."""
    done = table[table["n"] > 0]
    low, high, ticks = _axis(done)
    axes.set_xlim(low, high)
    axes.set_xticks(ticks)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    for row in done.itertuples():
        side = not row.adopted
        axes.barh(
            row.Index,
            row.top1_mean - low,
            left=low,
            height=0.68,
            color=PALETTE["side" if side else "bar"],
            edgecolor=PALETTE["bar"],
            hatch="////" if side else None,
            linewidth=0.7,
        )
        spread = 0 if pd.isna(row.top1_std) else row.top1_std
        if spread:
            axes.errorbar(row.top1_mean, row.Index, xerr=spread, color=PALETTE["ink"], capsize=2.5, lw=1)
        axes.annotate(
            percent(row.top1_mean, row.top1_std),
            (row.top1_mean + spread, row.Index),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    for row in table[table["n"] == 0].itertuples():
        axes.text(low, row.Index, "  no finished run", va="center", fontsize=8, style="italic", color=PALETTE["muted"])


def _axis(done: pd.DataFrame) -> tuple[float, float, list[float]]:
    """Start, end and ticks: the lowest bar has a length to see, the longest has room for its value."""
    if done.empty:
        return 0, 100, list(range(0, 101, 20))
    spread = done["top1_std"].fillna(0)
    lowest, highest = (done["top1_mean"] - spread).min(), (done["top1_mean"] + spread).max()
    lowest -= 0.15 * max(highest - lowest, 2)
    ticks = MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]).tick_values(max(lowest, 0), highest)
    end = highest + 0.3 * (highest - ticks[0])
    return ticks[0], end, [tick for tick in ticks if tick <= end]


def _draw_published(axes: Axes, table: pd.DataFrame) -> None:
    """The paper's accuracies, quietly: another dataset at another scale, so an axis of its own."""
    adopted = table[table["adopted"]]
    colour = PALETTE["published"]
    axes.plot(adopted["published_top1"], adopted.index, color=colour, lw=0.8, alpha=0.5)
    for row in table.itertuples():
        spread = None if pd.isna(row.published_std) else row.published_std
        face = colour if row.adopted else PALETTE["paper"]
        axes.errorbar(
            row.published_top1, row.Index, xerr=spread, fmt="o", ms=4, color=colour, mfc=face, lw=0.9, capsize=1.5
        )
    low, high = table["published_top1"].min(), table["published_top1"].max()
    axes.set_xlim(low - 0.1 * (high - low), high + 0.42 * (high - low))
    for row in table.itertuples():
        axes.annotate(
            f"{row.published_top1:.2f}",
            (row.published_top1, row.Index),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            color=PALETTE["muted"],
        )
    axes.xaxis.set_major_locator(MultipleLocator(2))
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.set_xlabel("ImageNet-1K top-1 (%)")


def _draw_titles(figure: Figure, height: float, ladder: Ladder) -> None:
    def write(x: float, from_top: float, text: str, **how: Any) -> None:
        figure.text(x / WIDTH, 1 - from_top / height, text, **how)

    write(SECTION_X, 0.42, "From ResNet to ConvNeXt, one step at a time", fontsize=16, fontweight="bold")
    write(SECTION_X, 0.72, ladder.context.scale, fontsize=10.5)
    write(SECTION_X, 0.95, describe(ladder), color=PALETTE["muted"])
    write(BARS[0], TOP - 0.13, "measured here", fontweight="bold")
    write(PUBLISHED[0], TOP - 0.13, "the paper's", fontweight="bold", color=PALETTE["published"])
    keys = [
        Patch(facecolor=PALETTE["bar"], edgecolor=PALETTE["bar"], label="adopted"),
        Patch(facecolor=PALETTE["side"], edgecolor=PALETTE["bar"], hatch="////", label="measured, not adopted"),
    ]
    figure.legend(
        handles=keys, loc="lower left", ncols=2, fontsize=8, bbox_to_anchor=(SECTION_X / WIDTH, 0.12 / height),
        borderaxespad=0, borderpad=0,
    )  # fmt: skip
    note = (
        "error bars: ± one standard deviation over seeds     change: from the parent step, in points; "
        "bold where its 95 % interval excludes 0"
    )
    figure.text(BARS[0] / WIDTH - 0.04, 0.16 / height, note, fontsize=8, color=PALETTE["muted"])


def _curves(ladder: Ladder, epochs: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation of top-1 by rung and epoch, over the runs that are counted."""
    runs = ladder.counted[["path", "rung"]].merge(epochs, on="path")
    return runs.groupby(["rung", "epoch"])["top1"].agg(["mean", "std"]).fillna({"std": 0.0})


def _draw_curves(panel: Axes, curves: pd.DataFrame, section: pd.DataFrame) -> None:
    measured = curves.index.unique("rung")
    for rung in measured.difference(section["rung"]):
        panel.plot(curves.loc[rung, "mean"], color=PALETTE["grid"], lw=0.9, zorder=1)
    for row, colour in zip(section.itertuples(), cycle(LINES), strict=False):
        if row.rung in measured:
            curve = curves.loc[row.rung]
            line = "-" if row.adopted else "--"
            panel.plot(curve["mean"], line, color=colour, lw=1.8, label=row.title, marker="o", ms=3)
            low, high = curve["mean"] - curve["std"], curve["mean"] + curve["std"]
            panel.fill_between(curve.index, low, high, color=colour, alpha=0.15, lw=0)
    panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    panel.grid(axis="y")
    if panel.get_legend_handles_labels()[0]:
        panel.legend(
            loc="lower right", fontsize=8, handlelength=3,
            frameon=True, facecolor=PALETTE["paper"], edgecolor="none", framealpha=0.85,
        )  # fmt: skip
