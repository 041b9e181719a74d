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
from analysis.ladder import Ladder, others, unique
from analysis.records import Runs

TEMPLATES = Path(__file__).with_name("templates")
FILES = ("report.html", "report.md", "ladder.png", "ladder.svg", "ladder.csv")


class Section(NamedTuple):
    """A ladder with its figures as elements of the page."""

    ladder: Ladder
    figure: Markup
    curves: Markup | None


def write_report(runs: Runs, found: list[Ladder], out: Path) -> Path:
    """Write `report.html`, `report.md`, `ladder.csv` of the ladders found and, of the first, `ladder.png` and `.svg`.

    Every file is written aside and renamed; one that an earlier report left and this one does not have is removed.

    Returns:
        The path of the HTML page.
    """
    out.mkdir(parents=True, exist_ok=True)
    drawn = [figures.ladder_figure(ladder) for ladder in found]
    drawings = [style.svg(figure) for figure in drawn]
    files = {"ladder.csv": _csv(found).encode()}
    if found:
        files |= {"ladder.svg": drawings[0].encode(), "ladder.png": style.png(drawn[0])}
    facts = {
        "sections": [_section(*one, runs, number) for number, one in enumerate(zip(found, drawings, strict=True))],
        "others": others(runs, found),
        "copies": len(runs.runs) - len(unique(runs.runs)),
        "total": len(runs.runs),
        "finished": int((runs.runs["status"] == "done").sum()),
        "skipped": runs.skipped,
    }
    pages = _environment()
    for name in ("report.md", "report.html"):
        files[name] = pages.get_template(f"{name}.j2").render(facts).encode()
    for name in FILES:
        if name in files:
            _write(out / name, files[name])
        else:
            (out / name).unlink(missing_ok=True)
    return out / "report.html"


def _section(ladder: Ladder, drawing: str, runs: Runs, number: int) -> Section:
    what = f"Accuracy by step, {ladder.context.scale}; the table that follows has the numbers"
    figure = Markup(style.inline_svg(drawing, f"ladder-{number}", what))
    if not (ladder.counted["epochs"] > 1).any():  # a curve of one epoch is a point
        return Section(ladder, figure, None)
    curves = style.svg(figures.learning_curves(ladder, runs.epochs))
    return Section(ladder, figure, Markup(style.inline_svg(curves, f"curves-{number}", "Accuracy by epoch")))


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
        "describe": provenance.describe,
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
