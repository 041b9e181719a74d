"""The sections of a report on a comparison, and their order. `files` renders them."""

from __future__ import annotations

import pandas as pd

from analysis import figures
from analysis.report.factors import factor_sections, holds_ladder, outside
from analysis.report.findings import MOST_STEPS, agreement_sentence, images_sentence, ranks_sentence
from analysis.report.section import Picture, Section
from analysis.report.tables import (
    KINDS,
    SECTION_COSTS,
    format_added,
    format_agreement,
    format_departures,
    format_effects,
    format_images,
    format_ladder,
    format_networks,
    format_paper,
    format_sections,
)
from analysis.statistics.comparison import Comparison
from analysis.statistics.costs import FRONTS, cost_table
from analysis.statistics.departures import departures, kernel_note
from analysis.statistics.effects import unpaired
from analysis.statistics.factors import Factorial
from analysis.statistics.ladder import included
from analysis.statistics.paper import agreement, paper_table
from analysis.statistics.provenance import missing, stopped, unfinished
from analysis.statistics.shapley import (
    FEW,
    has_sections,
    interaction_table,
    measured_unions,
    shapley_from_orders,
    shapley_table,
)
from analysis.text import percent, step_name
from roadmap.common.words import listed, shortened


def report_sections(
    comparison: Comparison,
    ladder: pd.DataFrame,
    effects: pd.DataFrame,
    epochs: pd.DataFrame | None = None,
    factorial: Factorial | None = None,
) -> list[Section]:
    """The sections of a comparison's report: only those for which there are runs.

    `ladder`: its `ladder_table`; `effects`: its `effect_table`; `epochs`: `Runs.epochs`, for learning curves;
    `factorial`: its `factors`, whose sections other ones do not repeat.
    """
    held = factorial is not None and holds_ladder(factorial, ladder)
    effects = outside(factorial, effects) if factorial else effects
    added = _added_steps(comparison, effects)
    return [
        *factor_sections(factorial),
        *([_ladder(ladder)] if shows_ladder(ladder, has_added=bool(added)) and not held else []),
        *_images(ladder),
        *added,
        *([_paper(ladder)] if paper_table(ladder)["change"].notna().any() else []),
        *_effects(comparison, effects),
        *_shapley(comparison),
        *_costs(comparison, ladder),
        *_curves(comparison, epochs),
        *_stopped(comparison),
        *_missing(comparison),
        *_departures(comparison),
    ]


def shows_ladder(ladder: pd.DataFrame, *, has_added: bool) -> bool:
    """Whether the ladder is worth showing: a step of it was measured; or a rung, and there are no added steps."""
    return bool(ladder["change"].notna().any() or ((ladder["n"] > 0).any() and not has_added))


def _ladder(ladder: pd.DataFrame) -> Section:
    what = f"Accuracy by step, {ladder.attrs['scale']}; the table that follows has the numbers"
    picture = Picture("ladder", figures.ladder_figure(ladder), what)
    return Section("ladder", "Step by step", [_changes_from(ladder)], [picture], [format_ladder(ladder)])


def _changes_from(ladder: pd.DataFrame) -> str:
    start = ladder.attrs["reference"]
    if ladder.attrs["gaps"]:
        return "Changes are from the nearest rung in the study: a step, or all the steps between the two."
    if not start:
        return f"Changes are from each step’s parent on the road.{_included(ladder)}"
    why = ", as no rung here has its parent measured too" * bool(ladder.attrs.get("by_default"))
    return f"Differences are from “{start}”{why}.{_included(ladder)}"


def _included(ladder: pd.DataFrame) -> str:
    count = len(included(ladder))
    return f" {count} of the road’s {len(ladder)} rungs have runs." if count < len(ladder) else ""


def _images(ladder: pd.DataFrame) -> list[Section]:
    """Only where records say which images a run gets right."""
    if ladder["image_error"].isna().all():
        return []
    return [Section("images", "On other images", [images_sentence(ladder)], tables=[format_images(ladder)])]


def _paper(ladder: pd.DataFrame) -> Section:
    table = paper_table(ladder)
    sentences = [agreement_sentence(ladder), ranks_sentence(agreement(ladder))]
    picture = Picture("paper", figures.paper_figure(table), "Published and measured change, one point per step")
    tables = [format_paper(table)]
    if table["published_noise"].notna().any():
        tables.insert(0, format_agreement(table))
    return Section("paper", "Compared with the paper", [*filter(None, sentences)], [picture], tables)


def _added_steps(comparison: Comparison, effects: pd.DataFrame) -> list[Section]:
    """Steps that are on no rung, and steps of the road that were added to other rungs than their own, if any."""
    text = (
        "Each was added to a network that was also trained without it, with everything else the same: the effect is "
        "the difference of the two."
    )
    without_pair = unpaired(comparison)
    advice = (
        f"Nothing can be said about {listed(without_pair)} yet: no two networks with finished runs differ in the step "
        "alone. Train the same network without it."
    )
    titles = {"besides": "Steps that are on no rung of the road", "elsewhere": "Steps on other rungs than their own"}
    sections = []
    for kind, title in titles.items():
        count = int((effects["kind"] == kind).sum())
        what = f"{title}: the effect of each, with its interval"
        pictures = [Picture(kind, figures.besides_figure(effects, kind), what)] if count > 1 else []
        tables = [format_added(effects, kind)] if count else []
        paragraphs = [text] * bool(count) + [advice] * bool(without_pair and kind == "besides")
        if paragraphs:
            sections.append(Section(kind, title, paragraphs, pictures, tables))
    return sections


