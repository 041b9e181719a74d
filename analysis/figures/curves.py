"""Learning curves."""

from __future__ import annotations

import math
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures.style import LINES, MARKERS, PALETTE, Drawing, blank, heading, style
from analysis.measures import measure
from analysis.text import wrapped
from roadmap.roads import OWN, Road

MOST_NETWORKS = 54
"""How many networks are named at most if no road groups them."""
PER_PANEL = 6
"""How many networks can be distinguished in one panel."""
MARKED_EPOCHS = 12
"""Up to how many epochs each has a marker."""
TITLE = "Learning curves"


def learning_curves_figure(runs: pd.DataFrame, epochs: pd.DataFrame, metric: str | None = None) -> Figure:
    """A measure by epoch: the mean over seeds, and one standard deviation as a band.

    Up to six networks share a panel; a ladder has one panel per section, with its rungs in colour (dashed if not
    adopted) in front of all other networks in grey.

    Args:
        runs: those to draw, of one comparison: `Comparison.counted`.
        epochs: `Runs.epochs`.
        metric: a column of `epochs`; by default the runs' main metric. If no epoch has it, the figure says so.
    """
    if not has_curves(runs, epochs, metric):
        named = metric or ", ".join(runs["metric"].unique()) or "anything"
        known = ", ".join(epochs.columns.drop(["path", "epoch"]))
        return blank(TITLE, f"No epoch of these runs has {named}; epochs can have {known}.")
    metric = metric or runs["metric"].iloc[0]
    curves = _curves(runs, epochs, metric)
    names = runs["network"].drop_duplicates()
    names = names[names.isin(curves.index.unique("network"))].tolist()
    with style():
        figure = _few(curves, names) if len(names) <= PER_PANEL else _panels(curves, runs["road"].iloc[0])
        for axes in figure.axes:
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.grid(axis="y")
            if axes.get_subplotspec().is_last_row():
                axes.set_xlabel("epoch")
            if axes.get_subplotspec().is_first_col():
                axes.set_ylabel(measure(metric).axis)
        heading(figure, TITLE, "mean over seeds; band: one standard deviation")
        return figure


def has_curves(runs: pd.DataFrame, epochs: pd.DataFrame, metric: str | None = None) -> bool:
    """Whether some epoch of these runs has the metric."""
    metric = metric or next(iter(runs["metric"]), None)
    if metric not in epochs:
        return False
    return not {*epochs.loc[epochs[metric].notna(), "path"].unique()}.isdisjoint(runs["path"])


def _curves(runs: pd.DataFrame, epochs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Mean and standard deviation by network and epoch."""
    networks = dict(zip(runs["path"], runs["network"], strict=True))  # pandas refuses a path that is not valid text
    paths = epochs["path"].astype("category").cat
    named = pd.DataFrame(
        {
            "network": np.array([networks.get(path) for path in paths.categories], object)[paths.codes],
            "epoch": epochs["epoch"],
            "value": epochs[metric],
        }
    ).dropna()
    return named.groupby(["network", "epoch"])["value"].agg(["mean", "std"]).fillna({"std": 0.0})


def _few(curves: pd.DataFrame, names: list[str]) -> Figure:
    """One panel, with each line labelled at its end."""
    figure = Drawing(figsize=(8.6, 4.8))
    axes = figure.subplots()
    figure.subplots_adjust(left=0.09, right=0.74, top=0.83, bottom=0.11)
    ends = []
    for name, colour, marker in zip(names, LINES, MARKERS, strict=False):
        curve = curves.loc[name]
        _line(axes, curve, name, colour, marker, "-")
        ends.append([curve["mean"].iloc[-1], name, colour, curve.index[-1]])
    ends.sort()
    low, high = axes.get_ylim()
    spacing, y = 0.055 * (high - low), -float("inf")
    for value, name, colour, last in ends:
        y = max(value, y + spacing)  # labels must not overlap
        axes.annotate(
            *(name, (last, value)),
            xytext=(1.02, y),
            textcoords=axes.get_yaxis_transform(),
            va="center",
            color=colour,
            fontweight="bold",
            annotation_clip=False,
        )
    return figure


def _panels(curves: pd.DataFrame, road: Road | None) -> Figure:
    """One panel per section of the road; without rungs, one per six networks, for the first `MOST_NETWORKS`."""
    measured = curves.index.unique("network")
    rungs = {rung.name: rung for rung in (road.rungs if road else ()) if rung.name in measured}
    panels = {
        f"{key}  {title}" if key not in (title, OWN) else title: [
            name for name, rung in rungs.items() if rung.section == key
        ]
        for key, title in (road.sections if road else ())
    }
    panels = {title: names for title, names in panels.items() if names}
    if not panels:
        starts = range(0, min(len(measured), MOST_NETWORKS), PER_PANEL)
        panels = {f"networks from {start + 1} on": measured[start : start + PER_PANEL].tolist() for start in starts}
    rows = math.ceil(len(panels) / 3)
    figure = Drawing(figsize=(11.6, 3.3 * rows if rows > 1 else 4.2))
    grid = figure.subplots(rows, 3, sharex=True, sharey=True, squeeze=False)
    figure.subplots_adjust(
        left=0.065, right=0.98, top=1 - 1.05 / figure.get_figheight(), bottom=0.6 / figure.get_figheight(),
        hspace=0.22, wspace=0.08,
    )  # fmt: skip
    for axes, (title, names) in zip(grid.flat, panels.items(), strict=False):
        for name in measured.difference(names):
            axes.plot(curves.loc[name, "mean"], color=PALETTE["grid"], lw=0.9, zorder=1)
        for name, colour, marker in zip(names, cycle(LINES), cycle(MARKERS), strict=False):
            rung = rungs.get(name)
            dashes = "-" if rung is None or rung.adopted else "--"
            _line(axes, curves.loc[name], wrapped(rung.title if rung else name, 34), colour, marker, dashes)
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
        axes.legend(
            loc="best", fontsize=8, handlelength=3,
            frameon=True, facecolor=PALETTE["paper"], edgecolor="none", framealpha=0.85,
        )  # fmt: skip
    for index in range(len(panels), 3 * rows):
        grid.flat[index].remove()
        if index >= 3:  # the panel above is the last of its column
            grid.flat[index - 3].tick_params(labelbottom=True)
            grid.flat[index - 3].set_xlabel("epoch")
    return figure


def _line(axes: Axes, curve: pd.DataFrame, name: str, colour: str, marker: str | None, dashes: str) -> None:
    marker = marker if len(curve) <= MARKED_EPOCHS else None
    axes.plot(curve["mean"], dashes, color=colour, lw=1.8, label=name, marker=marker, ms=4)
    if len(curve) > 1:
        low, high = curve["mean"] - curve["std"], curve["mean"] + curve["std"]
        axes.fill_between(curve.index, low, high, color=colour, alpha=0.15, lw=0)
    else:  # a band needs two epochs
        axes.errorbar(curve.index, curve["mean"], yerr=curve["std"], color=colour, capsize=2.5, lw=1)
