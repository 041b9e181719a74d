"""A road on two axes, accuracy and measured speed; and how little multiply-adds say about the latter."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis.figures.labels import label_points
from analysis.figures.style import PALETTE, Drawing, blank, heading, style
from analysis.measures import measure
from analysis.statistics.latency import SETTING, setting_words, workload_words, workloads_of
from analysis.text import step_name, stretches, whole, wrapped

WIDTH, TOP, BOTTOM = 12.4, 1.42, 0.85
"""Inches; the axes are between them."""
ROW = 0.29
MAIN, SIDE = (0.75, 7.5), (9.85, 12.1)
"""From left to right, in inches: the road, and multiply-adds beside speed."""
NAMES = 7.7
"""Where the names beside the latter begin, at most."""
NEIGHBOURS = 3
"""Of a point, how near they are says how much room it has."""
ON_LINE = 6
"""Points of a line between two rungs, its ends included, that labels do not cover."""
LONGEST = 30
"""Characters of a rung's name; the rest is cut."""
LINE: dict[str, Any] = {"shrinkA": 3, "shrinkB": 4.5, "alpha": 0.75}
ROAD = LINE | {"arrowstyle": "-|>,head_width=0.16,head_length=0.32", "color": PALETTE["bar"], "lw": 1.4}
BRANCH = LINE | {"arrowstyle": "-", "color": PALETTE["muted"], "lw": 0.8, "ls": (0, (4, 3))}
RATIOS = {1: (0.6, 0.8, 1, 1.3), 2: (0.25, 0.5, 0.7, 1, 1.4, 2, 4), 8: (1 / 16, 1 / 4, 1, 4, 16)}
"""Ticks, by how many doublings there are at least."""
TITLE = "accuracy and real speed"
PUBLISHED_RESOLUTION = 224


def road_figure(
    table: pd.DataFrame, accuracy: pd.DataFrame | None = None, *, mode: str = "inference", batch: int | None = None
) -> Figure:
    """Left: the rungs of a `latency_table` by images per second (x) and accuracy (y), joined in the road's order; those
    that were not adopted are hollow, on a thin line from their parent. Right: their multiply-adds beside their speed,
    both relative to the first rung (dotted). Bars are the quartiles of the rounds.

    Args:
        table: of one setting; others are an error, as `table[table["precision"] == "bf16"]` avoids.
        accuracy: a `ladder_table` of runs of the same road, for accuracies measured here with their standard deviation
            over seeds. By default they are the published ones of the road, which the figure says.
        mode: inference, or training.
        batch: images per pass; by default the most that were timed.

    Raises:
        ValueError: if the table has several settings, or none of such a mode and batch size.
    """
    rungs = table[table["rung"].notna()]
    if rungs.empty:
        return blank(f"The road: {TITLE}", "No speed of a rung was measured.")
    if several := [name for name in ("road", *SETTING) if rungs[name].nunique(dropna=False) > 1]:
        raise ValueError(f"the table has several settings, of {', '.join(several)}; take the rows of one")
    shown = _workload(rungs, mode, batch)
    first = shown.iloc[0]
    title = f"{wrapped(first['road'].title or first['road'].name, 40, 1)}: {TITLE}"
    about = f"{workload_words(first)}, {first['regime']} networks, {first['resolution']} px, on {setting_words(first)}"
    shown = _with_accuracy(shown, accuracy)
    if shown["accuracy"].isna().all():
        return blank(title, "No accuracy of these rungs is known: none was published, and none is given.", about)
    with style():
        height = TOP + BOTTOM + ROW * max(len(shown), 12)
        figure = Drawing(figsize=(WIDTH, height))
        main, side = (
            figure.add_axes((left / WIDTH, BOTTOM / height, (right - left) / WIDTH, 1 - (TOP + BOTTOM) / height))
            for left, right in (MAIN, SIDE)
        )
        metric = measure("top1" if accuracy is None else accuracy.attrs.get("metric", "top1"))
        _draw_road(main, shown[shown["accuracy"].notna()])
        main.set_ylabel(f"{metric.axis}, {'as published' if accuracy is None else 'measured here'}")
        _draw_ratios(side, shown)
        heading(figure, title, f"Speed measured here: {about}.")
        colour = PALETTE["bar" if accuracy is not None else "published" if _is_papers(first) else "line2"]
        source = accuracy_source(first, accuracy)
        figure.text(0.25 / WIDTH, 1 - 0.84 / height, source, color=colour, fontweight="bold")
        _draw_legend(figure, shown)
        return figure


