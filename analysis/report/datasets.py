"""What a report says of the same networks on several datasets."""

from __future__ import annotations

import pandas as pd

from analysis import figures
from analysis.measures import VERDICTS, measure
from analysis.report.section import Picture, Section
from analysis.report.tables import Cell, Column, ReportTable, for_looks
from analysis.statistics.comparison import Comparison
from analysis.statistics.datasets import MEAN, across_datasets, by_dataset
from analysis.text import chance, interval, percent, signed
from roadmap.common.words import counted, listed, shortened

MOST = 6
"""How many effects a sentence names at most."""
SURE = 0.05


def dataset_sections(comparisons: list[Comparison]) -> list[Section]:
    """A section for each group of comparisons that differ in their dataset alone."""
    tables = [table for group in by_dataset(comparisons) if len(table := across_datasets(group))]
    return [_section(table, number) for number, table in enumerate(tables, 1)]


def _section(table: pd.DataFrame, number: int) -> Section:
    names = table.attrs["names"]
    few = " With so few, it is wide, whatever the number of seeds." if len(names) < 5 else ""
    text = (
        f"The same effects on {listed(names)}, each with its own seeds and noise. The mean is that of a random-effects "
        "model: it is about datasets like these, on which the true effects differ with standard deviation tau (Paule "
        "and Mandel). Its interval is Hartung and Knapp’s, from Student’s t with one degree of freedom fewer than "
        f"there are datasets.{few} A point is not worth the same on every dataset; what all agree on is the sign."
    )
    suffix = "" if number == 1 else f"-{number}"
    picture = Picture(
        f"datasets{suffix}", figures.datasets_figure(table), "Each effect by dataset, and the mean, with intervals"
    )
    title = f"Across {counted(len(names), 'dataset')}{f' ({number})' if number > 1 else ''}"
    return Section(
        f"datasets{suffix}", title, [text], [picture], [_format(table, f"datasets{suffix}")], findings=_sentences(table)
    )


def _sentences(table: pd.DataFrame) -> list[str]:
    """Which effects are shown on average, whose signs agree, and which differ between datasets."""
    means = table[table["dataset"] == MEAN]
    unit = f", in {table.attrs['unit']}" if table.attrs["unit"] else ""
    by_size = means.reindex(means["value"].abs().sort_values(ascending=False).index)
    shown = by_size[by_size["verdict"].isin(VERDICTS)]
    if len(shown):
        words = [f"{row.effect} {signed(row.value)} ({interval(row.low, row.high)})" for row in shown.itertuples()]
        sentences = [f"Shown on average over datasets{unit}: {shortened(words, MOST, '; '.join)}."]
    else:
        largest = next(by_size.itertuples())
        seen = f"{largest.effect} {signed(largest.value)} ({interval(largest.low, largest.high)})"
        sentences = [f"No effect is shown on average over datasets; the largest is {seen}{unit}."]
    sentences.append(_sign_sentence(table))
    differing = means[means["p_heterogeneity"] < SURE]
    if len(differing):
        words = [f"{row.effect} (tau {percent(row.tau)})" for row in differing.itertuples()]
        sentences.append(
            f"More different between datasets than their seeds explain (p < {SURE}, not corrected): "
            f"{shortened(words, MOST)}. A mean hides that."
        )
    return sentences


def _sign_sentence(table: pd.DataFrame) -> str:
    """For how many effects the sign is the same on all datasets. Only those count that each dataset has with an error:
    what is left of stopped runs is biased, and what single seeds show is not judged elsewhere either."""
    datasets = len(table.attrs["names"])
    values = table[(table["dataset"] != MEAN) & (table["error"] > 0)].groupby("effect", sort=False)["value"]
    everywhere = values.agg(["min", "max"])[values.size() == datasets]
    others = table["effect"].nunique() - len(everywhere)
    if everywhere.empty:
        return "No effect has an interval on each dataset, so signs are not compared."
    agreeing = int(((everywhere["min"] > 0) | (everywhere["max"] < 0)).sum())
    not_counted = f" (not counted: {counted(others, 'effect')} without an interval on each dataset)" * bool(others)
    return (
        f"The sign is the same on all datasets for {agreeing} of {counted(len(everywhere), 'effect')}; chance alone "
        f"gives that for 1 of {2 ** (datasets - 1)}{not_counted}."
    )


def _format(table: pd.DataFrame, name: str) -> ReportTable:
    """One row per effect, one group of columns per dataset."""
    names = table.attrs["names"]
    groups = [*names, "mean of datasets"]
    columns = [Column("effect", True)]
    for group in groups:
        columns += [Column("change", group=group), Column("95 % interval", group=group)]
    columns += [Column("p (Holm)", group=groups[-1])]
    columns += [Column(head, group="between datasets") for head in ("tau", "I² (%)", "p")]
    rows = []
    for index, (effect, rows_of_effect) in enumerate(table.groupby("effect", sort=False)):
        by_name = {row.dataset: row for row in rows_of_effect.itertuples()}
        cells = [Cell(str(effect), index)]
        for dataset in [*names, MEAN]:
            row = by_name.get(dataset)
            if row is None:
                cells += [Cell("–"), Cell("–")]
                continue
            cells.append(Cell(signed(row.value), row.value, row.verdict if row.verdict in VERDICTS else ""))
            cells.append(Cell(interval(row.low, row.high), "" if pd.isna(row.low) else row.low))
        mean = by_name[MEAN]
        cells += [
            Cell(chance(mean.p_holm), mean.p_holm),
            Cell(percent(mean.tau), mean.tau),
            Cell(f"{mean.i2:.0f}", mean.i2),
            Cell(chance(mean.p_heterogeneity), mean.p_heterogeneity),
        ]
        rows.append(cells)
    unit = measure(table.attrs["value"]).unit
    note = (
        f"{f'In {unit}. ' if unit else ''}In colour: shown, with p < 0.05 after Holm’s correction, on a dataset among "
        f"its own effects, of means among the means{for_looks(table)}. tau: standard deviation of true effects between "
        "datasets; I²: its part in the variance of the estimates; p between datasets: Welch’s test, which with few "
        "datasets rarely finds a difference that is there."
    )
    return ReportTable(name, columns, rows, table, note)
