"""What each level of a crossed switch is worth."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.style import LINES, MARKERS, PALETTE, Drawing, blank, heading, style
from analysis.measures import VERDICTS, measure
from analysis.statistics.crossing import Factor
from analysis.statistics.factors import Factorial
from analysis.text import wrapped
from roadmap.common.words import shortened

MOST_LINES = 4
"""How many levels of another factor are drawn as lines at most."""


def factor_figure(factorial: Factorial, factor: str) -> Figure:
    """The levels of a factor and their adjusted means; beside them, if there is another factor, the same for each of
    its levels, for that on which the effects depend most.

    A bar is the 95 % interval of the difference from the reference, whose mean is the dashed line, so a bar that
    crosses the line includes no difference. Marks are filled where the effect is shown (Holm-corrected p < 0.05).

    Raises:
        ValueError: if there is no such factor.
    """
    chosen, names = factorial.factor(factor), [each.name for each in factorial.factors]
    effects = factorial.effects[factorial.effects["factor"] == factor].reset_index(drop=True)
    attrs = factorial.effects.attrs
    title, about = f"What {factor} is worth", attrs["scale"]
    if effects["effect"].isna().all():
        return blank(title, "No two of its levels can be compared: networks have no finished run.", about)
    other, others = strongest(factorial, factor), [name for name in names if name != factor]
    simple = factorial.simple_effects
    simple = simple[(simple["factor"] == factor) & (simple["other"] == other)]
    with style():
        figure = Drawing(figsize=(9.2, 4.1))
        left = figure.add_axes((0.08, 0.2, 0.38 if other else 0.62, 0.56))
        _networks(left, factorial, chosen)
        _line(left, effects, 0.0, LINES[0], MARKERS[0])
        axes, heads = [left], [f"averaged over {shortened(others, 2)}" if other else ""]
        if other:
            right = figure.add_axes((0.55, 0.2, 0.38, 0.56), sharey=left)
            right.tick_params(labelleft=False)
            groups = list(simple.groupby("other_level", sort=False))
            for index, (_, rows) in enumerate(groups):
                offset = 0.12 * (index - (len(groups) - 1) / 2)
                _line(right, rows.reset_index(drop=True), offset, LINES[index + 1], MARKERS[index + 1], joined=True)
            keys = [
                Line2D(
                    [],
                    [],
                    color=LINES[index + 1],
                    marker=MARKERS[index + 1],
                    ms=5,
                    mfc=PALETTE["paper"],
                    label=str(level),
                )
                for index, (level, _) in enumerate(groups)
            ]
            right.legend(handles=keys, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(keys))
            axes.append(right)
            heads.append(f"by {other}")
        for each, head in zip(axes, heads, strict=True):
            each.set_title(head, loc="left", fontsize=9, color=PALETTE["muted"])
            each.set_xticks(range(len(effects)), [wrapped(level, 14) for level in effects["level"]])
            each.set_xlim(-0.5, len(effects) - 0.5)
            each.set_xlabel(factor)
            each.grid(axis="y")
            each.set_axisbelow(True)
        left.set_ylabel(measure(attrs["value"]).axis)
        heading(figure, title, about)
        text = "bars: 95 % interval of the difference from the dashed line; filled: shown (Holm); grey: single networks"
        figure.text(0.97, 0.03, text, ha="right", fontsize=8, color=PALETTE["muted"])
        return figure


def strongest(factorial: Factorial, factor: str) -> str | None:
    """The other factor with few enough levels on which this one's effects depend most, by their interactions' p."""
    few = {each.name for each in factorial.factors if len(each.levels) <= MOST_LINES} - {factor}
    table = factorial.interactions
    partners = table["other"].where(table["factor"] == factor, table["factor"].where(table["other"] == factor))
    smallest = table["p"].fillna(1.0).groupby(partners[partners.isin(few)], sort=False).min()
    return str(smallest.idxmin()) if len(smallest) else None


def _networks(axes: Axes, factorial: Factorial, factor: Factor) -> None:
    """Each network's mean, as a faint point."""
    for index, level in enumerate(factor.levels):
        means = [factorial.scores[key].mean() for key in factorial.measured if factor.level_of[key] == level]
        axes.plot([index - 0.18] * len(means), means, "o", ms=4, mfc="none", mec=PALETTE["behind"], mew=1.2, zorder=1)


def _line(axes: Axes, rows: pd.DataFrame, offset: float, color: str, marker: str, *, joined: bool = False) -> None:
    """The means of a factor's levels, in order, with the intervals of their differences from the reference."""
    start = rows["mean"][rows["level"] == rows["reference"]].iloc[0]
    axes.axhline(start, color=color, lw=0.8, ls=(0, (4, 3)), alpha=0.7, zorder=1)
    if joined:
        axes.plot(rows.index + offset, rows["mean"], color=color, lw=1.0, zorder=2)
    for row in rows.itertuples():
        x = row.Index + offset
        if not pd.isna(row.low):
            ends = [start + row.low, start + row.high]
            axes.plot([x, x], ends, color=color, lw=1.3, solid_capstyle="butt", zorder=2)
        face = color if row.verdict in VERDICTS else PALETTE["paper"]
        axes.plot(x, row.mean, marker, ms=6, color=color, mfc=face, mew=1.3, zorder=3)
