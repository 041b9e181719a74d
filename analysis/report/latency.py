"""What a report says of measured speeds: how fast the rungs are, and how little their multiply-adds say about it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis import figures
from analysis.report.section import Picture, Section
from analysis.report.tables import Cell, Column, ReportTable, drop_empty, number_cell
from analysis.sources.runs import Runs
from analysis.statistics.comparison import Comparison
from analysis.statistics.ladder import ladder_table
from analysis.statistics.latency import latency_table, setting_words, settings_of, workload_words, workloads_of
from analysis.statistics.paper import kendall
from analysis.text import MINUS, NOTHING, count, macs_unit, scaled, step_name, whole
from roadmap.common.words import counted

FEWEST_ORDERED = 5
"""How many rungs an order is said to have at least."""
MOST_SETTINGS = 6
"""How many settings (devices, precisions, ...) have a section at most."""


def latency_sections(runs: Runs, comparisons: list[Comparison]) -> list[Section]:
    """A section per setting in which speeds were measured. Accuracies are those of `comparisons`, where one is of the
    same networks."""
    tables = settings_of(latency_table(runs))
    sections = [
        _section(table, _accuracy(table, comparisons), "" if number == 1 else f"-{number}")
        for number, table in enumerate(tables[:MOST_SETTINGS], 1)
    ]
    if len(tables) > MOST_SETTINGS:
        more = (
            f"{counted(len(tables) - MOST_SETTINGS, 'more setting')} with measured speeds: report their records alone."
        )
        sections[-1].paragraphs.append(more)
    return sections


def _section(table: pd.DataFrame, accuracy: pd.DataFrame | None, suffix: str) -> Section:
    first = table.iloc[0]
    paragraphs, pictures = [about(table)], []
    if (table["rung"].notna() & (table["mode"] == "inference")).any():
        what = "The rungs by speed and accuracy, and their multiply-adds beside their speed"
        pictures.append(Picture(f"road{suffix}", figures.road_figure(table, accuracy), what))
        paragraphs.append(figures.accuracy_source(first, accuracy))
    title = f"Speed: {first['regime']}, {first['resolution']} px"
    tables = [format_latency(table, f"speeds{suffix}")]
    return Section(f"latency{suffix}", title, paragraphs, pictures, tables, findings=latency_findings(table))


def _accuracy(table: pd.DataFrame, comparisons: list[Comparison]) -> pd.DataFrame | None:
    """The ladder of the first comparison of the same road, regime and resolution that has at least two of its rungs."""
    first = table.iloc[0]
    for comparison in comparisons:
        context = comparison.context
        same = (context.regime, context.resolution, comparison.road.name)
        if same == (first["regime"], first["resolution"], first["road"].name):
            ladder = ladder_table(comparison)
            if (ladder["rung"].isin(table["rung"]) & ladder["mean"].notna()).sum() > 1:
                return ladder
    return None


def latency_findings(table: pd.DataFrame) -> list[str]:
    """For each mode and batch size of a `latency_table` of one setting with at least two rungs, the fastest and the
    slowest, and whether multiply-adds order them in the same way."""
    sentences = []
    for rows in workloads_of(table):
        rungs = rows[rows["rung"].notna()]
        if len(rungs) < 2:
            continue
        fastest, slowest = (rungs.loc[rungs["ms"].idxmin()], rungs.loc[rungs["ms"].idxmax()])
        first, words = rungs.iloc[0], workload_words(rungs.iloc[0])
        if fastest["ms_high"] >= slowest["ms_low"]:
            sentences.append(
                f"{words[0].upper()}{words[1:]}: the rungs’ times are not told apart, as even the quartiles of the "
                f"fastest, {_rung(fastest)}, and of the slowest, {_rung(slowest)}, overlap."
            )
            continue
        sentences.append(
            f"{words[0].upper()}{words[1:]}: {_rung(fastest)} is the fastest rung, {_rung(slowest)} the slowest. The "
            f"rungs have {_range(rungs['relative_macs'])} times the multiply-adds of “{step_name(first['title'])}”, "
            f"and {_range(rungs['relative'])} times its speed{_order(rungs)}."
        )
    return sentences


def _rung(row: pd.Series) -> str:
    return f"“{step_name(row['title'])}” ({_rate(row['images_per_second'])} images/s)"


def _range(values: pd.Series) -> str:
    return f"{values.min():.2f} to {values.max():.2f}"


def _order(rungs: pd.DataFrame) -> str:
    """How well multiply-adds order the rungs by time; of a few rungs, chance may give any order."""
    if len(rungs) < FEWEST_ORDERED:
        return ""
    with np.errstate(invalid="ignore"):  # rungs that are all equal have no order
        tau = float(kendall(rungs["macs"].to_numpy(float), rungs["ms"].to_numpy(float)))
    if np.isnan(tau):
        return ""
    text = f"{tau:+.2f}".replace("-", MINUS)
    return f"; Kendall’s tau of multiply-adds and time is {text}, where 1 is the same order"


def about(table: pd.DataFrame) -> str:
    """How the speeds of a `latency_table` of one setting were measured, and what they do not show."""
    first = table.iloc[0]
    rounds = sorted({int(value) for value in table["rounds"]})
    number = str(rounds[0]) if len(rounds) == 1 else f"{rounds[0]} to {rounds[-1]}"
    calls = table["started"].nunique()
    torch = f", torch {first['torch']}" if first["torch"] else ""
    sentences = [
        f"Measured on {setting_words(first)}{torch}; {first['resolution']} px, "
        f"{whole(first['classes'])} classes, random weights. Median and quartiles of {number} rounds, in each of which "
        "every network had a turn."
    ]
    if calls > 1:
        sentences.append(
            f"They come from {calls} calls, and only those of one call were measured in turns: differences between "
            "calls may be the machine’s."
        )
    if table["busy"].eq(True).any():
        sentences.append("Other processes kept the machine busy, so times are too long, and differ more.")
    sentences.append(
        "On another device, and with another precision, memory layout, batch or resolution, networks may come in "
        "another order."
    )
    return " ".join(sentences)


def format_latency(table: pd.DataFrame, name: str) -> ReportTable:
    """A `latency_table` of one setting: one row per network, one group of columns per mode and batch size."""
    workloads = workloads_of(table)
    columns = [Column("step", True), Column("MACs"), Column("params")]
    unit, prefix = macs_unit(table["macs"])
    columns[1] = Column(f"MACs ({prefix})")
    for rows in workloads:
        group = workload_words(rows.iloc[0])
        columns += [Column("ms", group=group), Column("quartiles", group=group)]
        columns += [Column("images/s", group=group), Column("× first rung", group=group)]
    networks = table.drop_duplicates("network")
    by_workload = [rows.drop_duplicates("network").set_index("network") for rows in workloads]
    cells = []
    for index, row in enumerate(networks.itertuples()):
        beside = " (not adopted)" * (pd.notna(row.rung) and not row.adopted)
        cells.append([Cell(step_name(row.title) + beside, index)])
        cells[-1] += [number_cell(row.macs, scaled(row.macs, unit)), number_cell(row.params, count(row.params))]
        for rows in by_workload:
            cells[-1] += _times(rows.loc[row.network]) if row.network in rows.index else [Cell(NOTHING)] * 4
    note = (
        "ms: a pass of the whole batch, or a training step (forward pass, loss, backward pass, optimizer), on a batch "
        "that is on the device already; without reading and transforming images. × first rung: how many times as fast, "
        "the median over rounds. Multiply-adds are those of one image."
    )
    frame = table.assign(road=table["road"].map(lambda road: road.name))
    return drop_empty(ReportTable(name, columns, cells, frame, note))


def _times(row: Any) -> list[Cell]:
    return [
        number_cell(row["ms"], _ms(row["ms"])),
        Cell(f"{_ms(row['ms_low'])} to {_ms(row['ms_high'])}", float(row["ms_low"])),
        number_cell(row["images_per_second"], _rate(row["images_per_second"])),
        number_cell(row["relative"], NOTHING if pd.isna(row["relative"]) else f"{row['relative']:.2f}"),
    ]


def _ms(value: float) -> str:
    return whole(value) if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.3g}"


def _rate(value: float) -> str:
    return whole(value) if value >= 100 else f"{value:.3g}"
