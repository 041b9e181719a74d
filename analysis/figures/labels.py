"""Labels beside points, without overlaps.

adjustText, which moves labels by simulated forces, leaves some on each other where points are as dense as here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from analysis.figures.style import PALETTE

LINES = (0.0, 0.9, -0.9, 1.6, -1.6, 2.6, -2.6, 3.8, -3.8, 5.2, -5.2)
OFFSETS = sorted(
    ((x, y) for distance in (7, 14, 22, 31) for y in LINES for x in (distance, -distance)),
    key=lambda offset: abs(offset[0]) + 8 * abs(offset[1]),
)
"""Offsets to try, the nearest first: typographic points to the side, and lines of text up or down."""
MARGIN = 5
"""Pixels around a point that no label may cover."""


def label_points(
    axes: Axes,
    labels: Iterable[tuple[float, float, str]],
    unlabelled: Iterable[tuple[float, float]] = (),
    **style: Any,
) -> None:
    """Write each label beside its point (x, y), inside the axes, off all points and labels; distant ones get a line.

    Args:
        labels: (x, y, text).
        unlabelled: points (x, y) that labels must not cover.
        style: of the text, as for `Axes.annotate`.
    """
    labels = list(labels)
    axes.get_xlim(), axes.get_ylim()  # makes matplotlib fix the limits, on which positions depend
    renderer = FigureCanvasAgg(axes.get_figure(root=True)).get_renderer()
    points = [axes.transData.transform(point[:2]) for point in (*labels, *unlabelled)]
    taken = [Bbox.from_extents(x - MARGIN, y - MARGIN, x + MARGIN, y + MARGIN) for x, y in points]
    frame = axes.get_window_extent(renderer)
    size = float(style.get("fontsize", 8))
    for x, y, text in labels:
        label = axes.annotate(
            *(text, (x, y)),
            xytext=(0, 0),
            textcoords="offset points",
            va="center",
            arrowprops={"arrowstyle": "-", "lw": 0.6, "color": style.get("color", "black"), "shrinkA": 0, "shrinkB": 3},
            bbox={"fc": PALETTE["paper"], "ec": "none", "pad": 0.6, "alpha": 0.8},
            **style,
        )
        overlaps: dict[tuple[int, float], int] = {}
        for right, lines in OFFSETS:
            box = _move(label, right, lines * size, renderer)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            overlaps[right, lines] = 100 * (not inside) + sum(box.overlaps(area) for area in taken)
            if not overlaps[right, lines]:
                break
        right, lines = min(overlaps, key=overlaps.__getitem__)  # the first without any, or else the one with the fewest
        box = _move(label, right, lines * size, renderer)
        near = abs(right) <= OFFSETS[0][0] and abs(lines) < 1
        label.arrow_patch.set_visible(not near)
        taken.append(box)


def _move(label: Annotation, x: float, y: float, renderer: RendererBase) -> Bbox:
    """Moves the text to this offset; returns its box, without the line."""
    label.set_position((x, y))
    label.set_horizontalalignment("left" if x > 0 else "right")
    label.update_positions(renderer)
    return Text.get_window_extent(label, renderer)
