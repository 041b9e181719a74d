"""The look of figures, and how they are saved. No pyplot, no global settings."""

from __future__ import annotations

import io
import os
import re
import textwrap
from contextlib import AbstractContextManager
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from roadmap.common.files import write

PALETTE = {
    "paper": "#ffffff",
    "ink": "#1b2430",
    "muted": "#5b6675",
    "grid": "#d5dbe3",
    "band": "#f2f5f9",
    "bar": "#2f6690",
    "side": "#bcd2e6",
    "published": "#8a6d3b",
    "behind": "#c3c9d1",
    "line1": "#0072b2",
    "line2": "#d55e00",
    "line3": "#009e73",
    "line4": "#b6619a",
    "line5": "#4da3d4",
    "line6": "#c78500",
}
"""Each colour has one use, so that the report can replace it on a dark page. They differ in lightness, too."""
LINES = tuple(PALETTE[f"line{number}"] for number in range(1, 7))
"""After Okabe and Ito, safe for colour-blind readers; two of them darker, for thin lines on white."""
MARKERS = ("o", "s", "D", "^", "v", "P")
"""One per line, so that lines can be distinguished in greyscale as well."""
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so the layout is the same on every machine
    "font.size": 9,
    "text.color": PALETTE["ink"],
    "axes.edgecolor": PALETTE["muted"],
    "axes.labelcolor": PALETTE["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "xtick.color": PALETTE["muted"],
    "ytick.color": PALETTE["muted"],
    "grid.color": PALETTE["grid"],
    "grid.linewidth": 0.6,
    "figure.facecolor": PALETTE["paper"],
    "savefig.facecolor": PALETTE["paper"],
    "axes.facecolor": "none",
    "hatch.linewidth": 0.8,
    "legend.frameon": False,
    "text.parse_math": False,  # a "$" in a name is a "$"
    "svg.fonttype": "path",
    "svg.hashsalt": "convnext-roadmap",
    "pdf.fonttype": 42,  # text stays text
}
METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": dict.fromkeys(("Date", "Creator", "Format", "Type")),
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
"""By format: metadata to leave out, since they would make two drawings of one figure differ."""


class Drawing(Figure):
    """A figure that Jupyter shows directly. Its background is opaque, for dark notebooks."""

    def _repr_png_(self) -> bytes:
        return png(self, dpi=110)


def style() -> AbstractContextManager[None]:
    """A context in which figures are made and saved."""
    return matplotlib.rc_context(STYLE)


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG (200 dpi), SVG or PDF, with the same bytes each time.

    Raises:
        ValueError: if the path ends in anything else.
        OSError: if it cannot be written.
    """
    kind = os.path.splitext(path)[1][1:].lower()
    if kind not in METADATA:
        raise ValueError(f"{path}: a figure is saved as .png, .svg or .pdf")
    write(path, _bytes(figure, kind, 200))


def svg(figure: Figure) -> str:
    """The figure as an SVG file."""
    return _bytes(figure, "svg", 72).decode()


def png(figure: Figure, dpi: int = 200) -> bytes:
    """The figure as a PNG file."""
    return _bytes(figure, "png", dpi)


def inline_svg(text: str, name: str, description: str) -> str:
    """What `svg` returns, as an element of a page: `name` makes its ids unique; the page's --fig-* colours apply."""
    text = text[text.index("<svg") :]
    text = re.sub(r'(id="|href="#|url\(#)', rf"\1{name}-", text)
    for colour, value in PALETTE.items():
        text = text.replace(value, f"var(--fig-{colour}, {value})")
    head, rest = text.split(">", 1)
    view_box = re.search(r'viewBox="0 0 ([0-9.]+) [^"]+"', head)
    assert view_box  # matplotlib writes one
    max_width = f"max-width: {1.45 * float(view_box[1]):.0f}px"  # text no larger than the page's
    rest = rest.replace("xlink:href", "href")
    return f'<svg {view_box[0]} style="{max_width}" role="img" aria-label="{escape(description)}">{rest}'


def heading(figure: Figure, title: str, about: str = "", *, left: float = 0.25) -> None:
    """Write a title and a line below it in the figure's upper left corner; `left` is in inches."""
    width, height = figure.get_size_inches()
    figure.text(left / width, 1 - 0.36 / height, title, fontsize=14, fontweight="bold")
    figure.text(left / width, 1 - 0.62 / height, about, color=PALETTE["muted"])


def blank(title: str, reason: str, about: str = "") -> Figure:
    """A small figure that says in one sentence why there is nothing to draw."""
    with style():
        figure = Drawing(figsize=(9.2, 1.3))
        heading(figure, title, about)
        figure.text(0.25 / 9.2, 0.2, "\n".join(textwrap.wrap(reason, 110, max_lines=2)))
        return figure


def _bytes(figure: Figure, kind: str, dpi: int) -> bytes:
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=METADATA[kind])
    return buffer.getvalue()
