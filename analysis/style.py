"""How figures look, and how they become files. No pyplot, no global settings."""

from __future__ import annotations

import io
import re
from contextlib import AbstractContextManager
from html import escape

import matplotlib
from matplotlib.figure import Figure

PALETTE = {
    "paper": "#ffffff",
    "ink": "#1b2430",
    "muted": "#5b6675",
    "grid": "#d5dbe3",
    "band": "#f2f5f9",
    "bar": "#2f6690",
    "side": "#bcd2e6",
    "published": "#8a6d3b",
}
"""Each colour has one use, so the report can give it another value on a dark page. Told apart by lightness, too."""
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Okabe and Ito's, which the colour-blind can tell apart."""
STYLE = {
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
}


def style() -> AbstractContextManager[None]:
    """A context in which figures are made and saved."""
    return matplotlib.rc_context(STYLE)


def svg(figure: Figure) -> str:
    """The figure as an SVG file, the same bytes whenever it is drawn."""
    buffer = io.StringIO()
    with style():
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return buffer.getvalue()


def png(figure: Figure, dpi: int = 200) -> bytes:
    """The figure as a PNG file for print."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def inline_svg(text: str, name: str, description: str) -> str:
    """What `svg` returns as an element of a page: `name` makes its ids unique, and the page's --fig-* colours apply."""
    text = text[text.index("<svg") :]
    text = re.sub(r'(id="|href="#|url\(#)', rf"\1{name}-", text)
    for colour, value in PALETTE.items():
        text = text.replace(value, f"var(--fig-{colour}, {value})")
    head, rest = text.split(">", 1)
    view_box = re.search(r'viewBox="[^"]+"', head).group()
    return f'<svg {view_box} role="img" aria-label="{escape(description)}">{rest.replace("xlink:href", "href")}'
