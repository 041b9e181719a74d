"""Frames as tables of text, with sort keys and highlights. HTML, Markdown and LaTeX show the same ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from analysis.measures import VERDICTS, measure
from analysis.statistics.ladder import compared_with, included, named
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
"""The costs that sections are valued in, besides the main metric."""


class Cell(NamedTuple):
    text: str
    value: float | str = ""
    """The sort key of its column; "" comes last."""
    style: str = ""
    """"up", "down", "paper", or ""."""


class Column(NamedTuple):
    head: str
    left: bool = False
    """Text is left-aligned, numbers are right-aligned."""
    group: str = ""


class ReportTable(NamedTuple):
    """A table as the report shows it."""

    name: str
    """The stem of its files."""
    columns: list[Column]
    rows: list[list[Cell]]
    frame: pd.DataFrame
    """The numbers behind it, which the CSV file has."""
    note: str = ""


def format_ladder(table: pd.DataFrame) -> ReportTable:
    """`ladder_table`: the rungs that have runs, with the published numbers beside the measured ones where there are
    any."""
    table = included(table)
    unit, prefix = macs_unit(table["macs"])
    metric, has_published = measure(table.attrs["metric"]), bool(table["published_top1"].notna().any())
    columns = [
        *(Column("step", True), Column("seeds", group=HERE), Column(metric.head, group=HERE)),
        *(Column("change", group=HERE), Column("95 % interval", group=HERE), Column("p (Holm)", group=HERE)),
        *(Column("detectable", group=HERE), *(Column(head, group=HERE) for head in _within(table))),
        *(Column("verdict", True, HERE), Column(f"MACs ({prefix})", group=HERE)),
        *([Column("top-1 (%)", group=PUBLISHED), Column("change", group=PUBLISHED)] if has_published else []),
    ]
    rows = []
    for row in table.itertuples():
        style = verdict_style(row.verdict)
        left_out = row.left_out - row.diverged - row.stopped
        seeds = trained(row.n, row.diverged, row.stopped) + (f" (+{left_out} left out)" if left_out else "")
        rows.append(
            [
                Cell(row.title + ("" if row.adopted else " (not adopted)"), row.Index),
                Cell(seeds, row.n),
                number_cell(row.mean, percent(row.mean, row.std)),
                number_cell(row.change, signed(row.change), style),
                number_cell(row.low, interval(row.low, row.high)),
                number_cell(row.p_holm, chance(row.p_holm)),
                number_cell(row.detectable, percent(row.detectable)),
                *(number_cell(row.p_negligible_holm, chance(row.p_negligible_holm)) for _ in _within(table)),
                Cell(in_words(row.verdict, row.survivors, getattr(row, "negligible", False)), row.verdict, style),
                number_cell(row.macs, scaled(row.macs, unit)),
            ]
        )
        if has_published:
            rows[-1] += [
                number_cell(row.published_top1, percent(row.published_top1, row.published_std), "paper"),
                number_cell(row.published_change, signed(row.published_change), "paper"),
            ]
    detectable = f"; {DETECTABLE}" if table["detectable"].notna().any() else ""
    images = "" if table["image_error"].notna().any() else " on these images, not of other images"
    start = compared_with(table)
    note = (
        f"± is a standard deviation over seeds (n − 1). Changes are from {start}, in {metric.unit or metric.name}; "
        f"95 % intervals, not corrected, say where they would be with other seeds{images}. Seeds are paired where "
        "both networks have the same, and the noise is estimated from all rungs together. A change is shown if its p, "
        f"corrected for the number of changes (Holm){for_looks(table)}, is below 0.05{detectable}.{_on_margin(table)}"
    )
    return drop_empty(ReportTable("ladder", columns, rows, table, note))


def format_images(table: pd.DataFrame) -> ReportTable:
    """The rows of `ladder_table` for which the noise of the choice of images is known."""
    known = named(table[table["image_error"].notna()].reset_index(drop=True))
    same_images, other_images = "other seeds, these images", "other seeds, other images"
    columns = [Column("step", True), Column("change"), Column("error of seeds"), Column("error of images")]
    columns += [Column("95 % interval", group=same_images), Column("verdict", True, same_images)]
    columns += [Column("95 % interval", group=other_images), Column("p (Holm)", group=other_images)]
    columns += [Column("verdict", True, other_images)]
    rows = [
        [
            _step(row),
            number_cell(row.change, signed(row.change)),
            number_cell(row.error, percent(row.error)),
            number_cell(row.image_error, percent(row.image_error)),
            number_cell(row.low, interval(row.low, row.high)),
            Cell(row.verdict, row.verdict, verdict_style(row.verdict)),
            number_cell(row.other_low, interval(row.other_low, row.other_high)),
            number_cell(row.other_p_holm, chance(row.other_p_holm)),
            Cell(row.other_verdict, row.other_verdict, verdict_style(row.other_verdict)),
        ]
        for row in known.itertuples()
    ]
    frame = known[["rung", "images", "change", "error", "image_error", "low", "high", "verdict"]]
    frame = frame.join(known[["other_low", "other_high", "other_p_holm", "other_verdict"]])
    note = (
        "Errors are standard errors of the change, in points; 0.00 for images is an estimate that was clipped at 0. "
        "The error of images is the part that is the same for every seed, so more seeds do not reduce it. The "
        "half-width of an interval for other images is the root of the sum of squares of those for seeds and images."
    )
    return ReportTable("images", columns, rows, frame, note)


def format_agreement(table: pd.DataFrame) -> ReportTable:
    """`agreement_table` of a `paper_table`: counts of changes, by the paper's finding and the verdict here."""
    counts = agreement_table(table)
    columns = [Column("published", True), *(Column(f"{here} here") for here in ("shown up", "shown down", "not shown"))]
    names = {"up": "up (+)", "down": "down (−)", "about 0": "about 0"}
    rows = [
        [Cell(names[row.Index], index), *(Cell(str(count), count) for count in row[1:])]
        for index, row in enumerate(counts.itertuples())
    ]
    note = (
        "Counts of measured changes. About 0: within twice the published noise. Shown: Holm-corrected p < 0.05. A "
        "change that is not shown neither confirms nor contradicts the paper."
    )
    return ReportTable("agreement", columns, rows, counts.reset_index(), note)


