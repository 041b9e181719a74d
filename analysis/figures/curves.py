"""Learning curves."""

from __future__ import annotations

from itertools import cycle

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.context import SECTIONS
from analysis.style import LINES, MARKERS, PALETTE, Drawing, heading, style
from roadmap.steps import ladder

FEW = 6
"""Networks that a single panel can tell apart."""
MARKED = 12
"""Epochs up to which each is marked."""
LABELS = {
    **{"top1": "top-1 accuracy (%)", "top5": "top-5 accuracy (%)", "val_loss": "evaluation loss"},
    **{"train_loss": "training loss", "ema_top1": "top-1 accuracy of averaged weights (%)"},
}


def learning_curves_figure(runs: pd.DataFrame, epochs: pd.DataFrame, metric: str = "top1") -> Figure:
    """A measure by epoch: the mean over seeds, and one standard deviation as a band.

    Up to six networks share a panel; a ladder has a panel a section, its rungs in colour before all others in grey,
    dashed if not adopted.

    Args:
        runs: those to draw, of one comparison: `Comparison.counted`.
        epochs: `Runs.epochs`.
        metric: a column of `epochs`.

    Raises:
        ValueError: if the runs have no epochs with this measure.
    """
    curves = _curves(runs, epochs, metric)
    names = runs["network"].drop_duplicates()
    names = names[names.isin(curves.index.unique("network"))].tolist()
    if not names:
        raise ValueError(f"no epochs of these {len(runs)} runs have {metric!r}")
    with style():
        figure = _few(curves, names) if len(names) <= FEW else _panels(curves)
        for axes in figure.axes:
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.grid(axis="y")
            if axes.get_subplotspec().is_last_row():
                axes.set_xlabel("epoch")
            if axes.get_subplotspec().is_first_col():
                axes.set_ylabel(LABELS.get(metric, metric))
        heading(figure, "Learning curves", "mean over seeds; band: one standard deviation")
        return figure


def _curves(runs: pd.DataFrame, epochs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Mean and standard deviation by network and epoch."""
    networks = pd.Series(runs["network"].to_numpy(), index=runs["path"].to_numpy())
    epochs = epochs[epochs["path"].isin(networks.index)]
    named = pd.DataFrame(
        {
            "network": epochs["path"].astype("category").map(networks).astype(str),
            "epoch": epochs["epoch"],
            "value": epochs[metric],
        }
    ).dropna()
    return named.groupby(["network", "epoch"])["value"].agg(["mean", "std"]).fillna({"std": 0.0})


def _few(curves: pd.DataFrame, names: list[str]) -> Figure:
    """One panel, each line named at its end."""
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
    room, place = 0.055 * (high - low), -float("inf")
    for value, name, colour, last in ends:
        place = max(value, place + room)  # no label on another
        axes.annotate(
            *(name, (last, value)),
            xytext=(1.02, place),
            textcoords=axes.get_yaxis_transform(),
            va="center",
            color=colour,
            fontweight="bold",
            annotation_clip=False,
        )
    return figure


def _panels(curves: pd.DataFrame) -> Figure:
    """A panel a section of the paper."""
    figure = Drawing(figsize=(11.6, 6.6))
    panels = figure.subplots(2, 3, sharex=True, sharey=True)
    figure.subplots_adjust(left=0.065, right=0.98, top=0.84, bottom=0.09, hspace=0.22, wspace=0.08)
    measured = curves.index.unique("network")
    for axes, (section, title) in zip(panels.flat, SECTIONS.items(), strict=True):
        rungs = [rung for rung in ladder() if rung.section == section and rung.name in measured]
        for other in measured.difference([rung.name for rung in rungs]):
            axes.plot(curves.loc[other, "mean"], color=PALETTE["grid"], lw=0.9, zorder=1)
        for rung, colour, marker in zip(rungs, cycle(LINES), cycle(MARKERS), strict=False):
            _line(axes, curves.loc[rung.name], rung.title, colour, marker, "-" if rung.adopted else "--")
        axes.set_title(f"{section}  {title}", loc="left", fontsize=10, fontweight="bold")
        if rungs:
            axes.legend(
                loc="best", fontsize=8, handlelength=3,
                frameon=True, facecolor=PALETTE["paper"], edgecolor="none", framealpha=0.85,
            )  # fmt: skip
    return figure


def _line(axes: Axes, curve: pd.DataFrame, name: str, colour: str, marker: str, dashes: str) -> None:
    often = len(curve) <= MARKED
    axes.plot(curve["mean"], dashes, color=colour, lw=1.8, label=name, marker=marker if often else None, ms=4)
    if len(curve) > 1:
        low, high = curve["mean"] - curve["std"], curve["mean"] + curve["std"]
        axes.fill_between(curve.index, low, high, color=colour, alpha=0.15, lw=0)
    else:  # a band needs two epochs
        axes.errorbar(curve.index, curve["mean"], yerr=curve["std"], color=colour, capsize=2.5, lw=1)