def _effects(comparison: Comparison, table: pd.DataFrame) -> list[Section]:
    """Only if there is more than the road."""
    if not {*table["kind"]} & {*KINDS} - {"road"}:
        return []
    text = (
        "The road takes the steps in one order. Leave one out: what the last network loses without a step. Add one in: "
        f"what a step alone brings to the rung “{step_name(comparison.road[comparison.road.base].title)}”. The mean "
        "over random orders estimates a step’s Shapley value."
    )
    pictures = [Picture("effects", figures.effects_figure(table), "What each step is worth, measured in several ways")]
    orders = shapley_from_orders(comparison)
    if len(orders):
        count, steps = orders["orders"].iloc[0], len(comparison.road.adopted)
        text += f" All {count} orders are measured." if steps <= FEW else f" {count} random orders are measured."
    return [Section("effects", "Which step matters", [text], pictures, [format_effects(table)])]


def _shapley(comparison: Comparison) -> list[Section]:
    """Only if a study trained them: many combinations of the road's sections are there, and some are no rungs."""
    rungs = {frozenset(rung.steps) for rung in comparison.road.rungs}
    measured = measured_unions(comparison)
    if {*measured} <= rungs or not has_sections(comparison):
        return []
    shapley = shapley_table(comparison)
    if shapley.empty:
        return [Section("sections", "What each section is worth", [f"{shapley.attrs['missing']}."])]
    tables = {value: shapley_table(comparison, value) for value in (comparison.metric, *SECTION_COSTS)}
    heat_map = figures.interactions_figure(shapley, interaction_table(comparison))
    what = "Shapley values of the road's sections, and the interaction of each pair"
    text = (
        "An interaction is what two sections bring together beyond what each brings by itself: below zero they get "
        "in each other’s way, or do the same work twice."
    )
    failed = [steps for steps in measured if steps in comparison.collapsed]
    if failed:
        means = [f"{comparison.road.name_of(steps)}: {percent(comparison.collapsed[steps])}" for steps in failed]
        text += f" Of the {len(measured)} networks, {len(failed)} hardly trained ({shortened(means, MOST_STEPS)})."
        if shapley["error"].isna().all():
            text += (
                " One seed does not tell how much such a network varies, so nothing computed from it has an interval."
            )
    picture = Picture("interactions", heat_map, what)
    values = format_sections({value: table for value, table in tables.items() if len(table)})
    return [Section("sections", "What each section is worth", [text], [picture], [values])]


def _costs(comparison: Comparison, ladder: pd.DataFrame) -> list[Section]:
    table = cost_table(comparison)
    if table.empty:
        return []
    pictures = [
        Picture(f"pareto-{cost}", figures.pareto_figure(table, cost), f"Accuracy against {figures.COSTS[cost]}")
        for cost in FRONTS
        if cost in ("macs", "images_per_second") and table[cost].notna().any()
    ]
    measured = ladder[ladder["n"] > 0]
    if len(measured) > 1 and measured[["macs", "images_per_second"]].notna().any(axis=None):
        speed = figures.speed_figure(ladder)
        pictures.insert(0, Picture("speed", speed, "Multiply-adds and training throughput, by rung"))
    text = (
        "Multiply-adds are counted; images per second were measured in training, on the devices named below; a busy "
        "machine lowers them. Means are compared without regard for their noise."
    )
    return [Section("costs", "What it costs", [text], pictures, [format_networks(table)])]


def _curves(comparison: Comparison, epochs: pd.DataFrame | None) -> list[Section]:
    counted = comparison.counted
    if epochs is None or not (counted["epochs"] > 1).any():  # a curve of one epoch is a point
        return []
    rungs = counted[counted["rung"].notna() & counted["set"].notna()]
    drawn = rungs if len(rungs) else counted
    if not figures.has_curves(drawn, epochs):
        return []
    figure = figures.learning_curves_figure(drawn, epochs)
    return [Section("curves", "Learning curves", [], [Picture("curves", figure, "Accuracy by epoch")])]


def _stopped(comparison: Comparison) -> list[Section]:
    """Only where `stop_below` ended runs early."""
    if not (lines := stopped(comparison)):
        return []
    text = (
        "These runs were ended for being far below the median of the finished runs at the same epoch, to spend less. "
        "What they would have reached is not known, and which runs are ended depends on which finished first. The "
        "other runs of such a network are those that did better: their mean is too high and their spread too small, by "
        "unknown amounts. So a change from or to it has no interval and no verdict. "
        "Launched again without stop_below, these runs resume, and then count like all others."
    )
    return [Section("stopped", "Stopped early", [text], lists={"Stopped early, as hopeless:": lines})]


def _missing(comparison: Comparison) -> list[Section]:
    lists = {"": missing(comparison), "Runs that are not done, so they count in no mean:": unfinished(comparison.runs)}
    lists = {head: lines for head, lines in lists.items() if lines}
    return [Section("missing", "What is missing", [], lists=lists)] if lists else []


def _departures(comparison: Comparison) -> list[Section]:
    by_recipe = departures(comparison)
    if not by_recipe:
        return []
    paragraphs = [f"The {recipe} recipe is trained as in the paper." for recipe, rows in by_recipe.items() if not rows]
    note = kernel_note(comparison.context.resolution, comparison.stem_stride)
    tables = [format_departures(recipe, rows) for recipe, rows in by_recipe.items() if rows]
    return [Section("departures", "Departures from the paper", [*paragraphs, *filter(None, [note])], tables=tables)]