def _workload(rungs: pd.DataFrame, mode: str, batch: int | None) -> pd.DataFrame:
    of_mode = rungs[rungs["mode"] == mode]
    shown = of_mode[of_mode["batch"] == (of_mode["batch"].max() if batch is None else batch)]
    if shown.empty:
        known = "; ".join(workload_words(rows.iloc[0]) for rows in workloads_of(rungs))
        raise ValueError(f"nothing was measured of mode {mode!r}, batch {batch}, but of {known}")
    return shown.reset_index(drop=True)


def _with_accuracy(shown: pd.DataFrame, accuracy: pd.DataFrame | None) -> pd.DataFrame:
    if accuracy is None:
        return shown.assign(accuracy=shown["published_top1"], deviation=shown["published_std"])
    measured = accuracy.set_index("rung")[["mean", "std"]].astype(float).reindex(shown["rung"])
    return shown.assign(accuracy=measured["mean"].to_numpy(), deviation=measured["std"].to_numpy())


def accuracy_source(first: Mapping[str, Any], accuracy: pd.DataFrame | None) -> str:
    """Where the accuracies come from, as loudly as it must be said. `first`: a row of a `latency_table`."""
    if accuracy is not None:
        return f"Accuracy measured here: {accuracy.attrs.get('scale', 'these runs')}."
    if _is_papers(first):
        return "Accuracy: the paper’s, published for ImageNet-1K at 224 px, not measured here."
    return (
        f"Accuracy: the paper’s, of its full-size networks ({first['road'].published}) on ImageNet-1K at 224 px; "
        "not of these networks, and not measured here."
    )


def _is_papers(first: Mapping[str, Any]) -> bool:
    """Whether the published accuracies are of these networks."""
    return first["regime"] == first["road"].published and first["resolution"] == PUBLISHED_RESOLUTION


def _draw_road(axes: Axes, shown: pd.DataFrame) -> None:
    """The rungs, the lines between them, and their names."""
    points = shown[["images_per_second", "accuracy"]].to_numpy(float)
    axes.set_xlabel("images per second, measured here; more is better")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: whole(x) if x >= 10 else f"{x:g}"))
    axes.grid()
    axes.set_axisbelow(True)
    axes.margins(x=0.12, y=0.08)
    _draw_points(axes, shown)
    on_lines = _draw_lines(axes, shown, points)
    names = [wrapped(step_name(title), LONGEST, 1) for title in shown["title"]]
    labels = [(*points[index], names[index]) for index in _crowded_first(axes, points)]
    label_points(axes, labels, on_lines, fontsize=8, color=PALETTE["ink"], zorder=6)


def _draw_points(axes: Axes, shown: pd.DataFrame) -> None:
    bar: dict[str, Any] = {"color": PALETTE["side"], "lw": 1.4, "zorder": 2, "solid_capstyle": "butt"}
    for row in shown.itertuples():
        x, y = row.images_per_second, row.accuracy
        axes.plot([row.images_per_second_low, row.images_per_second_high], [y, y], **bar)
        if not pd.isna(row.deviation):
            axes.plot([x, x], [y - row.deviation, y + row.deviation], **bar)
        face = PALETTE["bar"] if row.adopted else PALETTE["paper"]
        axes.plot(x, y, "o", ms=7, color=PALETTE["bar"], mfc=face, mew=1.3, zorder=4)


def _draw_lines(axes: Axes, shown: pd.DataFrame, points: np.ndarray) -> list[tuple[float, float]]:
    """An arrow to each adopted rung from the one before it, and thin lines to the side branches. Returns points on
    them."""
    point_of = dict(zip(shown["rung"], points, strict=True))
    before = None
    on_lines: list[tuple[float, float]] = []
    for row, end in zip(shown.itertuples(), points, strict=True):
        start = before if row.adopted else point_of.get(row.parent)
        if start is not None:
            axes.annotate("", end, start, arrowprops=ROAD if row.adopted else BRANCH, zorder=3)
            on_lines += np.linspace(start, end, ON_LINE)[1:-1].tolist()
        before = end if row.adopted else before
    return on_lines


