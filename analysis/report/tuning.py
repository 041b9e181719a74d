"""The report's section on networks that were tuned (`analysis.statistics.tuning`)."""

from __future__ import annotations

import pandas as pd

from analysis.figures.tuning import tuned_figure
from analysis.measures import VERDICTS, measure
from analysis.report.section import Picture, Section
from analysis.report.tables import Cell, Column, ReportTable
from analysis.sources.runs import Runs
from analysis.statistics.comparison import Comparison
from analysis.statistics.tuning import Tuning, tuned_table, tunings
from analysis.text import chance, interval, percent, signed, step_name, trained
from roadmap.common.words import counted, listed, shortened

MOST_NAMED = 6


def tuned_sections(runs: Runs, comparisons: list[Comparison]) -> tuple[list[Section], list[Comparison]]:
    """A section for each tuned study; and the comparisons without those of its search and of its best values alone."""
    sections: list[Section] = []
    paths: set[str] = set()
    for number, tuning in enumerate(tunings(runs), 1):
        sections.append(_section(tuning, runs, "" if number == 1 else f"-{number}"))
        paths |= tuning.paths
    return sections, [comparison for comparison in comparisons if not {*comparison.runs["path"]} <= paths]


def _section(tuning: Tuning, runs: Runs, suffix: str) -> Section:
    table = tuned_table(tuning, correct=runs.correct)
    values = f"{tuning.values} values of {tuning.setting}"
    paragraphs = [
        f"{tuning.untuned.context.title}. Each network was trained with {values}, and evaluated on a holdout of the "
        "training images, with seeds of its own. With the best value it was then trained on all training images and "
        "evaluated like any other. So the images that accuracies are measured on chose nothing, and intervals hold as "
        "for networks that were fixed in advance. They are about these networks with these values: another grid may "
        "choose others.",
        _cost(tuning),
    ]
    measured = table[table["outcome"] != ""]
    pictures = []
    if len(measured):
        what = "Change of each step untuned and tuned, and accuracy on the holdout by value"
        pictures = [Picture(f"tuned{suffix}", tuned_figure(table, tuning.search, tuning.setting), what)]
    tables = [format_tuned(table, suffix), format_search(tuning, suffix)]
    title = f"Tuned: each network with its best {tuning.setting}"
    return Section(f"tuned{suffix}", title, paragraphs, pictures, tables, findings=findings(tuning, table))


def findings(tuning: Tuning, table: pd.DataFrame) -> list[str]:
    """Which changes survive tuning, and whether the grid was wide enough."""
    sentences, measured = [], table[table["outcome"] != ""]
    if measured.empty:
        sentences.append("No step is trained on both sides with the best values yet, so nothing can be said of any.")
    shown = measured[measured["verdict_untuned"].isin(VERDICTS)]
    if len(shown):
        parts = [
            f"{_counted(rows, len(shown))} {outcome} ({_named(rows)})"
            for outcome in ("still shown", "reversed", "no longer shown")
            if len(rows := shown[shown["outcome"] == outcome])
        ]
        changes = "the change" if len(shown) == 1 else f"the {len(shown)} changes"
        sentences.append(f"Of {changes} shown with the recipe’s own {tuning.setting}: {listed(parts)} after tuning.")
    elif len(measured):
        sentences.append(f"None of the changes is shown with the recipe’s own {tuning.setting}.")
    new = measured[measured["outcome"] == "newly shown"]
    if len(new):
        sentences.append(f"Shown only after tuning: {_named(new)}.")
    if len(measured):
        same = int(measured["same_sign"].sum())
        sentences.append(
            f"{same} of {counted(len(measured), 'change')} {'have' if same != 1 else 'has'} the same sign."
        )
    edge = tuning.search[tuning.search["at_edge"]]
    if len(edge):
        names = shortened([f"{row.network} ({_value(row.value)})" for row in edge.itertuples()], MOST_NAMED)
        whose = "networks, whose" if len(edge) > 1 else "network, whose"
        sentences.append(
            f"For {len(edge)} {whose} best value is the smallest or largest that was tried, a wider grid may find a "
            f"better one: {names}."
        )
    left = tuning.search.groupby("network")["best"].any()
    if not left.all():
        sentences.append(f"No best value is known yet for {shortened([*left.index[~left]], MOST_NAMED)}.")
    return sentences


