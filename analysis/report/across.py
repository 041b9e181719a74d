"""What a report says of several comparisons together, before the chapters on single ones."""

from __future__ import annotations

from collections.abc import Callable

from analysis.report.budgets import budgets
from analysis.report.datasets import dataset_sections
from analysis.report.factors import crossed_with_steps
from analysis.report.section import Section
from analysis.report.tuning import tuned_sections
from analysis.sources.runs import Runs
from analysis.statistics.comparison import Comparison

Part = Callable[[Runs, list[Comparison]], tuple[list[Section], list[Comparison]]]
"""From the runs and their comparisons: sections, and the comparisons that shall still have chapters."""
PARTS: tuple[Part, ...] = (tuned_sections, budgets, crossed_with_steps, dataset_sections)
"""In the order of the report."""


def outline(runs: Runs, comparisons: list[Comparison]) -> tuple[list[Section], list[Comparison]]:
    """The sections of all parts, and the comparisons that are left for chapters."""
    sections: list[Section] = []
    for part in PARTS:
        found, comparisons = part(runs, comparisons)
        sections += found
    return sections, comparisons
