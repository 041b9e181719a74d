"""Accuracy against cost, and counted cost against measured cost."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from analysis.figures.labels import label_points
from analysis.figures.style import PALETTE, Drawing, blank, heading, style
from analysis.measures import measure
from analysis.statistics.costs import FRONTS
from analysis.text import macs_unit, scaled, step_name, whole, wrapped

COSTS = {
    "macs": "multiply-adds per image",
    "params": "parameters",
    "images_per_second": "training throughput (images/s)",
    "device_hours": "training time (device-hours per run)",
}
ROW = 0.3
PARETO, SPEED = "What accuracy costs", "Counted and real cost"


def pareto_figure(table: pd.DataFrame, cost: str = "macs") -> Figure:
    """Accuracy against a cost, one point per network of `cost_table`; the line is the Pareto front.

    Rungs of the ladder are filled, or hollow if not adopted; other networks are grey. Networks on the front are named.
    If no network's cost is known, the figure says so.

    Raises:
        ValueError: if there is no front of this cost.
    """
    if cost not in FRONTS:
        raise ValueError(f"no front of {cost!r}; there are {', '.join(FRONTS)}")
    smaller = FRONTS[cost]
    shown = table[table[cost].notna()]
    if shown.empty:
        return blank(PARETO, f"No finished run’s record has its {COSTS[cost]}.", table.attrs.get("scale", ""))
    rungs = shown[shown["adopted"].notna()]
    means = (rungs if len(rungs) > 1 else shown)["mean"]
    lowest = means.min() - (means.max() - means.min() + 1)
    below = int((shown["mean"] < lowest).sum())  # networks that failed to train would compress the scale of the others
    shown = shown[shown["mean"] >= lowest]
    unit = macs_unit(shown["macs"])[0] if cost == "macs" else 1e6 if cost == "params" else 1.0
    with style():
        figure = Drawing(figsize=(9.2, 5.6))
        axes = figure.add_axes((0.085, 0.11, 0.88, 0.735))
        front = shown[shown[f"front_{cost}"]].sort_values(cost)
        off_road = shown[shown["adopted"].isna()]
        axes.plot(off_road[cost] / unit, off_road["mean"], "o", ms=5, color=PALETTE["behind"], zorder=2)
        for row in rungs.itertuples():
            face = PALETTE["bar"] if row.adopted else PALETTE["paper"]
            x = getattr(row, cost) / unit
            if not pd.isna(row.std):
                axes.errorbar(x, row.mean, yerr=row.std, color=PALETTE["side"], lw=1, zorder=2)
            axes.plot(x, row.mean, "o", ms=7, color=PALETTE["bar"], mfc=face, mew=1.3, zorder=4)
        line: dict[str, Any] = {"color": PALETTE["published"], "lw": 1.3, "zorder": 3}
        axes.step(front[cost] / unit, front["mean"], where="post" if smaller else "pre", **line)
        axes.plot(front[cost] / unit, front["mean"], "o", ms=11, mfc="none", color=PALETTE["published"], zorder=5)
        names = {
            "macs": f"multiply-adds per image ({macs_unit(shown['macs'])[1]})",
            "params": "parameters (millions)",
        }
        axes.set_xlabel(names.get(cost, COSTS[cost]) + ("; less is better" if smaller else "; more is better"))
        metric = measure(table.attrs.get("metric", "top1"))
        axes.set_ylabel(metric.axis)
        axes.grid()
        axes.set_axisbelow(True)
        axes.margins(x=0.09, y=0.1)
        if smaller:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(10, (1, 2, 3, 5)))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        if below:
            percent = " %" if metric.percent else ""
            note = f"not shown: {below} {'network' if below == 1 else 'networks'} below {lowest:.0f}{percent}"
            axes.text(0.99, 0.02, note, ha="right", transform=axes.transAxes, fontsize=8, color=PALETTE["muted"])
        labels = [(getattr(row, cost) / unit, row.mean, wrapped(row.title, 42, 1)) for row in front.itertuples()]
        points = zip(shown[cost] / unit, shown["mean"], strict=True)
        label_points(axes, labels, points, fontsize=8, color=PALETTE["ink"], zorder=6)
        looks: dict[str, dict[str, Any]] = {
            "rung of the ladder": {"ls": "", "ms": 7, "color": PALETTE["bar"]},
            "not adopted": {"ls": "", "ms": 7, "color": PALETTE["bar"], "mfc": PALETTE["paper"]},
            "other network": {"ls": "", "ms": 5, "color": PALETTE["behind"]},
            "Pareto front": {"ms": 10, "mfc": "none", "color": PALETTE["published"]},
        }
        if off_road.empty:
            del looks["other network"]
        keys = [Line2D([], [], marker="o", label=label, **look) for label, look in looks.items()]
        figure.legend(handles=keys, loc="upper right", ncols=len(keys), fontsize=8, bbox_to_anchor=(0.975, 0.9))
        heading(figure, PARETO, table.attrs.get("scale", ""))
        return figure


def speed_figure(table: pd.DataFrame) -> Figure:
    """Counted and measured cost by rung of a `ladder_table`: multiply-adds, and images per second in training.

    The paper's steps keep the multiply-adds about level; the throughput decides how long one waits. Bars are relative
    to the first rung whose cost is known (dotted lines); numbers are absolute. If there is none, the figure says so.
    """
    shown = table[table["n"] > 0].reset_index(drop=True)
    if shown[["macs", "images_per_second"]].isna().all(axis=None):
        return blank(SPEED, "No rung has a finished run whose cost is known.", table.attrs.get("scale", ""))
    unit, prefix = macs_unit(shown["macs"])
    with style():
        height = 1.25 + ROW * len(shown) + 0.65
        figure = Drawing(figsize=(9.2, height))
        columns = {
            "macs": (f"multiply-adds ({prefix})", "behind", unit, 2),
            "images_per_second": ("images/s", "bar", 1, 0),
        }
        for (column, (title, colour, scale, digits)), left in zip(columns.items(), (0.235, 0.64), strict=True):
            axes = figure.add_axes((left, 0.5 / height, 0.275, ROW * len(shown) / height))
            _draw_costs(axes, shown, column, PALETTE[colour], scale, digits)
            axes.set_title(title, loc="left", fontsize=9.5, fontweight="bold", pad=6)
            axes.set_yticks(
                range(len(shown)), shown["title"].map(step_name).map(wrapped) if column == "macs" else [""] * len(shown)
            )
            axes.tick_params(axis="y", length=0, labelcolor=PALETTE["ink"])
        heading(figure, SPEED, table.attrs.get("scale", ""))
        note = "bars: relative to the first rung whose cost is known (dotted); images/s: median training throughput"
        figure.text(0.97, 0.12 / height, note, ha="right", fontsize=8, color=PALETTE["muted"])
        return figure


def _draw_costs(axes: Axes, shown: pd.DataFrame, column: str, colour: str, unit: float, digits: int) -> None:
    values = shown[column].astype(float)
    relative = values / next(iter(values.dropna()), 1.0)
    axes.barh(range(len(shown)), relative, height=0.66, color=colour)
    for index, (length, value) in enumerate(zip(relative.fillna(0), values, strict=True)):
        text = scaled(value, unit) if digits else whole(value)
        axes.annotate(
            *(text, (length, index)), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8,
            bbox={"fc": PALETTE["paper"], "ec": "none", "pad": 0.8},
        )  # fmt: skip
    axes.axvline(1, color=PALETTE["muted"], lw=0.8, ls=(0, (2, 3)), zorder=0)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(0, 1.25 * relative.max() if relative.max() > 1 else 1.25)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_xticks([])
