"""The files of a report: a self-contained HTML page, the same in Markdown, tables as CSV and LaTeX, figures."""

from __future__ import annotations

import os
import re
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from analysis.figures import style
from analysis.measures import measure
from analysis.report.across import outline
from analysis.report.factors import chapter_findings
from analysis.report.section import Section
from analysis.report.sections import report_sections
from analysis.report.tables import ReportTable, format_contexts
from analysis.sources.runs import RecordsError, Runs
from analysis.statistics import provenance
from analysis.statistics.comparison import Comparison
from analysis.statistics.diagnostics import noise_concerns
from analysis.statistics.effects import effect_table
from analysis.statistics.factors import Factorial, factors
from analysis.statistics.ladder import default_ladder, ladder_table
from analysis.statistics.looks import look_concerns
from analysis.text import to_cell
from roadmap.common.files import read_bytes, write

TEMPLATES = Path(__file__).with_name("templates")
MOST_CHAPTERS = 4
"""How many comparisons have a chapter at most; a sweep may have hundreds, and the others are one row each."""
MANIFEST = ".files"
"""A list of the report's files, in its folder: the next report removes those that it no longer has."""


class Report(NamedTuple):
    """What `write_report` has written."""

    across: list[Section]
    """On several comparisons together."""
    chapters: list[Chapter]
    """One for each of the first comparisons."""
    speeds: list[Section]
    """On speeds that were measured without training."""
    more: int
    """How many comparisons have one row each."""


class Chapter(NamedTuple):
    """A comparison with all that the report says about it."""

    comparison: Comparison
    ladder: pd.DataFrame
    effects: pd.DataFrame
    factorial: Factorial | None
    findings: list[str]
    """What it shows, at its top."""
    sections: list[Section]
    prefix: str
    """Of its files: "" for the first, then "2-", "3-", ..."""


def write_report(
    runs: Runs, comparisons: list[Comparison], out: Path, reference: str | None = None, margin: float | None = None
) -> Report:
    """Write `report.html`, `report.md`, a CSV and a LaTeX file per table, and the figures.

    Every file is replaced in one step. Files of an earlier report that this one does not have are removed.

    Args:
        reference: the network from which the ladders' changes are, where it is measured, instead of each rung's parent.
        margin: changes nearer to 0 than this, in the main metric's unit, are negligible; None: none is tested for that.

    Raises:
        RecordsError: if the reference is measured in none of them.
    """
    across, comparisons, speeds = outline(runs, comparisons)
    ladders = _ladders(comparisons[:MOST_CHAPTERS], runs, reference, margin)
    out.mkdir(parents=True, exist_ok=True)
    chapters = [
        _chapter(number, comparison, ladder, runs)
        for number, (comparison, ladder) in enumerate(zip(comparisons, ladders, strict=False), 1)
    ]
    rest = format_contexts(_summaries(comparisons[MOST_CHAPTERS:])) if len(comparisons) > MOST_CHAPTERS else None
    drawings: dict[str, str] = {}
    files: dict[str, bytes] = {}
    for prefix, sections in [("", [*across, *speeds]), *((chapter.prefix, chapter.sections) for chapter in chapters)]:
        for section in sections:
            for picture in section.pictures:
                name = f"{prefix}{picture.name}"
                drawings[name] = style.svg(picture.figure)
                files[f"{name}.svg"] = drawings[name].encode()
                if not prefix:
                    files[f"{name}.png"] = style.png(picture.figure, dpi=150)
            for table in section.tables:
                files |= _table_files(f"{prefix}{table.name}", table)
    if rest:
        files |= _table_files(rest.name, rest)
    facts = {
        "across": across,
        "chapters": chapters,
        "speeds": speeds,
        "rest": rest,
        "drawings": drawings,
        "note": runs.left_out_note,
        "total": len(runs.runs),
        "finished": len(runs.counted),
        "skipped": runs.skipped,
    }
    for name in ("report.md", "report.html"):
        files[name] = environment().get_template(f"{name}.j2").render(facts).encode()
    replace_files(out, files)
    return Report(across, chapters, speeds, max(len(comparisons) - MOST_CHAPTERS, 0))


