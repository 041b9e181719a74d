"""The report as files: a self-contained HTML page, the same in Markdown, tables as CSV and LaTeX, figures."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from analysis.figures import style
from analysis.measures import measure
from analysis.report.sections import Part, findings, tell
from analysis.report.tables import Sheet, contexts_sheet
from analysis.sources.runs import RecordsError, Runs
from analysis.statistics import provenance
from analysis.statistics.comparison import Comparison
from analysis.statistics.diagnostics import noise_concerns
from analysis.statistics.effects import effect_table
from analysis.statistics.ladder import default_reference, ladder_table
from analysis.text import to_cell
from roadmap.common.files import read_bytes, write

TEMPLATES = Path(__file__).with_name("templates")
TOLD = 4
"""Comparisons with a part of their own; a sweep may have hundreds, which are a row each."""
MANIFEST = ".files"
"""In the report's folder, the files that it consists of: the next report removes those that it does not have."""


class Section(NamedTuple):
    """A comparison as it is told."""

    comparison: Comparison
    ladder: pd.DataFrame
    effects: pd.DataFrame
    parts: list[Part]
    prefix: str
    """Of its files: "" for the first, then "2-", "3-", ..."""


def write_report(runs: Runs, comparisons: list[Comparison], out: Path, reference: str | None = None) -> list[Section]:
    """Write `report.html`, `report.md`, a CSV and a LaTeX file a table, and the figures.

    Every file is written aside and renamed; one that an earlier report left and this one does not have is removed.

    Args:
        reference: the network that the ladders' changes are from, where it is measured, instead of each rung's parent.

    Returns:
        What was told: the first comparisons, with their tables.

    Raises:
        RecordsError: if the reference is measured in none of them.
    """
    ladders = _ladders(comparisons[:TOLD], runs, reference)
    out.mkdir(parents=True, exist_ok=True)
    sections = [_section(number, *one, runs) for number, one in enumerate(zip(comparisons, ladders, strict=False), 1)]
    rest = contexts_sheet(_summaries(comparisons[TOLD:])) if len(comparisons) > TOLD else None
    drawings = {
        f"{section.prefix}{picture.name}": style.svg(picture.figure)
        for section in sections
        for part in section.parts
        for picture in part.pictures
    }
    files: dict[str, bytes] = {}
    for section in sections:
        for part in section.parts:
            for picture in part.pictures:
                name = f"{section.prefix}{picture.name}"
                files[f"{name}.svg"] = drawings[name].encode()
                if not section.prefix:
                    files[f"{name}.png"] = style.png(picture.figure, dpi=150)
            for sheet in part.sheets:
                files |= _table_files(f"{section.prefix}{sheet.name}", sheet)
    if rest:
        files |= _table_files(rest.name, rest)
    facts = {
        "sections": sections,
        "rest": rest,
        "drawings": drawings,
        "note": runs.left_out_note,
        "total": len(runs.runs),
        "finished": len(runs.counted),
        "skipped": runs.skipped,
    }
    pages = environment()
    for name in ("report.md", "report.html"):
        files[name] = pages.get_template(f"{name}.j2").render(facts).encode()
    replace_files(out, files)
    return sections


