"""README.md and docs/findings.md: every number of a study is computed from it again, and so is every picture."""

from __future__ import annotations

import io
import re
from functools import cache
from pathlib import Path

import matplotlib
import matplotlib.image
import numpy as np
import pytest

import analysis
from analysis.figures import style
from analysis.report.budgets import budget_sections
from analysis.report.findings import ranks_sentence
from analysis.report.latency import latency_sections
from analysis.text import signed
from docs import pictures

ROOT = Path(analysis.__file__).parents[1]
PAGES = ("README.md", "docs/findings.md")
STUDY = re.compile(r"<!-- (analysis/studies/\S+) -->")
DECIMAL = re.compile(r"[+−]?\d+\.\d+")
COLUMNS = ["mean", "change", "low", "high", "published_change", "effect", "effect_low", "effect_high", "slope", "value"]
COLUMNS += ["ms", "relative", "relative_macs"]
"""Of tables: the numbers that a text may have."""
COUNT = re.compile(
    r"(?<![.\d])(\d[\d,]*)(?= (?:of|runs?|networks?|rungs?|images|epochs?|seeds?|changes|steps|combinations|tests)\b)"
)


def sections(page: str) -> list[str]:
    """From one heading to the next, without code."""
    text = re.sub(r"^```.*?^```$|^    .*?$", "", (ROOT / page).read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.split(r"^(?=##? )", text, flags=re.MULTILINE)


SECTIONS = [(page, section) for page in PAGES for section in sections(page)]
OF_STUDIES = [(page, section) for page, section in SECTIONS if STUDY.search(section)]


@cache
def found(study: str) -> tuple[str, frozenset[str]]:
    """What `analysis` says of a kept study: its sentences, and the numbers in these and in its tables."""
    runs = analysis.load(ROOT / study)
    comparisons = analysis.comparisons(runs)
    texts, tables, counts = [], [], {len(runs.runs)}
    for comparison in comparisons:
        for nearest in (False, True):
            ladder = analysis.ladder_table(comparison, nearest=nearest)
            texts += [analysis.headline(ladder), analysis.agreement_sentence(ladder)]
            texts += [ranks_sentence(analysis.agreement(ladder))]
            tables.append(ladder)
        tables += [analysis.effect_table(comparison), analysis.shapley_table(comparison)]
        counted = comparison.counted
        counts |= {len(counted), counted["network"].nunique(), counted["seed"].nunique(), comparison.train_images}
        counts |= {*counted["epochs"], 2 ** len(comparison.road.groups())}
    for section in [*budget_sections(comparisons)[0], *latency_sections(runs, comparisons)]:
        texts += [" ".join(section.findings), *section.paragraphs]
        tables += [table.frame for table in section.tables]
    numbers = {number for text in texts for number in re.findall(r"[+−]?\d[\d,]*(?:\.\d+)?", text)}
    for table in tables:
        values = table[table.columns.intersection(COLUMNS)].astype(float).stack().dropna()
        numbers |= {signed(value) for value in values} | {f"{value:.2f}" for value in values}
        counts.add(len(table))
    numbers |= {number.lstrip("+−") for number in numbers} | {f"{count:,}" for count in counts if count}
    return " ".join(" ".join(texts).split()), frozenset(numbers)


def test_there_is_something_to_hold():
    assert {page for page, _ in OF_STUDIES} == {*PAGES}
    assert any("\n> " in section for _, section in OF_STUDIES)


@pytest.mark.parametrize(("page", "section"), OF_STUDIES, ids=[section.partition("\n")[0] for _, section in OF_STUDIES])
def test_quotations_are_what_analysis_says_and_numbers_are_the_studies(page, section):
    """Signs are compared where they are printed; the only other numbers are confidence levels."""
    said = [found(study) for study in STUDY.findall(section)]
    for quotation in re.findall(r"(?:^>.*\n?)+", section, flags=re.MULTILINE):
        words = " ".join(quotation.replace("\n>", "\n")[1:].split())
        assert any(words in text for text, _ in said), f"{page}: {words}"
    prose = re.sub(r"^>.*$|\]\([^)]*\)|<!--.*?-->", "", section, flags=re.MULTILINE)
    numbers = frozenset().union(*(numbers for _, numbers in said))
    wrong = [number for number in (*DECIMAL.findall(prose), *COUNT.findall(prose)) if number not in numbers]
    assert not wrong, f"{page}: {wrong} in no sentence or table of {STUDY.findall(section)}"


def test_no_result_stands_where_no_study_is_named():
    for page, section in SECTIONS:
        if (page, section) not in OF_STUDIES:
            assert not re.findall(r"[+−]?\d+\.\d+ (?:%|points)|[+−]\d+\.\d+|^>.*", section, flags=re.MULTILINE), page


def test_pictures_are_drawn_from_kept_studies_alone_and_are_up_to_date(monkeypatch):
    folders, load = [], analysis.load
    monkeypatch.setattr(analysis, "load", lambda folder: folders.append(folder) or load(folder), raising=False)
    drawn = pictures.pictures()
    assert folders
    assert all(folder.parent == ROOT / "analysis/studies" for folder in folders)
    used = {Path(name).name for page in PAGES for name in re.findall(r"\]\(([^)]*\.png)\)", (ROOT / page).read_text())}
    assert used == {*drawn}
    if not matplotlib.__version__.startswith(f"{pictures.MATPLOTLIB}."):
        pytest.skip(
            f"the pictures were drawn by matplotlib {pictures.MATPLOTLIB}; other versions draw letters differently"
        )
    for name, figure in drawn.items():
        kept = matplotlib.image.imread(pictures.FOLDER / name)
        new = matplotlib.image.imread(io.BytesIO(style.png(figure)))
        assert kept.shape == new.shape, name
        assert np.abs(kept - new).max() < 0.1, f"{name} is out of date: python -m docs.pictures"


def test_every_page_is_listed_and_no_link_leads_nowhere():
    index = (ROOT / "docs/index.md").read_text()
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert {*re.findall(r"^- \[.*?\]\((.*?)\)", index, flags=re.MULTILINE)} == pages
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
