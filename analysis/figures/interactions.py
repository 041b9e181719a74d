"""A heat map: what each section of the road is worth, and how sections depend on each other."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis.figures.style import PALETTE, Drawing, blank, heading, style
from analysis.measures import VERDICTS
from analysis.text import quantity, wrapped

DIVERGING = LinearSegmentedColormap.from_list("diverging", ["#b35806", "#f7f7f7", "#2166ac"])
"""Brown to blue, which colour-blind people can distinguish; in grey the sign is lost, but the numbers show it."""


def interactions_figure(shapley: pd.DataFrame, interactions: pd.DataFrame) -> Figure:
    """A heat map: on the diagonal each section's value (`shapley_table`), below it the interaction of each pair, which
    is what the two bring together beyond what each brings by itself (`interaction_table`). Bold where it is shown
    (Holm-corrected p < 0.05). If the tables are empty, the figure says what is missing.
    """
    title, about = "What sections are worth, and together", shapley.attrs.get("scale", "")
    if shapley.empty or interactions.empty:
        return blank(title, f"{shapley.attrs.get('missing') or 'the road has a single section'}.", about)
    names = shapley["section"].tolist()
    index_of = {name: index for index, name in enumerate(names)}
    cells = [(index, index, *row) for index, row in enumerate(shapley[["value", "verdict"]].to_numpy())]
    for row in interactions.itertuples():
        first, second = sorted((index_of[row.one], index_of[row.other]))
        cells.append((second, first, row.interaction, row.verdict))
    values = np.full((len(names), len(names)), np.nan)
    for row, column, value, *_ in cells:
        values[row, column] = value
    unit = shapley.attrs.get("unit", "points")
    unknown = pd.concat([shapley["error"], interactions["error"]]).isna().all()
    judged = "no intervals: noise unknown" if unknown else "bold: shown (p < 0.05 after Holm)"
    with style():
        figure = Drawing(figsize=(8.4, 6.6))
        axes = figure.add_axes((0.21, 0.12, 0.63, 0.72))
        limit = float(np.nanmax(np.abs(values))) or 1.0
        colours = Normalize(-limit, limit)
        edges = np.arange(len(names) + 1) - 0.5
        image = axes.pcolormesh(edges, edges, np.ma.masked_invalid(values), cmap=DIVERGING, norm=colours)
        axes.invert_yaxis()
        for row, column, value, verdict in cells:
            _draw_cell(axes, row, column, value, verdict in VERDICTS, colours, unit)
        axes.set_xticks(range(len(names)), [wrapped(name, max(80 // len(names) - 1, 6), 3) for name in names])
        axes.set_yticks(range(len(names)), [wrapped(name, 20) for name in names])
        axes.tick_params(length=0, labelsize=9, labelcolor=PALETTE["ink"])
        for spine in axes.spines.values():
            spine.set_visible(False)
        bar = figure.colorbar(image, cax=figure.add_axes((0.88, 0.12, 0.022, 0.72)))
        bar.outline.set_visible(False)
        bar.solids.set_rasterized(False)
        bar.set_label(unit)
        heading(figure, title, about)
        note = f"outlined: Shapley value of a section\nbelow: interaction of two\n{judged}"
        figure.text(0.97, 0.945, note, ha="right", va="center", fontsize=8, color=PALETTE["muted"])
        return figure


def _draw_cell(axes, row, column, value, shown, colours, unit) -> None:
    red, green, blue, _ = DIVERGING(colours(value))
    dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
    axes.text(
        *(column, row, quantity(value, unit, signed=True)),
        ha="center",
        va="center",
        fontsize=10,
        fontweight="bold" if shown else "normal",
        color="#ffffff" if dark else "#1b2430",  # against the cell's colour, which a dark page does not change
    )
    if row == column:
        axes.add_patch(Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, fill=False, ec=PALETTE["ink"], lw=1.2))