def format_paper(table: pd.DataFrame) -> ReportTable:
    """`paper_table`: the measured changes, with the published ones beside them."""
    shown = table[table["change"].notna()]
    columns = [Column("step", True), Column("published change"), Column("noise"), Column("published", True)]
    columns += [Column("change here"), Column("95 % interval"), Column("verdict here", True), Column("sign", True)]
    there = {"up": "▲ up", "down": "▼ down", "": NOTHING}
    signs = {True: "same", False: "opposite"}
    rows = [
        [
            _step(row),
            number_cell(row.published_change, signed(row.published_change), "paper"),
            number_cell(row.published_noise, percent(row.published_noise) + "*" * row.noise_assumed, "paper"),
            Cell(there.get(row.published_verdict, row.published_verdict), row.published_verdict, "paper"),
            number_cell(row.change, signed(row.change), verdict_style(row.verdict)),
            number_cell(row.low, interval(row.low, row.high)),
            Cell(
                {"up": "▲ ", "down": "▼ "}.get(row.verdict, "") + row.verdict, row.verdict, verdict_style(row.verdict)
            ),
            Cell(NOTHING if pd.isna(row.same_sign) else signs[bool(row.same_sign)], str(row.same_sign)),
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
        note += " * Where the paper prints no deviation, the largest of its ladder is assumed."
    return ReportTable("paper", columns, rows, table.drop(columns="reference"), note)


def format_effects(table: pd.DataFrame) -> ReportTable:
    """`effect_table`: one row per step of the road, one group of columns per way of measuring its effect."""
    table = table[table["kind"].isin(KINDS)]
    kinds = [kind for kind in KINDS if (table["kind"] == kind).any()]
    columns = [Column("step", True)]
    for kind in kinds:
        columns += [Column("effect", group=KINDS[kind]), Column("95 % interval", group=KINDS[kind])]
    by_kind = {kind: table[table["kind"] == kind].set_index("step") for kind in kinds}
    rows = []
    for index, step in enumerate(table.drop_duplicates("step").itertuples()):
        cells = [Cell(step_name(step.title), index)]
        for kind in kinds:
            if step.step not in by_kind[kind].index:
                cells += [Cell(NOTHING), Cell(NOTHING)]
                continue
            row = by_kind[kind].loc[step.step]
            effect = signed(row["effect"]) + " †" * bool(row["survivors"]) + " ≈" * bool(row.get("negligible"))
            cells.append(number_cell(row["effect"], effect, verdict_style(row["verdict"])))
            cells.append(number_cell(row["low"], interval(row["low"], row["high"])))
        rows.append(cells)
    looks = for_looks(table)
    note = f"{in_unit(table)}In colour: shown, with p < 0.05 after Holm’s correction within the column{looks}."
    if _within(table):
        note += f" ≈: negligible.{_on_margin(table)}"
    if table["survivors"].any():
        note += " †: runs of one of the networks diverged or were stopped; the effect is that of those that finished."
    return ReportTable("effects", columns, rows, table, note)


def format_added(table: pd.DataFrame, kind: str = "besides") -> ReportTable:
    """The "besides" or "elsewhere" rows of `effect_table`: one row per pair of networks that differ in one step."""
    metric = measure(table.attrs["metric"])
    columns = [Column("step", True), Column("added to", True), Column("seeds")]
    columns += [Column(f"without{metric.percent}"), Column(f"with{metric.percent}"), Column("effect")]
    columns += [Column("95 % interval"), Column("p (Holm)"), Column("detectable")]
    columns += [*map(Column, _within(table)), Column("verdict", True)]
    table = table[table["kind"] == kind].reset_index(drop=True)
    rows = []
    for index, row in enumerate(table.to_dict("records")):
        style = verdict_style(row["verdict"])
        rows.append(
            [
                Cell(row["step"], index),
                Cell(row["on"], index),
                Cell(str(row["n"]), row["n"]),
                number_cell(row["without"], percent(row["without"])),
                number_cell(row["with"], percent(row["with"])),
                number_cell(row["effect"], signed(row["effect"]), style),
                number_cell(row["low"], interval(row["low"], row["high"])),
                number_cell(row["p_holm"], chance(row["p_holm"])),
                number_cell(row["detectable"], percent(row["detectable"])),
                *(number_cell(row["p_negligible_holm"], chance(row["p_negligible_holm"])) for _ in _within(table)),
                Cell(in_words(row["verdict"], row["survivors"], row.get("negligible", False)), row["verdict"], style),
            ]
        )
    note = (
        f"{in_unit(table)}The two networks of a row differ in this step alone. The verdict follows p, corrected "
        f"for the number of rows (Holm){for_looks(table)}; {DETECTABLE}.{_on_margin(table)}"
    )
    return drop_empty(ReportTable(kind, columns, rows, table, note))


def _within(table: pd.DataFrame) -> list[str]:
    """The heading of the column of p-values that a margin adds, if there is a margin."""
    margin = table.attrs.get("margin")
    return [] if margin is None else [f"p (within ±{margin:g})"]


def _on_margin(table: pd.DataFrame) -> str:
    """The end of a note: what “negligible” means."""
    margin, unit = table.attrs.get("margin"), measure(table.attrs.get("value") or table.attrs["metric"]).unit
    if margin is None:
        return ""
    return (
        f" Negligible: shown to be within ±{margin:g} {unit}".rstrip()
        + ", by two one-sided tests, corrected as a family of their own; for other seeds, on these images."
    )


def for_looks(table: pd.DataFrame) -> str:
    """What p is corrected for besides the number of changes."""
    looks = table.attrs.get("looks", 1)
    return f" and for {looks} planned looks at the results" if looks > 1 else ""


def in_unit(table: pd.DataFrame) -> str:
    return f"In {table.attrs['unit']}. " if table.attrs.get("unit") else ""


def format_sections(tables: dict[str, pd.DataFrame]) -> ReportTable:
    """The `shapley_table` of the main metric and those of costs, by value: one row per section."""
    columns = [Column("section", True), Column("steps", True)]
    for value in tables:
        columns += [Column(measure(value).unit, group=measure(value).short or measure(value).name)]
        columns += [Column("95 % interval", group=columns[-1].group)]
    metric, first = next(iter(tables.items()))
    rows = []
    for index, section in enumerate(first.itertuples()):
        cells = [Cell(section.section, index), Cell(", ".join(section.steps), index)]
        for value, table in tables.items():
            row, unit = table.iloc[index], measure(value).unit
            style = verdict_style(row["verdict"]) if value == metric else ""
            ends = [quantity(row[end], unit, signed=True) for end in ("low", "high")]
            exact = row["low"] == row["high"]
            cells.append(number_cell(row["value"], quantity(row["value"], unit, signed=True), style))
            cells.append(
                number_cell(row["low"], "exact" if exact else NOTHING if math.isnan(row["low"]) else " to ".join(ends))
            )
        rows.append(cells)
    frame = pd.concat(dict(tables), names=["of", None]).reset_index("of")
    note = (
        f"Exact Shapley values of the road’s {len(first)} sections, from all {2 ** len(first)} combinations: the mean "
        "gain over all orders in which the sections could be taken. They add up to the gain of all steps over none. "
        "Each interval is that of one value, uncorrected, for the noise of training. In colour: shown, with p < 0.05 "
        f"after Holm’s correction for the {len(first)} sections{for_looks(first)}."
    )
    return ReportTable("sections", columns, rows, frame.assign(steps=frame["steps"].map(" ".join)), note)


def format_networks(table: pd.DataFrame) -> ReportTable:
    """`cost_table`: every network that has finished runs, and which ones are Pareto-optimal."""
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
                Cell(trained(row.n, row.diverged, row.stopped), row.n),
                number_cell(row.mean, percent(row.mean, row.std)),
                number_cell(row.macs, scaled(row.macs, unit)),
                number_cell(row.params, count(row.params)),
                number_cell(row.images_per_second, whole(row.images_per_second)),
                number_cell(row.device_hours, NOTHING if pd.isna(row.device_hours) else f"{row.device_hours:.3g}"),
                number_cell(row.peak_memory_mb, whole(row.peak_memory_mb)),
                Cell(", ".join(front), -len(front)),
            ]
        )
    return ReportTable("networks", columns, rows, table.drop(columns="set"), "")


