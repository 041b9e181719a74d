"""Effects and accuracies over budgets: epochs, or training images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from analysis.figures.style import LINES, MARKERS, PALETTE, Drawing, blank, heading, style
from analysis.measures import VERDICTS, measure
from analysis.statistics.budgets import BudgetStudy, budget_table, scaling_table, slope_table
from analysis.text import interval, signed, wrapped

COLUMNS = 3
"""Panels beside each other."""
MOST_PANELS = 24
BEYOND = 1.0
"""Doublings of the largest budget for which a line is continued."""


def budgets_figure(study: BudgetStudy) -> Figure:
    """One panel per pair of networks of a `BudgetStudy`: their difference by budget with its 95 % interval, and the
    straight line through it, dotted for one doubling beyond what was measured. On zero, the 95 % interval of the budget
    where the line crosses it, where that is within what was measured.

    Markers are filled where the difference is shown (Holm-corrected p < 0.05 within the budget), hollow where it is
    not.
    """
    effects, slopes = budget_table(study), slope_table(study)
    attrs, shown = slopes.attrs, slopes.head(MOST_PANELS)
    columns = 2 if len(shown) == 4 else min(COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    with style():
        figure = Drawing(figsize=(9.2 if columns < 3 else 11.6, 1.5 + 2.75 * rows))
        width, height = figure.get_size_inches()
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        figure.subplots_adjust(
            left=0.75 / width, right=1 - 0.2 / width, top=1 - 1.35 / height, bottom=0.85 / height,
            hspace=0.52, wspace=0.08,
        )  # fmt: skip
        for index, (axes, line) in enumerate(zip(grid.flat, shown.itertuples(), strict=False)):
            _draw_effects(axes, effects.iloc[index :: len(slopes)], line)
            axes.set_title(wrapped(line.title, 44, 1), loc="left", fontsize=10, fontweight="bold", pad=16)
            slope = f"{signed(line.slope)} per doubling" + (
                f" ({interval(line.low, line.high)})" if not pd.isna(line.low) else ""
            )
            axes.annotate(
                *(slope, (0, 1)), xycoords="axes fraction", xytext=(0, 4), textcoords="offset points", fontsize=8.5,
                color=PALETTE["ink" if line.verdict in VERDICTS else "muted"],
                fontweight="bold" if line.verdict in VERDICTS else "normal",
            )  # fmt: skip
            _set_budgets(axes, study.budgets)
            axes.set_xlim(math.log2(study.budgets[0]) - 0.3, math.log2(study.budgets[-1]) + BEYOND)
            axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
            axes.grid(axis="y")
            axes.set_axisbelow(True)
            axes.tick_params(labelbottom=True)
            if index + columns >= len(shown):
                axes.set_xlabel(attrs["budget_unit"])
        for axes in grid.flat[len(shown) :]:
            axes.remove()
        metric = measure(attrs["metric"])
        unit = f" ({metric.unit})" if metric.unit else ""
        figure.supylabel(f"difference in {metric.name}{unit}", x=0.12 / width, fontsize=9, color=PALETTE["muted"])
        _heading(figure, study.question, attrs)
        more = f"not drawn: {len(slopes) - len(shown)} more pairs; " if len(slopes) > len(shown) else ""
        note = (
            f"{more}bars: 95 % interval; filled, bold: shown (p < 0.05 after Holm); dotted: the line beyond what was "
            "measured; on zero: 95 % interval of the crossing"
        )
        figure.text(1 - 0.2 / width, 0.12 / height, note, ha="right", fontsize=8, color=PALETTE["muted"])
        return figure


def scaling_figure(study: BudgetStudy) -> Figure:
    """Accuracy over training images, of the first rung, the road's base and its last rung, with 95 % intervals: how
    many images they are trained on or, in a study of epochs, how many they see. If none of them was measured, the
    figure says so."""
    table = scaling_table(study)
    attrs = table.attrs
    title = "What more training images bring" if study.kind == "images" else "What longer training brings"
    if table.empty:
        reason = "Neither the first rung nor the road’s base nor its last rung has finished runs."
        return blank(title, reason, attrs["scale"])
    with style():
        figure = Drawing(figsize=(8.6, 5.2))
        axes = figure.add_axes((0.09, 0.14, 0.88, 0.61))
        rungs = table["rung"].unique()
        roles = {study.road.rungs[0].name: "first rung", study.road.base: "base"}
        span = math.log2(table["images"].max() / table["images"].min())
        for index, (name, colour, marker) in enumerate(zip(rungs, LINES, MARKERS, strict=False)):
            rows = table[table["rung"] == name]
            x = np.log2(rows["images"].astype(float)) + 0.008 * span * (index - (len(rungs) - 1) / 2)
            bars = np.nan_to_num([rows["mean"] - rows["mean_low"], rows["mean_high"] - rows["mean"]])
            look: dict[str, Any] = {"color": colour, "marker": marker, "ms": 6, "lw": 1.6, "elinewidth": 1.2}
            axes.errorbar(x, rows["mean"], yerr=bars, label=f"{name} ({roles.get(name, 'last rung')})", **look)
        _set_budgets(axes, sorted(table["images"].unique()))
        seen = "training images" if study.kind == "images" else "training images seen: their number, times epochs"
        axes.set_xlabel(seen)
        axes.set_ylabel(measure(attrs["metric"]).axis)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.margins(x=0.05)
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1.01), ncols=len(rungs), fontsize=8.5, handlelength=3, borderaxespad=0
        )
        _heading(figure, title, attrs)
        note = "bars: 95 % interval of a mean over seeds"
        figure.text(0.97, 0.015, note, ha="right", fontsize=8, color=PALETTE["muted"])
        return figure


def _heading(figure: Figure, title: str, attrs: dict[str, Any]) -> None:
    """A title, and two lines below it."""
    width, height = figure.get_size_inches()
    heading(figure, title, attrs["scale"])
    figure.text(0.25 / width, 1 - 0.8 / height, attrs["about"], color=PALETTE["muted"])


def _draw_effects(axes: Axes, effects: pd.DataFrame, line: Any) -> None:
    """The points of a pair, and its line."""
    colour = LINES[0]
    axes.axhline(0, color=PALETTE["muted"], lw=0.9, zorder=1)
    for row in effects[effects["effect"].notna()].itertuples():
        x = math.log2(row.budget)
        if not pd.isna(row.low):
            axes.plot([x, x], [row.low, row.high], color=colour, lw=1.3, solid_capstyle="butt", zorder=3)
        face = colour if row.verdict in VERDICTS else PALETTE["paper"]
        axes.plot(x, row.effect, MARKERS[0], ms=6, color=colour, mfc=face, mew=1.3, zorder=4)
    if pd.isna(line.slope):
        return
    used = np.log2([budget for budget in effects["budget"] if budget not in line.missing])
    for ends, dashes in (((used[0], used[-1]), "-"), ((used[-1], used[-1] + BEYOND), (0, (1, 2)))):
        axes.plot(ends, line.level + line.slope * np.array(ends), color=PALETTE["side"], lw=1.8, ls=dashes, zorder=2)
    if not pd.isna(line.crossing_low) and not pd.isna(line.crossing_high):
        axes.plot(
            np.log2([line.crossing_low, line.crossing_high]),
            [0, 0],
            color=LINES[1],
            lw=5,
            alpha=0.55,
            solid_capstyle="butt",
            zorder=2,
        )
        axes.plot(math.log2(line.crossing), 0, "|", ms=10, mew=1.6, color=LINES[1], zorder=4)


def _set_budgets(axes: Axes, budgets: list[int]) -> None:
    axes.set_xticks(np.log2(budgets), [f"{budget:,.0f}" for budget in budgets])
    axes.xaxis.set_minor_locator(NullLocator())