def _crowded_first(axes: Axes, points: np.ndarray) -> np.ndarray:
    """The order in which points get their labels: those with little room choose first."""
    axes.get_xlim(), axes.get_ylim()  # makes matplotlib fix the limits, on which positions depend
    pixels = axes.transData.transform(points)
    distances = np.sort(np.linalg.norm(pixels[:, None] - pixels, axis=2), axis=1)
    return np.argsort(distances[:, 1 : 1 + NEIGHBOURS].sum(axis=1), kind="stable")


def _draw_ratios(axes: Axes, shown: pd.DataFrame) -> None:
    """A row per rung: multiply-adds and speed relative to the first, joined where they differ."""
    axes.set_xscale("log", base=2)
    ends = shown[["relative", "relative_low", "relative_high", "relative_macs"]].stack()
    low, high = 0.9 * min(ends.min(), 0.7), max(ends.max(), 1.4) / 0.9
    axes.set_xlim(low, high)
    doublings = math.log2(high / low)
    axes.xaxis.set_major_locator(FixedLocator(RATIOS[max(least for least in RATIOS if least <= doublings)]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}×"))
    axes.set_ylim(len(shown) - 0.5, -0.5)
    names_from = (NAMES - SIDE[0]) / (SIDE[1] - SIDE[0])
    for index, (_, rows) in enumerate(stretches(shown)):
        if index % 2 == 0:
            ends_of_rows = rows.index[0] - 0.5, rows.index[-1] + 0.5
            axes.axhspan(*ends_of_rows, xmin=names_from, clip_on=False, color=PALETTE["band"], lw=0, zorder=0)
    axes.axvline(1, color=PALETTE["muted"], lw=0.8, ls=(0, (2, 3)), zorder=1)
    for row in shown.itertuples():
        axes.plot([row.relative_macs, row.relative], [row.Index] * 2, color=PALETTE["grid"], lw=2, zorder=1)
        axes.plot([row.relative_low, row.relative_high], [row.Index] * 2, color=PALETTE["bar"], lw=1.2, zorder=3)
        axes.plot(
            row.relative_macs, row.Index, "s", ms=5.5, color=PALETTE["behind"], mec=PALETTE["muted"], mew=0.7, zorder=4
        )
        face = PALETTE["bar"] if row.adopted else PALETTE["paper"]
        axes.plot(row.relative, row.Index, "o", ms=6.5, color=PALETTE["bar"], mfc=face, mew=1.3, zorder=5)
    axes.set_yticks(range(len(shown)), [wrapped(step_name(title), LONGEST, 1) for title in shown["title"]])
    for label, adopted in zip(axes.get_yticklabels(), shown["adopted"], strict=True):
        label.set_fontstyle("normal" if adopted else "italic")
    axes.tick_params(axis="y", length=0, labelcolor=PALETTE["ink"])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("relative to the first rung")


def _draw_legend(figure: Figure, shown: pd.DataFrame) -> None:
    height = figure.get_figheight()
    rung: dict[str, Any] = {"marker": "o", "ms": 7, "color": PALETTE["bar"], "mew": 1.3}
    keys = [Line2D([], [], lw=1.3, label="rung of the road", **rung)]
    if not shown["adopted"].all():
        keys.append(Line2D([], [], ls="", mfc=PALETTE["paper"], label="measured, not adopted", **rung))
    keys.append(Line2D([], [], color=PALETTE["side"], lw=1.6, label="quartiles of the rounds; ± std of seeds"))
    where: dict[str, Any] = {"loc": "lower left", "fontsize": 8, "borderpad": 0, "borderaxespad": 0}
    top = 1 - (TOP - 0.12) / height
    figure.legend(handles=keys, ncols=len(keys), bbox_to_anchor=(MAIN[0] / WIDTH, top), **where)
    square: dict[str, Any] = {"marker": "s", "ms": 5.5, "color": PALETTE["behind"], "mec": PALETTE["muted"]}
    keys = [Line2D([], [], ls="", label="multiply-adds", **square), Line2D([], [], ls="", label="speed", **rung)]
    figure.legend(handles=keys, ncols=2, bbox_to_anchor=(SIDE[0] / WIDTH, top), **where)
