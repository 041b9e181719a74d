"""What a report says of several comparisons together, before the chapters on single ones, and of speeds after them."""

from __future__ import annotations

from analysis.report.budgets import budget_sections
from analysis.report.datasets import dataset_sections
from analysis.report.latency import latency_sections
from analysis.report.section import Section
from analysis.report.tuning import tuned_sections
from analysis.sources.runs import Runs
from analysis.statistics.comparison import Comparison
from analysis.statistics.crossing import join_crossed


def outline(runs: Runs, comparisons: list[Comparison]) -> tuple[list[Section], list[Comparison], list[Section]]:
    """The sections on several comparisons, the comparisons that are left for chapters, and the sections on speeds. A
    study that crossed switches with steps has one chapter."""
    tuned, comparisons = tuned_sections(runs, comparisons)
    by_budget, comparisons = budget_sections(comparisons)
    comparisons = join_crossed(comparisons)
    speeds = latency_sections(runs, comparisons)
    return [*tuned, *by_budget, *dataset_sections(comparisons)], comparisons, speeds
