"""A section of a report: sentences, figures and tables under a title."""

from __future__ import annotations

from typing import NamedTuple

from matplotlib.figure import Figure

from analysis.report.tables import ReportTable


class Picture(NamedTuple):
    """A figure, and what it shows for those who cannot see it."""

    name: str
    figure: Figure
    description: str


class Section(NamedTuple):
    """A section of a report."""

    name: str
    title: str
    paragraphs: list[str]
    pictures: list[Picture] = []  # noqa: RUF012 - defaults of a NamedTuple, never changed
    tables: list[ReportTable] = []  # noqa: RUF012
    lists: dict[str, list[str]] = {}  # noqa: RUF012
    """Lines under a sentence that introduces them."""
    findings: list[str] = []  # noqa: RUF012
    """What it shows, in one sentence each, at its top."""
