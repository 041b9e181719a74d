"""What a report says of studies of budgets: does it pay with more training, or with more training images?"""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis import figures
from analysis.measures import VERDICTS, measure
from analysis.report.findings import MOST_STEPS, POWER
from analysis.report.section import Picture, Section
from analysis.report.tables import Cell, Column, ReportTable, drop_empty, for_looks, in_unit, number_cell, verdict_style
from analysis.statistics.budgets import (
    ANYWHERE,
    BENT,
    EARLY,
    EITHER,
    LATE,
    WITHIN,
    BudgetStudy,
    budget_studies,
    budget_table,
    scaling_table,
    shared_noise,
    slope_table,
)
from analysis.statistics.comparison import Comparison
from analysis.text import NOTHING, chance, equals, in_words, interval, percent, signed, whole
from roadmap.common.words import counted, listed, shortened

SHARED = 0.01
"""Below this p the report says that a seed's noise is shared between budgets."""


def budget_sections(comparisons: list[Comparison]) -> tuple[list[Section], list[Comparison]]:
    """A section per study of budgets. Of each, only the largest budget with which most effects were measured keeps its
    chapter, and another one with networks that the section does not follow."""
    studies = budget_studies(comparisons)
    seen: dict[str, int] = {}
    sections = []
    for study in studies:
        seen[study.kind] = number = seen.get(study.kind, 0) + 1
        sections.append(_section(study, "" if number == 1 else f"-{number}"))
    kept = {path for study in studies for path in study.comparisons[study.complete[-1]].runs["path"]}
    followed = {path for study in studies for path in _followed(study)} - kept
    return sections, [comparison for comparison in comparisons if not {*comparison.runs["path"]} <= followed]


def _followed(study: BudgetStudy) -> set[str]:
    """The paths of the runs of the networks whose differences are followed over budgets: sets of steps."""
    networks = {network for pair in study.pairs for network in pair[2:]}
    runs = pd.concat([comparison.runs for comparison in study.comparisons.values()])
    return {*runs["path"][runs["set"].isin(networks)]}


def _section(study: BudgetStudy, suffix: str) -> Section:
    slopes, by_budget = slope_table(study), budget_table(study)
    stem = ("budgets" if study.kind == "epochs" else "subsets") + suffix
    tables = [
        table._replace(name=f"{stem}-{table.name}") for table in (format_slopes(slopes), format_budgets(by_budget))
    ]
    pictures = [
        Picture(stem, figures.budgets_figure(study), "The effect of each step by budget, and a line through it"),
        Picture(f"{stem}-accuracy", figures.scaling_figure(study), "Accuracy by number of training images"),
    ]
    about = f"{slopes.attrs['about']}. {slopes.attrs['scale'][0].upper()}{slopes.attrs['scale'][1:]}."
    paragraphs = [about, *_accuracies(study), *_shared(study)]
    return Section(stem, study.question, paragraphs, pictures, tables, findings=budget_findings(slopes, by_budget))


def budget_findings(slopes: pd.DataFrame, by_budget: pd.DataFrame) -> list[str]:
    """What a `slope_table` and a `budget_table` show, in a few sentences: first the road as a whole, then which effects
    rise and fall with the budget, what is shown at the largest, where effects cross zero, and what is not known."""
    sentences = [_ends(row, by_budget) for row in slopes[slopes["kind"] == "ends"].itertuples()]
    per_doubling = f"{slopes.attrs['unit']} per doubling".strip()
    steps = slopes[slopes["kind"] != "ends"]
    tested = steps[steps["p"].notna()]
    largest = in_budget(slopes, slopes.attrs["at"])
    for verdict, way in {"up": "rise", "down": "fall"}.items():
        words = [
            f"{row.title}, by {signed(row.slope)} {per_doubling} ({interval(row.low, row.high)})"
            + ("" if pd.isna(row.effect) else f", to {signed(row.effect)} at {largest}")
            for row in tested[tested["verdict"] == verdict].itertuples()
        ]
        if words:
            sentences.append(f"Effects that are shown to {way}: {shortened(words, MOST_STEPS, '; '.join)}.")
    rest = tested[~tested["verdict"].isin(VERDICTS)]
    if len(rest):
        names = shortened(rest["title"], MOST_STEPS)
        median = rest["detectable"].median(skipna=False)
        power = (
            "the noise is too uncertain to say how large a slope would be shown"
            if pd.isna(median)
            else f"a true slope of {percent(median)} {per_doubling} would be shown {POWER}"
        )
        sentences.append(f"Not shown to rise or fall, which does not mean that they stay the same: {names}; {power}.")
    if len(unknown := steps[steps["p"].isna()]):
        words = [f"{row.title} ({row.verdict or 'fewer than two budgets'})" for row in unknown.itertuples()]
        sentences.append(f"Slopes that cannot be judged: {shortened(words, MOST_STEPS)}.")
    sentences += [_at_largest(steps)] if steps["effect_p"].notna().any() else []
    sentences += [_crossing(row, slopes) for row in slopes[slopes["where"] == WITHIN].itertuples()]
    outside = slopes[~slopes["where"].isin(("", WITHIN, BENT))]
    if len(outside):
        names = shortened(outside["title"], MOST_STEPS)
        sentences.append(f"Where these cross zero, if they do, is not within what was measured: {names}.")
    if len(poor := slopes[slopes["where"] == BENT]):
        words = [f"{row.title} (p of a bend {equals(row.curvature_p)})" for row in poor.itertuples()]
        sentences.append(
            f"Not on a straight line, so that a slope says little and no crossing is given: "
            f"{shortened(words, MOST_STEPS)}."
        )
    if len(collapsed := by_budget[by_budget["collapsed"]]):
        words = [f"{row.title} at {in_budget(slopes, row.budget)}" for row in collapsed.itertuples()]
        sentences.append(f"One of the two networks hardly trained: {shortened(words, MOST_STEPS)}.")
    gaps = slopes[slopes["missing"].map(len) > 0]
    for missing, rows in gaps.groupby(gaps["missing"].map(tuple)):
        without = listed(in_budget(slopes, budget) for budget in missing)
        sentences.append(f"The lines of these effects are without {without}: {shortened(rows['title'], MOST_STEPS)}.")
    return sentences


