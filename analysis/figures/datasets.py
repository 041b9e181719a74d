"""Effects on several datasets, as a forest plot."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.style import LINES, MARKERS, PALETTE, Drawing, blank, heading, style
from analysis.measures import VERDICTS, measure
from analysis.statistics.datasets import MEAN
from analysis.text import wrapped


def datasets_figure(table: pd.DataFrame) -> Figure:
    """One row per effect of `across_datasets`: a mark for each dataset, and a diamond below for their mean, all with
    95 % intervals. Filled where it is shown (Holm-corrected p < 0.05), hollow where it is not."""
    title = "The same effects on several datasets"
    if table.empty:
        return blank(title, "No effect has a known error on two datasets.")
    names, effects = table.attrs["names"], list(dict.fromkeys(table["effect"]))
    looks = {name: (LINES[index % len(LINES)], MARKERS[index % len(MARKERS)]) for index, name in enumerate(names)}
    looks[MEAN] = PALETTE["ink"], "*"
    row_height = 0.2 * (len(names) + 1) + 0.15
    with style():
        height = 1.15 + row_height * len(effects) + 0.75
        figure = Drawing(figsize=(9.2, height))
        axes = figure.add_axes((0.27, 0.75 / height, 0.7, row_height * len(effects) / height))
        order = {name: index for index, name in enumerate([*names, MEAN])}
        for index, effect in enumerate(effects):
            if index % 2 == 0:
                axes.axhspan(index - 0.5, index + 0.5, color=PALETTE["band"], lw=0, zorder=0)
            for row in table[table["effect"] == effect].itertuples():
                color, marker = looks[row.dataset]
                y = index + 0.8 * ((order[row.dataset] + 0.5) / len(order) - 0.5)
                if not pd.isna(row.low):
                    axes.plot([row.low, row.high], [y, y], color=color, lw=1.3, solid_capstyle="butt", zorder=2)
                face = color if row.verdict in VERDICTS else PALETTE["paper"]
                axes.plot(
                    row.value, y, marker, ms=9 if row.dataset == MEAN else 6, color=color, mfc=face, mew=1.3, zorder=3
                )
        axes.set_ylim(len(effects) - 0.5, -0.5)
        axes.set_yticks(range(len(effects)), [wrapped(effect, 32) for effect in effects])
        axes.tick_params(axis="y", length=0, labelsize=9, labelcolor=PALETTE["ink"])
        axes.spines["left"].set_visible(False)
        axes.axvline(0, color=PALETTE["muted"], lw=0.9, zorder=1)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        shown = table[table["dataset"] != MEAN]  # intervals of means over two datasets reach far beyond
        low, high = min(shown["low"].min(), 0.0), max(shown["high"].max(), 0.0)
        axes.set_xlim(low - 0.25 * (high - low), high + 0.25 * (high - low))
        value = measure(table.attrs["value"])
        axes.set_xlabel(f"change of {value.name}" + (f" ({value.unit})" if value.unit else ""))
        keys = [
            Line2D(
                [],
                [],
                color=color,
                marker=marker,
                mfc=PALETTE["paper"],
                ms=6,
                label=f"{name} of datasets" if name == MEAN else name,
            )
            for name, (color, marker) in looks.items()
        ]
        figure.legend(
            handles=keys, loc="upper left", ncols=4, fontsize=8, bbox_to_anchor=(0.27, 1 - 0.8 / height),
            borderaxespad=0, borderpad=0, columnspacing=1.5,
        )  # fmt: skip
        heading(figure, title, f"{len(names)} datasets; the mean is that of a random-effects model")
        text = "bars: 95 % interval, cut off where they are very wide; filled: shown (Holm)"
        figure.text(0.97, 0.1 / height, text, ha="right", fontsize=8, color=PALETTE["muted"])
        return figure
