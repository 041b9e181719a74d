"""Names beside points, none on another."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from analysis.figures.style import PALETTE

LINES_OFF = (0.0, 0.9, -0.9, 1.6, -1.6, 2.6, -2.6, 3.8, -3.8, 5.2, -5.2)
PLACES = sorted(
    ((x, y) for reach in (7, 14, 22, 31) for y in LINES_OFF for x in (reach, -reach)),
    key=lambda place: abs(place[0]) + 8 * abs(place[1]),
)
"""Offsets that are tried, the nearest first: points to the side, and heights of a line up or down."""
POINT = 5
"""Pixels around a point that no name covers."""


def name_points(
    axes: Axes, points: Iterable[tuple[float, float, str]], others: Iterable[tuple[float, float]] = (), **how: object
) -> None:
    """Write each name beside its point (x, y), inside the axes, off all points and names; far ones get a line.

    `others`: points that have no name.
    """
    points = list(points)
    axes.get_xlim(), axes.get_ylim()  # matplotlib sets limits when they are asked for, and places depend on them
    renderer = FigureCanvasAgg(axes.figure).get_renderer()
    at = [axes.transData.transform(point[:2]) for point in (*points, *others)]
    taken = [Bbox.from_extents(x - POINT, y - POINT, x + POINT, y + POINT) for x, y in at]
    frame = axes.get_window_extent(renderer)
    size = float(how.get("fontsize", 8))
    for x, y, name in points:
        label = axes.annotate(
            *(name, (x, y)),
            xytext=(0, 0),
            textcoords="offset points",
            va="center",
            arrowprops={"arrowstyle": "-", "lw": 0.6, "color": how.get("color", "black"), "shrinkA": 0, "shrinkB": 3},
            bbox={"fc": PALETTE["paper"], "ec": "none", "pad": 0.6, "alpha": 0.8},
            **how,
        )
        tried = {}
        for right, lines in PLACES:
            box = _moved(label, right, lines * size, renderer)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            tried[right, lines] = 100 * (not inside) + sum(box.overlaps(other) for other in taken)
            if not tried[right, lines]:
                break
        right, lines = min(tried, key=tried.get)  # the first that is free, or else the one that covers least
        box = _moved(label, right, lines * size, renderer)
        near = abs(label.get_position()[0]) <= PLACES[0][0] and abs(label.get_position()[1]) < size
        label.arrow_patch.set_visible(not near)
        taken.append(box)


def _moved(label: Annotation, x: float, y: float, renderer: RendererBase) -> Bbox:
    """Put the text to this offset; where it then is, without its line."""
    label.set_position((x, y))
    label.set_ha("left" if x > 0 else "right")
    label.update_positions(renderer)
    return Text.get_window_extent(label, renderer)