def _ends(row: Any, by_budget: pd.DataFrame) -> str:
    """The last rung against the first."""
    budgets = by_budget[(by_budget["kind"] == "ends") & by_budget["effect"].notna()]
    first, last = budgets.iloc[0], budgets.iloc[-1]
    unit = by_budget.attrs["unit"]
    text = (
        f"From the first rung to the last, {row.reference} to {row.network}: {signed(first['effect'])} {unit} at "
        f"{in_budget(by_budget, first['budget'])}, {signed(last['effect'])} at {in_budget(by_budget, last['budget'])}; "
        f"{signed(row.slope)} per doubling"
    )
    if pd.isna(row.low):
        return f"{text}, which cannot be distinguished from noise: {row.verdict}."
    text += f" ({interval(row.low, row.high)}), "
    trained = ", among the runs that finished" * row.survivors
    if row.verdict in VERDICTS:
        return f"{text}shown to {'rise' if row.verdict == 'up' else 'fall'}{trained}."
    power = "" if pd.isna(row.detectable) else f"; a true slope of {percent(row.detectable)} would be shown {POWER}"
    return f"{text}not shown to rise or fall{trained}{power}."


def _at_largest(steps: pd.DataFrame) -> str:
    is_largest = steps.attrs["at"] == steps.attrs["budgets"][-1]
    most = "" if is_largest else " with which most effects were measured"
    where = f"At {in_budget(steps, steps.attrs['at'])}, the largest budget{most},"
    tested = steps[steps["effect_p"].notna()]
    shown = tested[tested["effect_verdict"].isin(VERDICTS)]
    effects = counted(len(tested), "effect") + " measured there" * (len(tested) < len(steps))
    if shown.empty:
        return f"{where} none of {effects} is shown to differ from zero."
    words = [
        f"{row.title} ({signed(row.effect)}, {interval(row.effect_low, row.effect_high)})" for row in shown.itertuples()
    ]
    return (
        f"{where} {len(shown)} of {effects} "
        f"{'is' if len(shown) == 1 else 'are'} shown to differ from zero: {shortened(words, MOST_STEPS)}."
    )


def _crossing(row: Any, slopes: pd.DataFrame) -> str:
    pays = "it pays beyond that" if row.slope > 0 else "it pays up to there"
    low, high, crossing = (in_budget(slopes, value) for value in (row.crossing_low, row.crossing_high, row.crossing))
    low = low.partition(" ")[0]
    return f"The line of {row.title} crosses zero at {crossing} (95 % interval {low} to {high}): {pays}."


def _shared(study: BudgetStudy) -> list[str]:
    correlation, p = shared_noise(study)
    if not p < SHARED:
        return []
    return [
        f"A seed does much the same to a network with every budget (correlation {percent(correlation)}, "
        f"p {equals(p)}). Intervals take budgets to be independent: those of slopes are therefore too wide here, and "
        "those of crossings too narrow."
    ]


def _accuracies(study: BudgetStudy) -> list[str]:
    """How much the accuracy of the road's main networks grows."""
    table = scaling_table(study)
    words: dict[str, list[str]] = {}
    for name, rows in table.groupby("rung", sort=False):
        first, last = rows.iloc[0], rows.iloc[-1]
        if len(rows) > 1:
            low, high = in_budget(table, first["budget"]), in_budget(table, last["budget"])
            gain = f"{percent(first['mean'])} to {percent(last['mean'])} ({signed(last['mean'] - first['mean'])})"
            words.setdefault(f"from {low} to {high}", []).append(f"{name} {gain}")
    axis = measure(table.attrs["metric"]).axis
    return [f"Mean {axis}, {budgets}: {'; '.join(gains)}." for budgets, gains in words.items()]