@cache
def environment() -> Environment:
    """The templates' environment: HTML escapes all text from records; Markdown and LaTeX do so by their filters."""
    jinja = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(("html.j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters |= {"markdown": _markdown, "latex": _latex}
    jinja.globals |= {
        "describe": provenance.describe,
        "provenance": provenance.provenance,
        "warnings": _warnings,
        "inline": lambda drawing, name, description: Markup(style.inline_svg(drawing, name, description)),
        "groups": _groups,
        "metric": lambda comparison: measure(comparison.metric).name,
        "has_published": lambda ladder: ladder["published_top1"][ladder["n"] > 0].notna().any(),
    }
    return jinja


def _warnings(comparison: Comparison) -> list[str]:
    looks, noise = look_concerns(comparison.runs), noise_concerns(comparison)
    return [*looks, *noise, *provenance.warnings(comparison)]


def _ladders(
    comparisons: list[Comparison], runs: Runs, reference: str | None, margin: float | None
) -> list[pd.DataFrame]:
    """The ladder of each comparison: with changes from the reference if that is measured, else its default."""
    ladders, problems = [], []
    settings: dict[str, Any] = {"correct": runs.correct, "margin": margin}
    for comparison in comparisons:
        try:
            ladder = ladder_table(comparison, reference, **settings) if reference else None
        except ValueError as error:
            problems.append(str(error))
            ladder = None
        ladders.append(default_ladder(comparison, **settings) if ladder is None else ladder)
    if problems and len(problems) == len(comparisons):
        raise RecordsError(problems[0])
    return ladders


def _chapter(number: int, comparison: Comparison, ladder: pd.DataFrame, runs: Runs) -> Chapter:
    epochs = runs.epochs if (comparison.counted["epochs"] > 1).any() else None
    effects = effect_table(comparison, margin=ladder.attrs["margin"])
    factorial = factors(comparison)
    sections = report_sections(comparison, ladder, effects, epochs, factorial)
    sentences = chapter_findings(ladder, effects, factorial)
    return Chapter(comparison, ladder, effects, factorial, sentences, sections, "" if number == 1 else f"{number}-")


def _summaries(comparisons: list[Comparison]) -> pd.DataFrame:
    """One row per comparison without a chapter: its size, its best network, and the change from all steps."""
    rows = []
    for comparison in comparisons:
        counted, road = comparison.counted, comparison.road
        means = counted.groupby("network")["score"].mean()
        first, last = (means.get(road.name_of(steps)) for steps in (road.rungs[0].steps, road.adopted))
        rows.append(
            {
                "title": comparison.context.title,
                "networks": comparison.runs["network"].nunique(),
                "runs": len(counted),
                "left_out": len(comparison.runs) - len(counted),
                "best": means.idxmax() if len(means) else "",
                "mean": means.max() if len(means) else float("nan"),
                "change": float("nan") if first is None or last is None else last - first,
            }
        )
    return pd.DataFrame(rows)


def _table_files(name: str, table: ReportTable) -> dict[str, bytes]:
    latex = environment().get_template("table.tex.j2").render(table=table, name=name)
    cells = table.frame.map(lambda value: to_cell(value) if isinstance(value, str) else value)
    return {f"{name}.csv": cells.to_csv(index=False).encode(), f"{name}.tex": latex.encode()}


def _groups(table: ReportTable) -> list[tuple[str, int]]:
    """Each run of neighbouring columns with the same group, and its length; empty if there are no groups."""
    groups = [(group, len([*columns])) for group, columns in groupby(table.columns, lambda column: column.group)]
    return groups if any(group for group, _ in groups) else []


def _markdown(text: object) -> str:
    """Escapes text for Markdown, also within a table's cell."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(str(text).split()))


LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}"},
    **{">": "\\textgreater{}", "|": "\\textbar{}", '"': "\\textquotedbl{}", "±": "$\\pm$", "−": "$-$", "–": "--"},
    **{"†": "$\\dagger$", "≈": "$\\approx$"},
    **{"▲": "$\\uparrow$", "▼": "$\\downarrow$", "’": "'", "“": "``", "”": "''", "…": "\\dots{}", "·": "$\\cdot$"},
    **{"\N{NO-BREAK SPACE}": "~"},
}


def _latex(text: object) -> str:
    """Escapes text for LaTeX, whatever engine sets it: a character that is neither ASCII nor in LATEX becomes "?"."""
    return "".join(LATEX.get(char, char if " " <= char < "\x7f" else "?") for char in str(text))


def replace_files(out: Path, files: dict[str, bytes]) -> None:
    """Replaces each file in one step, so that nobody opens half of one; removes other files of an earlier report."""
    manifest = out / MANIFEST
    earlier = read_bytes(manifest).decode(errors="replace").splitlines() if manifest.exists() else []
    for name, content in {**files, MANIFEST: "\n".join(files).encode()}.items():
        write(out / name, content)
    for name in set(earlier) - set(files):
        if os.path.basename(name) == name:
            (out / name).unlink(missing_ok=True)
