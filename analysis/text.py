"""Numbers as text, the same in the terminal, the report and the figures."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator

import pandas as pd

from analysis.measures import VERDICTS

NOTHING = "–"
MINUS = "−"


def percent(mean: float, std: float = math.nan) -> str:
    """An accuracy in percent with its standard deviation: "83.27 ± 0.45"."""
    if pd.isna(mean):
        return NOTHING
    return f"{mean:.2f}" if pd.isna(std) else f"{mean:.2f} ± {std:.2f}"


def signed(points: float) -> str:
    """A change in points: "+0.65", "−1.23"."""
    if pd.isna(points):
        return NOTHING
    text = f"{points:+.2f}".replace("-", MINUS)
    return text[1:] if text[1:] == "0.00" else text


def interval(low: float, high: float) -> str:
    return NOTHING if pd.isna(low) else f"{signed(low)} to {signed(high)}"


def macs_unit(macs: pd.Series) -> tuple[float, str]:
    """The number of multiply-adds in a unit, and its prefix: billions from half a billion on, else millions."""
    return (1e9, "G") if macs.max() >= 5e8 else (1e6, "M")


def scaled(value: float, unit: float) -> str:
    return NOTHING if pd.isna(value) else f"{value / unit:.2f}"


def count(value: float) -> str:
    """A number of parameters: "388 k", "28.6 M"."""
    if pd.isna(value):
        return NOTHING
    return f"{value / 1e6:.1f} M" if value >= 999_500 else f"{value / 1e3:.0f} k"


def whole(value: float) -> str:
    return NOTHING if pd.isna(value) else f"{value:,.0f}"


def quantity(value: float, unit: str, *, signed: bool = False) -> str:
    """A number in the usual precision of its unit: "+1.23" (points), "1,234" (images/s), "2.3 M"."""
    if pd.isna(value):
        return NOTHING
    if unit == "points":
        text = f"{value:+.2f}"
    elif abs(value) >= 1e9:
        text = f"{value / 1e9:+.2f} G"
    elif abs(value) >= 1e6:
        text = f"{value / 1e6:+.2f} M"
    elif abs(value) >= 1e5:
        text = f"{value / 1e3:+,.0f} k"
    else:
        text = f"{value:+,.0f}" if abs(value) >= 100 else f"{value:+.3g}"
    text = text.replace("-", MINUS)
    return text if signed or value < 0 else text[1:]


FORMULA = ("=", "+", "-", "@", "'")


def to_cell(text: str) -> str:
    """Text as a cell of a CSV file: a ' in front keeps spreadsheets from evaluating text that looks like a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text


def from_cell(cell: str) -> str:
    """The text that `to_cell` wrote."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA) else cell


def step_name(title: str) -> str:
    """A rung's title as the name of its step: without a network's name in brackets at the end."""
    return title.split(" (")[0]


def wrapped(text: str, width: int = 28, lines: int = 2) -> str:
    """The text on at most this many lines of this width, shortened if necessary."""
    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder=" …"))


def chance(p: float) -> str:
    """A p-value: "0.03", "< 0.001"."""
    if pd.isna(p):
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def trained(n: int, diverged: int, stopped: int = 0) -> str:
    """The number of seeds: "3"; "2 of 3 trained" if one diverged; "2 of 3 (1 stopped)" if one was stopped early."""
    if stopped:
        why = f"{diverged} diverged, " if diverged else ""
        return f"{n} of {n + diverged + stopped} ({why}{stopped} stopped)"
    return f"{n} of {n + diverged} trained" if diverged else f"{n}"


def in_words(verdict: str, survivors: bool, negligible: bool = False) -> str:
    """A verdict: "▲ up", "▼ down, of those that finished", "▲ up, but negligible"."""
    change = verdict in VERDICTS or verdict == "not distinguishable"
    text = {"up": "▲ ", "down": "▼ "}.get(verdict, "") + verdict
    if negligible:
        text = f"{text}, but negligible" if verdict in VERDICTS else "negligible"
    return text + ", of those that finished" * (survivors and change)


def equals(p: float) -> str:
    """A p-value after "p": "= 0.03", "< 0.001"."""
    text = chance(p)
    return text if text.startswith("<") else f"= {text}"


def stretches(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rungs of a table by section, in order; a section that the road returns to comes again."""
    section = table["section"]
    return ((rows["section"].iloc[0], rows) for _, rows in table.groupby((section != section.shift()).cumsum()))