@cache
def environment() -> Environment:
    """Where templates are rendered: HTML escapes whatever records say, Markdown and LaTeX by their filters."""
    found = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(("html.j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"markdown": _markdown, "latex": _latex}
    found.globals |= {
        "describe": provenance.describe,
        "provenance": provenance.provenance,
        "warnings": lambda comparison: [*noise_concerns(comparison), *provenance.warnings(comparison)],
        "inline": lambda drawing, name, what: Markup(style.inline_svg(drawing, name, what)),
        "groups": _groups,
        "findings": findings,
        "metric": lambda comparison: measure(comparison.metric).name,
        "has_published": lambda ladder: ladder["published_top1"][ladder["n"] > 0].notna().any(),
    }
    return found


def _ladders(comparisons: list[Comparison], runs: Runs, reference: str | None) -> list[pd.DataFrame]:
    """Each one's, from the reference if it has that, else from the parents, or what stands in for them."""
    ladders, problems = [], []
    for comparison in comparisons:
        try:
            ladders.append(ladder_table(comparison, reference, correct=runs.correct))
        except ValueError as error:
            problems.append(str(error))
            ladders.append(ladder_table(comparison, correct=runs.correct))
        if not ladders[-1].attrs["reference"] and (start := default_reference(ladders[-1])):
            ladders[-1] = ladder_table(comparison, start, correct=runs.correct)
            ladders[-1].attrs["by_default"] = True
    if problems and len(problems) == len(comparisons):
        raise RecordsError(problems[0])
    return ladders


def _section(number: int, comparison: Comparison, ladder: pd.DataFrame, runs: Runs) -> Section:
    curves = runs.epochs if (comparison.counted["epochs"] > 1).any() else None
    effects = effect_table(comparison)
    parts = tell(comparison, ladder, effects, curves)
    return Section(comparison, ladder, effects, parts, "" if number == 1 else f"{number}-")


def _summaries(comparisons: list[Comparison]) -> pd.DataFrame:
    """One row per comparison that is not told: what it has, its best network, and what all steps changed."""
    rows = []
    for one in comparisons:
        counted = one.counted
        means = counted.groupby("network")["score"].mean()
        first, last = (means.get(one.road.name_of(steps)) for steps in (one.road.rungs[0].steps, one.road.adopted))
        rows.append(
            {
                "title": one.context.title,
                "networks": one.runs["network"].nunique(),
                "runs": len(counted),
                "left_out": len(one.runs) - len(counted),
                "best": means.idxmax() if len(means) else "",
                "mean": means.max() if len(means) else float("nan"),
                "change": float("nan") if first is None or last is None else last - first,
            }
        )
    return pd.DataFrame(rows)


def _table_files(name: str, sheet: Sheet) -> dict[str, bytes]:
    latex = environment().get_template("table.tex.j2").render(sheet=sheet, name=name)
    cells = sheet.frame.map(lambda value: to_cell(value) if isinstance(value, str) else value)
    return {f"{name}.csv": cells.to_csv(index=False).encode(), f"{name}.tex": latex.encode()}


def _groups(sheet: Sheet) -> list[tuple[str, int]]:
    """Neighbouring columns of one group, and how many they are; empty if there are no groups."""
    found: list[tuple[str, int]] = []
    for column in sheet.columns:
        if found and found[-1][0] == column.group:
            found[-1] = (column.group, found[-1][1] + 1)
        else:
            found.append((column.group, 1))
    return found if any(group for group, _ in found) else []


def _markdown(text: object) -> str:
    """Text that stays text in Markdown, a table's cell included."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(str(text).split()))


LATEX = {
    **{one: f"\\{one}" for one in "&%$#_{}"},
    **{"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}"},
    **{">": "\\textgreater{}", "|": "\\textbar{}", '"': "\\textquotedbl{}", "±": "$\\pm$", "−": "$-$", "–": "--"},
    **{"†": "$\\dagger$"},
    **{"▲": "$\\uparrow$", "▼": "$\\downarrow$", "’": "'", "“": "``", "”": "''", "…": "\\dots{}", "·": "$\\cdot$"},
    **{"\N{NO-BREAK SPACE}": "~"},
}


def _latex(text: object) -> str:
    """Text that stays text in LaTeX, whatever engine sets it: what ASCII cannot say, and we do not write, is "?"."""
    plain = " ".join(str(text).replace("\N{NO-BREAK SPACE}", "\0").split(" ")).replace("\0", "\N{NO-BREAK SPACE}")
    return "".join(LATEX.get(one, one if " " <= one < "\x7f" else "?") for one in plain)


def replace_files(out: Path, files: dict[str, bytes]) -> None:
    """Each file in one step, so that nobody opens half a report; what an earlier report had more is removed."""
    manifest = out / MANIFEST
    earlier = read_bytes(manifest).decode(errors="replace").splitlines() if manifest.exists() else []
    for name, content in {**files, MANIFEST: "\n".join(files).encode()}.items():
        write(out / name, content)
    for name in set(earlier) - set(files):
        if os.path.basename(name) == name:
            (out / name).unlink(missing_ok=True)
