"""The effect of each step or section."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.style import LINES, MARKERS, PALETTE, Drawing, blank, heading, style
from analysis.measures import VERDICTS, measure
from analysis.text import quantity, step_name, wrapped

KINDS = {
    "road": "on the road: from the rung before",
    "leave_one_out": "leave one out: all steps, minus all but this",
    "add_one_in": "add one in: the base and this, minus the base",
    "shapley": "Shapley value, from random orders",
}
ROW = 0.44


def effects_figure(table: pd.DataFrame) -> Figure:
    """One row per step of `effect_table`, one marker per way of measuring its effect, with its 95 % interval.

    Markers are filled where the effect is shown (Holm-corrected p < 0.05), hollow where it is not.
    """
    table = table[table["kind"].isin(KINDS)]
    title, about = "What is each step worth?", table.attrs.get("scale", "")
    if table["effect"].isna().all():
        return blank(title, "No two networks with finished runs differ in a step of the road alone.", about)
    kinds = [kind for kind in KINDS if (table["kind"] == kind).any()]
    steps = table.drop_duplicates("step")[["step", "title", "section"]].reset_index(drop=True)
    rows_of = {step: index for index, step in enumerate(steps["step"])}
    with style():
        height = 1.0 + 0.2 * math.ceil(len(kinds) / 2) + ROW * len(steps) + 0.75
        figure = Drawing(figsize=(9.2, height))
        axes = figure.add_axes((0.235, 0.75 / height, 0.735, ROW * len(steps) / height))
        for index, (_, rows) in enumerate(steps.groupby("section", sort=False)):
            if index % 2 == 0:
                axes.axhspan(rows.index[0] - 0.5, rows.index[-1] + 0.5, color=PALETTE["band"], lw=0, zorder=0)
        for index, kind in enumerate(kinds):
            offset = 0.22 * (index - (len(kinds) - 1) / 2)
            look = {"color": LINES[index], "marker": MARKERS[index]}
            for row in table[(table["kind"] == kind) & table["effect"].notna()].itertuples():
                draw_effect(axes, row.effect, row.low, row.high, rows_of[row.step] + offset, row.verdict, **look)
        _finish(axes, steps["title"].map(step_name).map(wrapped), table.attrs)
        keys = [
            Line2D([], [], color=LINES[index], marker=MARKERS[index], ms=6, label=KINDS[kind])
            for index, kind in enumerate(kinds)
        ]
        figure.legend(
            handles=keys, loc="upper left", ncols=2, fontsize=8, bbox_to_anchor=(0.235, 1 - 0.82 / height),
            borderaxespad=0, borderpad=0, columnspacing=1.5,
        )  # fmt: skip
        heading(figure, title, about)
        _legend(figure)
        return figure


def besides_figure(table: pd.DataFrame, kind: str = "besides") -> Figure:
    """One row per pair of networks of `effect_table`'s "besides", or of "elsewhere": the effect of a step, and its 95 %
    interval, on the network that it was added to.

    Markers are filled where the effect is shown (Holm-corrected p < 0.05), hollow where it is not.
    """
    rows = table[table["kind"] == kind].reset_index(drop=True)
    steps = "the steps bring that are on no rung of the road" if kind == "besides" else "steps bring on other rungs"
    title, about = f"What {steps}", table.attrs.get("scale", "")
    if rows.empty:
        return blank(title, "No two networks with finished runs differ in such a step alone.", about)
    with style():
        height = 1.0 + ROW * len(rows) + 0.85
        figure = Drawing(figsize=(9.2, height))
        axes = figure.add_axes((0.36, 0.75 / height, 0.61, ROW * len(rows) / height))
        for index, (_, same) in enumerate(rows.groupby("step", sort=False)):
            look = {"color": LINES[index % len(LINES)], "marker": MARKERS[index % len(MARKERS)]}
            for row in same.itertuples():
                draw_effect(axes, row.effect, row.low, row.high, row.Index, row.verdict, **look)
        names = [wrapped(f"{row.step} on {row.on}", 42) for row in rows.itertuples()]
        _finish(axes, pd.Series(names), table.attrs)
        heading(figure, title, about)
        _legend(figure)
        return figure


def shapley_figure(table: pd.DataFrame) -> Figure:
    """One row per section of `shapley_table`, or a step of `shapley_from_orders`, with its 95 % interval.

    Marks are filled where the value is shown (Holm-corrected p < 0.05), hollow where it is not.
    """
    title, about = "Shapley values: what each is worth, in any order", table.attrs.get("scale", "")
    if table.empty:
        return blank(title, f"{table.attrs['missing']}.", about)
    names = table["title"].map(step_name) if "title" in table else table["section"]
    with style():
        height = 1.0 + 0.4 * len(table) + 0.75
        figure = Drawing(figsize=(7.6, height))
        axes = figure.add_axes((0.27, 0.68 / height, 0.58, 0.4 * len(table) / height))
        for index, row in enumerate(table.itertuples()):
            draw_effect(axes, row.value, row.low, row.high, index, row.verdict, color=LINES[0], marker=MARKERS[0])
            text = quantity(row.value, table.attrs.get("unit", "points"), signed=True)
            axes.text(1.02, index, text, va="center", transform=axes.get_yaxis_transform())
        _finish(axes, names.map(wrapped), table.attrs)
        heading(figure, title, about)
        _legend(figure)
        return figure


def _legend(figure: Figure) -> None:
    text = "bars: 95 % interval; filled: shown (Holm-corrected p < 0.05)"
    figure.text(0.97, 0.1 / figure.get_figheight(), text, ha="right", fontsize=8, color=PALETTE["muted"])


def draw_effect(
    axes: Axes, value: float, low: float, high: float, y: float, verdict: str, *, color: str, marker: str
) -> None:
    """A marker with its interval, filled where the effect is shown."""
    if not pd.isna(low):
        axes.plot([low, high], [y, y], color=color, lw=1.3, solid_capstyle="butt", zorder=2)
    face = color if verdict in VERDICTS else PALETTE["paper"]
    axes.plot(value, y, marker, ms=6, color=color, mfc=face, mew=1.3, zorder=3)


def _finish(axes: Axes, names: pd.Series, attrs: dict) -> None:
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0, labelsize=9, labelcolor=PALETTE["ink"])
    axes.spines["left"].set_visible(False)
    axes.axvline(0, color=PALETTE["muted"], lw=0.9, zorder=1)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    value = measure(attrs.get("value") or attrs.get("metric", "top1"))
    axes.set_xlabel(f"change of {value.name}" + (f" ({value.unit})" if value.unit else ""))
