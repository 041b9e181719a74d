"""Tables for readers: frames as text, with what sorts and what stands out. HTML, Markdown and LaTeX show the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from analysis.measures import VERDICTS, measure
from analysis.statistics.ladder import included, named
from analysis.statistics.paper import agreement_table
from analysis.text import (
    NOTHING,
    chance,
    count,
    in_words,
    interval,
    macs_unit,
    percent,
    quantity,
    scaled,
    signed,
    step_name,
    trained,
    whole,
)

KINDS = {
    "road": "on the road",
    "leave_one_out": "leave one out",
    "add_one_in": "add one in",
    "shapley": "Shapley, random orders",
}
HERE, PUBLISHED = "measured here", "published"
DETECTABLE = "“detectable” is the smallest true change that would be shown about four times in five"
SECTION_COSTS = ("macs", "images_per_second", "peak_memory_mb")
"""What a section is worth in, besides the main metric."""


class Cell(NamedTuple):
    text: str
    value: float | str = ""
    """What a column is sorted by; "" is last."""
    mark: str = ""
    """"up", "down", "paper", or ""."""


class Column(NamedTuple):
    head: str
    left: bool = False
    """Text stands left, numbers right."""
    group: str = ""


class Sheet(NamedTuple):
    """A table as it is read."""

    name: str
    """Of its files."""
    columns: list[Column]
    rows: list[list[Cell]]
    frame: pd.DataFrame
    """The numbers behind it, as they go into a CSV file."""
    note: str = ""


def ladder_sheet(table: pd.DataFrame) -> Sheet:
    """`ladder_table`, with the published numbers beside the measured, if there are any, of the rungs that a study
    asked for."""
    table = included(table)
    unit, prefix = macs_unit(table["macs"])
    metric, printed = measure(table.attrs["metric"]), bool(table["published_top1"].notna().any())
    columns = [
        *(Column("step", True), Column("seeds", group=HERE), Column(metric.head, group=HERE)),
        *(Column("change", group=HERE), Column("95 % interval", group=HERE), Column("p (Holm)", group=HERE)),
        *(Column("detectable", group=HERE), Column("verdict", True, HERE), Column(f"MACs ({prefix})", group=HERE)),
        *([Column("top-1 (%)", group=PUBLISHED), Column("change", group=PUBLISHED)] if printed else []),
    ]
    rows = []
    for row in table.itertuples():
        mark = _mark(row.verdict)
        undone = row.left_out - row.diverged
        seeds = trained(row.n, row.diverged) + (f" (+{undone} left out)" if undone else "")
        rows.append(
            [
                Cell(row.title + ("" if row.adopted else " (not adopted)"), row.Index),
                Cell(seeds, row.n),
                _number(row.mean, percent(row.mean, row.std)),
                _number(row.change, signed(row.change), mark),
                _number(row.low, interval(row.low, row.high)),
                _number(row.p_holm, chance(row.p_holm)),
                _number(row.detectable, percent(row.detectable)),
                Cell(in_words(row.verdict, row.survivors), row.verdict, mark),
                _number(row.macs, scaled(row.macs, unit)),
            ]
        )
        if printed:
            rows[-1] += [
                _number(row.published_top1, percent(row.published_top1, row.published_std), "paper"),
                _number(row.published_change, signed(row.published_change), "paper"),
            ]
    detectable = f"; {DETECTABLE}" if table["detectable"].notna().any() else ""
    others = "" if table["image_error"].notna().any() else " on these images, not of other images"
    start = f"“{reference}”" if (reference := table.attrs.get("reference")) else "the parent step"
    note = (
        f"± is a standard deviation over seeds (n − 1). Changes are from {start}, in {metric.unit or metric.name}; "
        f"95 % intervals, not corrected, say where they would be with other seeds{others}. Seeds are paired where "
        "both networks have the same, and the noise is estimated from all rungs together. A change is shown if its p, "
        f"corrected for the number of changes (Holm), is below 0.05{detectable}."
    )
    return _without_empty(Sheet("ladder", columns, rows, table, note))


def images_sheet(table: pd.DataFrame) -> Sheet:
    """Of `ladder_table` what other images of the same kind would change, where that is known."""
    known = named(table[table["image_error"].notna()].reset_index(drop=True))
    these, others = "other seeds, these images", "other seeds, other images"
    columns = [Column("step", True), Column("change"), Column("error of seeds"), Column("error of images")]
    columns += [Column("95 % interval", group=these), Column("verdict", True, these)]
    columns += [
        Column("95 % interval", group=others),
        Column("p (Holm)", group=others),
        Column("verdict", True, others),
    ]
    rows = [
        [
            Cell(step_name(row.title) + ("" if row.adopted else " (not adopted)"), row.Index),
            _number(row.change, signed(row.change)),
            _number(row.error, percent(row.error)),
            _number(row.image_error, percent(row.image_error)),
            _number(row.low, interval(row.low, row.high)),
            Cell(row.verdict, row.verdict, _mark(row.verdict)),
            _number(row.other_low, interval(row.other_low, row.other_high)),
            _number(row.other_p_holm, chance(row.other_p_holm)),
            Cell(row.other_verdict, row.other_verdict, _mark(row.other_verdict)),
        ]
        for row in known.itertuples()
    ]
    frame = known[["rung", "images", "change", "error", "image_error", "low", "high", "verdict"]]
    frame = frame.join(known[["other_low", "other_high", "other_p_holm", "other_verdict"]])
    note = (
        "Errors are standard errors of the change, in points; 0.00 of images is an estimate that is cut at 0. The "
        "error of images is the part that is the same for every seed, so more seeds do not reduce it. The reach of an "
        "interval for other images is the root of the sum of the squares of those for seeds and images alone."
    )
    return Sheet("images", columns, rows, frame, note)


def agreement_sheet(table: pd.DataFrame) -> Sheet:
    """`agreement_table` of a `paper_table`: counts of changes, by what the paper finds and what is shown here."""
    counts = agreement_table(table)
    columns = [Column("published", True), *(Column(f"{here} here") for here in ("shown up", "shown down", "not shown"))]
    names = {"up": "up (+)", "down": "down (−)", "about 0": "about 0"}
    rows = [
        [Cell(names[row.Index], place), *(Cell(str(count), count) for count in row[1:])]
        for place, row in enumerate(counts.itertuples())
    ]
    note = (
        "Measured changes, counted. About 0: within twice the published noise. Shown: Holm-corrected p < 0.05. What is "
        "not shown neither confirms nor contradicts the paper."
    )
    return Sheet("agreement", columns, rows, counts.reset_index(), note)


def paper_sheet(table: pd.DataFrame) -> Sheet:
    """`paper_table`: published and measured changes side by side, those that were measured."""
    shown = table[table["change"].notna()]
    columns = [Column("step", True), Column("published change"), Column("noise"), Column("published", True)]
    columns += [Column("change here"), Column("95 % interval"), Column("verdict here", True), Column("sign", True)]
    there = {"up": "▲ up", "down": "▼ down", "": NOTHING}
    words = {True: "same", False: "opposite"}
    rows = [
        [
            Cell(step_name(row.title) + ("" if row.adopted else " (not adopted)"), row.Index),
            _number(row.published_change, signed(row.published_change), "paper"),
            _number(row.published_noise, percent(row.published_noise) + "*" * row.noise_assumed, "paper"),
            Cell(there.get(row.published_verdict, row.published_verdict), row.published_verdict, "paper"),
            _number(row.change, signed(row.change), _mark(row.verdict)),
            _number(row.low, interval(row.low, row.high)),
            Cell({"up": "▲ ", "down": "▼ "}.get(row.verdict, "") + row.verdict, row.verdict, _mark(row.verdict)),
            Cell(NOTHING if pd.isna(row.same_sign) else words[bool(row.same_sign)], str(row.same_sign)),
        ]
        for row in shown.itertuples()
    ]
    note = (
        "The noise of a published change is both rungs’ standard deviations over three seeds, in quadrature; a change "
        "within twice that is about 0."
        if shown["published_noise"].notna().any()
        else "The paper gives no standard deviations for these changes."
    )
    if shown["noise_assumed"].any():
        note += " * A deviation that is not printed is taken as the ladder’s largest."
    return Sheet("paper", columns, rows, table.drop(columns="reference"), note)


def effects_sheet(table: pd.DataFrame) -> Sheet:
    """`effect_table`: one row per step of the road, each way of asking beside the others."""
    table = table[table["kind"].isin(KINDS)]
    kinds = [kind for kind in KINDS if (table["kind"] == kind).any()]
    columns = [Column("step", True)]
    for kind in kinds:
        columns += [Column("effect", group=KINDS[kind]), Column("95 % interval", group=KINDS[kind])]
    by_kind = {kind: table[table["kind"] == kind].set_index("step") for kind in kinds}
    rows = []
    for place, step in enumerate(table.drop_duplicates("step").itertuples()):
        cells = [Cell(step_name(step.title), place)]
        for kind in kinds:
            found = by_kind[kind]
            if step.step not in found.index:
                cells += [Cell(NOTHING), Cell(NOTHING)]
                continue
            row = found.loc[step.step]
            effect = signed(row["effect"]) + (" †" if row["survivors"] else "")
            cells.append(_number(row["effect"], effect, _mark(row["verdict"])))
            cells.append(_number(row["low"], interval(row["low"], row["high"])))
        rows.append(cells)
    note = f"{_in_unit(table)}In colour: shown, p < 0.05 after Holm’s correction within the column."
    if table["survivors"].any():
        note += " †: some runs of either network diverged, and this is of those that trained."
    return Sheet("effects", columns, rows, table, note)


def besides_sheet(table: pd.DataFrame, kind: str = "besides") -> Sheet:
    """Of `effect_table` "besides" or "elsewhere": one row per pair of networks that differ in a step alone."""
    metric = measure(table.attrs["metric"])
    columns = [Column("step", True), Column("added to", True), Column("seeds")]
    columns += [Column(f"without{metric.percent}"), Column(f"with{metric.percent}"), Column("effect")]
    columns += [Column("95 % interval"), Column("p (Holm)"), Column("detectable"), Column("verdict", True)]
    table = table[table["kind"] == kind].reset_index(drop=True)
    rows = []
    for place, row in enumerate(table.to_dict("records")):
        mark = _mark(row["verdict"])
        rows.append(
            [
                Cell(row["step"], place),
                Cell(row["on"], place),
                Cell(str(row["n"]), row["n"]),
                _number(row["without"], percent(row["without"])),
                _number(row["with"], percent(row["with"])),
                _number(row["effect"], signed(row["effect"]), mark),
                _number(row["low"], interval(row["low"], row["high"])),
                _number(row["p_holm"], chance(row["p_holm"])),
                _number(row["detectable"], percent(row["detectable"])),
                Cell(in_words(row["verdict"], row["survivors"]), row["verdict"], mark),
            ]
        )
    note = (
        f"{_in_unit(table)}The two networks of a row differ in this step alone. The verdict is that of p, corrected "
        f"for the number of rows (Holm); {DETECTABLE}."
    )
    return _without_empty(Sheet(kind, columns, rows, table, note))


def _in_unit(table: pd.DataFrame) -> str:
    return f"In {table.attrs['unit']}. " if table.attrs.get("unit") else ""


def sections_sheet(tables: dict[str, pd.DataFrame]) -> Sheet:
    """`shapley_table` of the main metric and then of costs, by column: one row per section."""
    columns = [Column("section", True), Column("steps", True)]
    for value in tables:
        columns += [Column(measure(value).unit, group=measure(value).short or measure(value).name)]
        columns += [Column("95 % interval", group=columns[-1].group)]
    metric, first = next(iter(tables.items()))
    rows = []
    for place, section in enumerate(first.itertuples()):
        cells = [Cell(section.section, place), Cell(", ".join(section.steps), place)]
        for value, table in tables.items():
            row, unit = table.iloc[place], measure(value).unit
            mark = _mark(row["verdict"]) if value == metric else ""
            ends = [quantity(row[end], unit, signed=True) for end in ("low", "high")]
            exact = row["low"] == row["high"]
            cells.append(_number(row["value"], quantity(row["value"], unit, signed=True), mark))
            cells.append(
                _number(row["low"], "exact" if exact else NOTHING if math.isnan(row["low"]) else " to ".join(ends))
            )
        rows.append(cells)
    frame = pd.concat(dict(tables), names=["of", None]).reset_index("of")
    note = (
        f"Exact Shapley values of the road’s {len(first)} sections, from all {2 ** len(first)} combinations: the mean "
        "gain over all orders in which one could take the sections. They add up to what all steps gain over none. "
        "Intervals are the noise of training, each one’s own. In colour: shown, p < 0.05 after Holm’s correction for "
        f"the {len(first)} sections."
    )
    return Sheet("sections", columns, rows, frame.assign(steps=frame["steps"].map(" ".join)), note)


def networks_sheet(table: pd.DataFrame) -> Sheet:
    """`cost_table`: every network that has finished runs, and which of them no other beats."""
    unit, prefix = macs_unit(table["macs"])
    fronts = {"macs": "MACs", "params": "params", "images_per_second": "images/s", "device_hours": "hours"}
    metric = measure(table.attrs["metric"])
    columns = [Column("network", True), Column("seeds"), Column(metric.head), Column(f"MACs ({prefix})")]
    columns += [Column("params"), Column("images/s"), Column("device-hours"), Column("peak MB")]
    columns.append(Column(f"Pareto-optimal in {metric.short or metric.name} and", True))
    rows = []
    for row in table.itertuples():
        front = [name for cost, name in fronts.items() if getattr(row, f"front_{cost}")]
        rows.append(
            [
                Cell(row.title, row.Index),
                Cell(trained(row.n, row.diverged), row.n),
                _number(row.mean, percent(row.mean, row.std)),
                _number(row.macs, scaled(row.macs, unit)),
                _number(row.params, count(row.params)),
                _number(row.images_per_second, whole(row.images_per_second)),
                _number(row.device_hours, NOTHING if pd.isna(row.device_hours) else f"{row.device_hours:.3g}"),
                _number(row.peak_memory_mb, whole(row.peak_memory_mb)),
                Cell(", ".join(front), -len(front)),
            ]
        )
    return Sheet("networks", columns, rows, table.drop(columns="set"), "")


def departures_sheet(recipe: str, found: Sequence[tuple[str, str, str]]) -> Sheet:
    columns = [Column("setting", True), Column("paper", True), Column("here", True)]
    frame = pd.DataFrame(found, columns=["setting", "paper", "here"])
    rows = [[Cell(text, text) for text in row] for row in found]
    return Sheet(f"departures-{recipe}", columns, rows, frame, f"The {recipe} recipe.")


def contexts_sheet(frame: pd.DataFrame) -> Sheet:
    """One row per comparison that has no pages of its own."""
    columns = [Column("trained", True), Column("networks"), Column("runs"), Column("left out")]
    columns += [Column("best network", True), Column("its mean"), Column("first to last rung")]
    rows = [
        [
            Cell(row.title, row.title),
            Cell(str(row.networks), row.networks),
            Cell(str(row.runs), row.runs),
            Cell(str(row.left_out), row.left_out),
            Cell(row.best, row.best),
            _number(row.mean, percent(row.mean)),
            _number(row.change, signed(row.change)),
        ]
        for row in frame.itertuples()
    ]
    return Sheet("contexts", columns, rows, frame)


def _number(value: float, text: str, mark: str = "") -> Cell:
    return Cell(text, "" if pd.isna(value) else float(value), "" if pd.isna(value) else mark)


def _mark(verdict: str) -> str:
    return verdict if verdict in VERDICTS else ""


def _without_empty(sheet: Sheet) -> Sheet:
    """Without the columns that have nothing in any row."""
    kept = [place for place in range(len(sheet.columns)) if any(row[place].text != NOTHING for row in sheet.rows)]
    rows = [[row[place] for place in kept] for row in sheet.rows]
    return sheet._replace(columns=[sheet.columns[place] for place in kept], rows=rows)