def _counted(rows: pd.DataFrame, total: int) -> str:
    return (
        "all"
        if len(rows) == total > 2
        else "both"
        if len(rows) == total == 2
        else "it"
        if total == 1
        else str(len(rows))
    )


def _named(rows: pd.DataFrame) -> str:
    """The steps with their changes untuned and tuned."""
    names = [
        f"{step_name(row.title)}: {signed(row.change_untuned)} untuned, {signed(row.change_tuned)} tuned"
        for row in rows.itertuples()
    ]
    return shortened(names, MOST_NAMED, "; ".join)


def _cost(tuning: Tuning) -> str:
    search, own, best = tuning.hours["search"], tuning.hours["own"], tuning.hours["best"]
    return (
        f"The search took {search:.2g} device-hours and the training with the best values {best:.2g} more, beside "
        f"{own:.2g} for the same networks untuned."
    )


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def format_tuned(table: pd.DataFrame, suffix: str = "") -> ReportTable:
    """`tuned_table`: the rungs that are measured."""
    table = table[(table["n_untuned"] > 0) | (table["n_tuned"] > 0)].reset_index(drop=True)
    metric = measure(table.attrs["metric"])
    columns = [Column("step", True), Column("from", True)]
    for group in ("own value", "best value"):
        columns += [Column("value", group=group), Column(metric.head, group=group), Column("change", group=group)]
        columns += [Column("95 % interval", group=group), Column("p (Holm)", group=group)]
    columns.append(Column("after tuning", True))
    rows = []
    for index, row in enumerate(table.to_dict("records")):
        cells = [Cell(step_name(row["title"]), index), Cell(row["reference"] or "–", index)]
        for value, which in (("own", "untuned"), ("best", "tuned")):
            change, verdict = row[f"change_{which}"], row[f"verdict_{which}"]
            cells.append(Cell("–") if row[value] is None else Cell(_value(row[value]), row[value]))
            cells.append(_cell(row[f"mean_{which}"], percent(row[f"mean_{which}"])))
            cells.append(_cell(change, signed(change), verdict if verdict in VERDICTS else ""))
            cells.append(_cell(row[f"low_{which}"], interval(row[f"low_{which}"], row[f"high_{which}"])))
            cells.append(_cell(row[f"p_holm_{which}"], chance(row[f"p_holm_{which}"])))
        rows.append([*cells, Cell(row["outcome"] or "–", row["outcome"])])
    note = (
        "Each ladder is a family of hypotheses of its own (Holm). “No longer shown” does not mean that tuning has "
        "removed a change: compare the two intervals."
    )
    return ReportTable(f"tuned{suffix}", columns, rows, table, note)


def format_search(tuning: Tuning, suffix: str = "") -> ReportTable:
    """`Tuning.search`: one row per network and value."""
    metric = measure(tuning.untuned.metric)
    columns = [
        Column("network", True),
        Column(tuning.setting),
        Column(f"{metric.head} on the holdout"),
        Column("seeds"),
    ]
    columns.append(Column("", True))
    rows = []
    for index, row in enumerate(tuning.search.itertuples()):
        marks = ["best"] * row.best + ["at the edge of the grid"] * row.at_edge + ["the recipe’s own"] * row.own
        marks += [f"{row.left} not finished"] * bool(row.left)
        rows.append(
            [
                Cell(row.network, index),
                Cell(_value(row.value), row.value),
                _cell(row.mean, percent(row.mean)),
                Cell(trained(row.n, row.diverged), row.n),
                Cell(", ".join(marks)),
            ]
        )
    return ReportTable(f"search{suffix}", columns, rows, tuning.search)


def _cell(value: float, text: str, style: str = "") -> Cell:
    return Cell(text) if pd.isna(value) else Cell(text, float(value), style)
