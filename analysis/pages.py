"""The report as files: a self-contained HTML page, the same in Markdown, the figure, and the table as CSV."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from analysis import departures, figures, provenance, style, tables
from analysis.ladder import Ladder, ladders, others, unique
from analysis.records import Runs

TEMPLATES = Path(__file__).with_name("templates")
FILES = ("report.html", "report.md", "ladder.png", "ladder.svg", "ladder.csv")


class Section(NamedTuple):
    """A ladder with its figures as elements of the page."""

    ladder: Ladder
    figure: Markup
    curves: Markup | None


def write_report(runs: Runs, out: Path) -> Path:
    """Write `report.html`, `report.md`, `ladder.csv` and, of the first ladder, `ladder.png` and `ladder.svg`.

    Every file is written aside and renamed; one that an earlier report left and this one does not have is removed.

    Returns:
        The path of the HTML page.
    """
    found = ladders(runs)
    files = {"ladder.csv": _csv(found).encode()}
    if found:
        figure = figures.ladder_figure(found[0])
        files |= {"ladder.svg": style.svg(figure).encode(), "ladder.png": style.png(figure)}
    facts = {
        "sections": [_section(ladder, runs, number) for number, ladder in enumerate(found)],
        "others": others(runs, found),
        "copies": len(runs.runs) - len(unique(runs.runs)),
        "total": len(runs.runs),
        "finished": int((runs.runs["status"] == "done").sum()),
        "skipped": runs.skipped,
    }
    pages = _environment()
    for name in ("report.md", "report.html"):
        files[name] = pages.get_template(f"{name}.j2").render(facts).encode()
    out.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if name in files:
            _write(out / name, files[name])
        else:
            (out / name).unlink(missing_ok=True)
    return out / "report.html"


def _section(ladder: Ladder, runs: Runs, number: int) -> Section:
    def inline(figure: figures.Figure, name: str, description: str) -> Markup:
        return Markup(style.inline_svg(figure, f"{name}-{number}", description))

    curves = None
    if (ladder.counted["epochs"] > 1).any():  # a curve of one epoch is a point
        curves = inline(figures.learning_curves(ladder, runs.epochs), "curves", "Accuracy by epoch")
    what = f"Accuracy by step, {ladder.context.scale}; the table that follows has the numbers"
    return Section(ladder, inline(figures.ladder_figure(ladder), "ladder", what), curves)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(("html.j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "signed": tables.signed,
        "count": tables.count,
        "whole": tables.whole,
        "isna": pd.isna,
        "markdown": _markdown,
    }
    environment.globals |= {
        "percent": tables.percent,
        "interval": tables.interval,
        "scaled": tables.scaled,
        "macs_unit": tables.macs_unit,
        "agreement": tables.agreement_sentence,
        "describe": figures.describe,
        "departures": departures.departures,
        "kernel_note": departures.kernel_note,
        "provenance": provenance.provenance,
        "warnings": provenance.warnings,
        "missing": provenance.missing,
        "unfinished": provenance.unfinished,
    }
    return environment


def _markdown(text: object) -> str:
    """Text that stays text in Markdown, a table's cell included."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", " ".join(str(text).split()))


def _csv(found: list[Ladder]) -> str:
    """All ladders, a row a rung, with what tells one ladder from another in the first columns."""
    parts = [
        ladder.table.assign(
            regime=ladder.context.regime,
            data=ladder.context.data["name"],
            resolution=ladder.context.resolution,
            differs=ladder.context.changes,
        )
        for ladder in found
    ]
    if not parts:
        return ""
    frame = pd.concat(parts)
    first = ["regime", "data", "resolution", "differs"]
    return frame[[*first, *frame.columns.drop(first)]].to_csv(index=False)


def _write(path: Path, content: bytes) -> None:
    """Replace a file in one step, so that nobody opens half a report."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