def format_departures(recipe: str, departures: Sequence[tuple[str, str, str]]) -> ReportTable:
    """One row per (setting, paper, here) in which a recipe departs from the paper."""
    frame = pd.DataFrame(departures, columns=["setting", "paper", "here"])
    columns = [Column(name, True) for name in frame]
    rows = [[Cell(text, text) for text in row] for row in departures]
    return ReportTable(f"departures-{recipe}", columns, rows, frame, f"The {recipe} recipe.")


def format_contexts(frame: pd.DataFrame) -> ReportTable:
    """One row per comparison that the report does not show in full."""
    columns = [Column("trained", True), Column("networks"), Column("runs"), Column("left out")]
    columns += [Column("best network", True), Column("its mean"), Column("first to last rung")]
    rows = [
        [
            Cell(row.title, row.title),
            Cell(str(row.networks), row.networks),
            Cell(str(row.runs), row.runs),
            Cell(str(row.left_out), row.left_out),
            Cell(row.best, row.best),
            number_cell(row.mean, percent(row.mean)),
            number_cell(row.change, signed(row.change)),
        ]
        for row in frame.itertuples()
    ]
    return ReportTable("contexts", columns, rows, frame)


def number_cell(value: float, text: str, style: str = "") -> Cell:
    return Cell(text) if pd.isna(value) else Cell(text, float(value), style)


def _step(row: Any) -> Cell:
    """The name of a ladder's step, sorted by its place on the road."""
    return Cell(step_name(row.title) + ("" if row.adopted else " (not adopted)"), row.Index)


def verdict_style(verdict: str) -> str:
    return verdict if verdict in VERDICTS else ""


def drop_empty(table: ReportTable) -> ReportTable:
    """Drops the columns that are empty in every row."""
    kept = [index for index in range(len(table.columns)) if any(row[index].text != NOTHING for row in table.rows)]
    rows = [[row[index] for index in kept] for row in table.rows]
    return table._replace(columns=[table.columns[index] for index in kept], rows=rows)