def format_slopes(table: pd.DataFrame) -> ReportTable:
    """`slope_table`: one row per pair of networks."""
    metric, largest = measure(table.attrs["metric"]), in_budget(table, table.attrs["at"])
    slope, at_largest = "per doubling", f"at {largest}"
    columns = [Column("step", True), Column("slope", group=slope), Column("95 % interval", group=slope)]
    columns += [Column("p (Holm)", group=slope), Column("verdict", True, slope), Column("change", group=at_largest)]
    columns += [Column("95 % interval", group=at_largest), Column("p (Holm)", group=at_largest)]
    columns += [Column("verdict", True, at_largest), Column(f"crosses zero ({table.attrs['budget_unit']})", True)]
    columns += [Column("p of a bend")]
    rows = [
        [
            Cell(row.title, row.Index),
            number_cell(row.slope, signed(row.slope), verdict_style(row.verdict)),
            number_cell(row.low, interval(row.low, row.high)),
            number_cell(row.p_holm, chance(row.p_holm)),
            Cell(in_words(row.verdict, row.survivors), row.verdict, verdict_style(row.verdict)),
            number_cell(row.effect, signed(row.effect), verdict_style(row.effect_verdict)),
            number_cell(row.effect_low, interval(row.effect_low, row.effect_high)),
            number_cell(row.effect_p_holm, chance(row.effect_p_holm)),
            Cell(in_words(row.effect_verdict, row.survivors), row.effect_verdict, verdict_style(row.effect_verdict)),
            Cell(_crossing_cell(row) or NOTHING, row.where),
            number_cell(row.curvature_p, chance(row.curvature_p)),
        ]
        for row in table.itertuples()
    ]
    note = (
        f"Changes are of {metric.name}, in {metric.unit or 'its unit'}. A slope is that of a straight line over the "
        "logarithm of the budget, which describes what was measured and says nothing of larger budgets. p is corrected "
        f"for the number of rows (Holm){for_looks(table)}, of the slopes and of the changes separately, but for “all "
        "steps”, a claim of its own; intervals are not. The 95 % interval of the crossing (Fieller) is where the line "
        "is not shown to differ from zero; if that is not within what was measured, the cell says why."
    )
    if table["curvature_p"].notna().any():
        note += " A small p of a bend, not corrected, says that the effects are not on a line: below 0.05 no crossing "
        note += "is given."
    return drop_empty(ReportTable("slopes", columns, rows, table.assign(missing=table["missing"].map(str)), note))


def _crossing_cell(row: Any) -> str:
    """Where the line crosses zero, or why that is not within what was measured."""
    low, high = _rounded(row.crossing_low), _rounded(row.crossing_high)
    words = {
        WITHIN: f"{_rounded(row.crossing)} ({low} to {high})",
        EARLY: f"at {high} or before, if at all",
        LATE: f"at {low} or later, if at all",
        EITHER: "not known: no sign shown at either end",
        ANYWHERE: "not known: no sign shown anywhere",
        BENT: "not known: not on a line",
    }
    return words.get(row.where, row.where)


def _rounded(budget: float) -> str:
    """A budget with one decimal, or as a whole number: "2.6", "3,411"."""
    return NOTHING if pd.isna(budget) else f"{budget:.2g}" if budget < 10 else whole(budget)


def format_budgets(table: pd.DataFrame) -> ReportTable:
    """`budget_table`: one row per pair of networks, one group of columns per budget."""
    budgets = table.attrs["budgets"]
    columns = [Column("step", True)]
    for budget in budgets:
        columns += [Column(head, group=in_budget(table, budget)) for head in ("seeds", "change", "95 % interval")]
    by_budget = [rows.to_dict("records") for _, rows in table.groupby("budget", sort=True)]
    rows = []
    for index, pair in enumerate(zip(*by_budget, strict=True)):
        cells = [Cell(pair[0]["title"], index)]
        for row in pair:
            marks = " †" * row["survivors"] + " ‡" * row["collapsed"]
            cells.append(Cell(str(row["n"]), row["n"]))
            cells.append(number_cell(row["effect"], signed(row["effect"]) + marks, verdict_style(row["verdict"])))
            cells.append(number_cell(row["low"], interval(row["low"], row["high"])))
        rows.append(cells)
    note = (
        f"{in_unit(table)}Each change is from the network before the step to the one after it, trained alike. In "
        f"colour: shown, with p < 0.05 after Holm’s correction within the budget{for_looks(table)}."
    )
    if table["survivors"].any():
        note += " †: runs of one of the networks diverged or were stopped; the change is that of those that finished."
    note += " ‡: one of the two hardly trained." * bool(table["collapsed"].any())
    return ReportTable("by-budget", columns, rows, table, note)


def in_budget(table: pd.DataFrame, budget: float) -> str:
    """ "1 epoch", "2,500 training images"."""
    unit = table.attrs["budget_unit"]
    return f"1 {unit.removesuffix('s')}" if budget == 1 else f"{_rounded(budget)} {unit}"
