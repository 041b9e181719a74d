"""The report's section on networks that were tuned (`analysis.statistics.tuning`)."""

from __future__ import annotations

import pandas as pd

from analysis.figures.tuning import tuned_figure
from analysis.measures import VERDICTS, measure
from analysis.report.section import Picture, Section
from analysis.report.tables import Cell, Column, ReportTable, for_looks, number_cell
from analysis.sources.runs import Runs
from analysis.statistics.comparison import Comparison
from analysis.statistics.tuning import Tuning, tuned_networks, tuned_table, tunings
from analysis.text import chance, interval, percent, signed, step_name
from roadmap.common.words import shortened

MOST_NAMED = 6


def tuned_sections(runs: Runs, comparisons: list[Comparison]) -> tuple[list[Section], list[Comparison]]:
    """A section for each tuned study; and the comparisons without those of its search and of its best values alone."""
    found, sections = tunings(runs), []
    paths = {path for tuning in found for path in tuning.paths}
    for number, tuning in enumerate(found, 1):
        which = f": {tuning.untuned.context.title}" if len(found) > 1 else ""
        sections.append(_section(tuning, "" if number == 1 else f"-{number}", which))
    return sections, [comparison for comparison in comparisons if not {*comparison.runs["path"]} <= paths]


def _section(tuning: Tuning, suffix: str, which: str) -> Section:
    table = tuned_table(tuning)
    paragraphs = [
        f"{tuning.untuned.context.title}. Each network was trained with {tuning.values} values of {tuning.setting} "
        "and evaluated on a holdout of the training images, with seeds of its own. With the best value it was then "
        "trained on all training images and evaluated like any other. So the images that accuracies are measured on "
        "chose nothing, and intervals hold as for networks that were fixed in advance. They are about these networks "
        "with these values: another grid may choose others.",
        _cost(tuning),
    ]
    what = "Change of each step untuned and tuned, and accuracy on the holdout by value"
    pictures = [Picture(f"tuned{suffix}", tuned_figure(table, tuning.search, tuning.setting), what)]
    tables = [format_tuned(table, suffix), format_tuned_networks(tuning, suffix)]
    title = f"Tuned: each network with its best {tuning.setting}{which}"
    return Section(f"tuned{suffix}", title, paragraphs, pictures, tables, findings=findings(tuning, table))


def findings(tuning: Tuning, table: pd.DataFrame) -> list[str]:
    """Which changes survive tuning, and whether the grid was wide enough."""
    sentences, measured = [], table[table["outcome"] != ""]
    if measured.empty:
        sentences.append("No step is trained on both sides with the best values yet, so nothing can be said of any.")
    for outcome, words in {
        "still shown": "Survives tuning, shown both ways in the same direction",
        "reversed": "Reversed by tuning, shown both ways in opposite directions",
        "no longer shown": "Shown untuned, but not tuned",
        "newly shown": "Shown only tuned",
    }.items():
        if len(rows := measured[measured["outcome"] == outcome]):
            sentences.append(f"{words}: {_named(rows)}.")
    rest = measured[measured["outcome"] == "shown neither way"]
    if len(rest):
        sentences.append(f"Shown neither untuned nor tuned: {_named(rest)}.")
    if len(opposite := measured[~measured["same_sign"]]):
        which = f"{len(opposite)} of {len(measured)} changes {'has' if len(opposite) == 1 else 'have'}"
        which = "the change has" if len(measured) == 1 else which
        sentences.append(f"After tuning {which} the opposite sign, shown or not.")
    if measured["collapsed"].any():
        names = shortened(measured["title"][measured["collapsed"]].map(step_name), MOST_NAMED)
        sentences.append(f"A network hardly trained, so these changes say little: {names}.")
    edge = tuning.search[tuning.search["at_edge"]]
    if len(edge):
        names = shortened([f"{row.network} ({_value(row.value)})" for row in edge.itertuples()], MOST_NAMED)
        sentences.append(
            f"The best value is the smallest or largest that was tried, so a wider grid may find a better one: {names}."
        )
    left = tuning.search.groupby("network", sort=False)["best"].any()
    if not left.all():
        sentences.append(f"No best value is known yet for {shortened([*left.index[~left]], MOST_NAMED)}.")
    return sentences


def _named(rows: pd.DataFrame) -> str:
    """The steps with their changes untuned and tuned."""
    names = [
        f"{step_name(row.title)} ({signed(row.change_untuned)} untuned, {signed(row.change_tuned)} tuned)"
        for row in rows.itertuples()
    ]
    return shortened(names, MOST_NAMED, "; ".join)


def _cost(tuning: Tuning) -> str:
    search, own, best = tuning.hours["search"], tuning.hours["own"], tuning.hours["best"]
    more = f", and the training with the best values {best:.2g} more" if best else ""
    return f"The search took {search:.2g} device-hours{more}, beside {own:.2g} for the same networks untuned."


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def format_tuned(table: pd.DataFrame, suffix: str = "") -> ReportTable:
    """`tuned_table`: one row per pair of networks."""
    columns = [Column("step", True), Column("from", True)]
    for group in ("own value", "best value"):
        columns += [Column(head, group=group) for head in ("change", "95 % interval", "p (Holm)")]
    columns.append(Column("after tuning", True))
    rows = []
    for index, row in enumerate(table.to_dict("records")):
        cells = [Cell(step_name(row["title"]), index), Cell(row["reference"], index)]
        for which in ("untuned", "tuned"):
            change, verdict = row[f"change_{which}"], row[f"verdict_{which}"]
            cells.append(number_cell(change, signed(change), verdict if verdict in VERDICTS else ""))
            cells.append(number_cell(row[f"low_{which}"], interval(row[f"low_{which}"], row[f"high_{which}"])))
            cells.append(number_cell(row[f"p_holm_{which}"], chance(row[f"p_holm_{which}"])))
        rows.append([*cells, Cell(row["outcome"] or "–", row["outcome"])])
    note = (
        f"In colour: shown, with p < 0.05 after Holm’s correction within the column{for_looks(table)}; “all steps” is "
        "a claim of its own. “No longer shown” does not mean that tuning has removed a change: compare the two "
        "intervals."
    )
    return ReportTable(f"tuned{suffix}", columns, rows, table, note)


def format_tuned_networks(tuning: Tuning, suffix: str = "") -> ReportTable:
    """`tuned_networks`; the CSV file has every value that was tried."""
    metric = measure(tuning.untuned.metric)
    columns = [Column("network", True)]
    for group in ("own value", "best value"):
        columns += [Column(tuning.setting, group=group), Column("holdout", group=group), Column("final", group=group)]
    rows = []
    for index, row in enumerate(tuned_networks(tuning).to_dict("records")):
        cells = [Cell(row["network"], index)]
        for name, which in (("own", "untuned"), ("best", "tuned")):
            edge = " (at the edge)" * (name == "best" and row["at_edge"])
            cells.append(Cell("–") if row[name] is None else Cell(_value(row[name]) + edge, row[name]))
            cells.append(number_cell(row[f"holdout_{name}"], percent(row[f"holdout_{name}"])))
            cells.append(number_cell(row[f"mean_{which}"], percent(row[f"mean_{which}"])))
        rows.append(cells)
    note = f"{metric.head[0].upper()}{metric.head[1:]}: on the holdout, and on {tuning.untuned.evaluated_on}."
    return ReportTable(f"tuned-networks{suffix}", columns, rows, tuning.search, note)
