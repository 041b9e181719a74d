"""Looks: how often a study's results were looked at before more seeds were added, and whether that was planned.

Whoever adds seeds until something is shown finds more than there is (optional stopping). Planned looks split the level
of the tests evenly; looks that were not planned cannot be corrected afterwards, so they are named. The launcher counts
the looks of a study by its name (experiments/launch/looks.py, docs/seeds.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pandas as pd

from roadmap.common.words import counted, counted_each


class Looks(NamedTuple):
    """The looks at the results of a study, as its runs record them."""

    study: str
    planned: tuple[int, ...]
    """Seeds at each planned look; empty without a plan."""
    seeds: dict[int, int]
    """{number of a look: the most seeds of a network that were launched for it and for earlier ones}."""
    grew: bool
    """Whether a network got seeds for more than one look."""


def planned_looks(runs: pd.DataFrame) -> int:
    """The planned number of looks of the study with the most, among runs of `Runs.runs`; 1 without a plan."""
    return max([1, *(len(looks.planned) for looks in looks_of(runs))])


def looks_of(runs: pd.DataFrame) -> list[Looks]:
    """The looks of each study whose runs record them."""
    table = pd.DataFrame(_recorded(runs), columns=["study", "series", "seed", "number", "planned"])
    results = []
    for study, of_study in table.groupby("study"):
        first = of_study["number"].idxmin()  # a plan that is made after the first look is none
        seeds = {}
        for number in sorted({*of_study["number"].tolist()}):
            launched = of_study[of_study["number"] <= number]
            seeds[number] = int(launched.groupby("series")["seed"].nunique().max())
        grew = of_study.groupby("series")["number"].nunique().max() > 1
        results.append(Looks(study, of_study["planned"][first], seeds, bool(grew)))
    return results


def look_concerns(runs: pd.DataFrame) -> list[str]:
    """A sentence for each study that was looked at, and got more seeds, other than planned."""
    return [sentence for looks in looks_of(runs) if (sentence := _concern(looks))]


def _concern(looks: Looks) -> str:
    planned, last = looks.planned, max(looks.seeds)
    history = counted_each([*looks.seeds.values()], "seed")
    study, advice = (
        f"The study “{looks.study}”",
        "Adding seeds until something is shown finds more than there is, so its p-values are too small.",
    )
    if not planned:
        if not looks.grew:
            return ""
        return f"{study} got more seeds after a look at its results, without a plan ({history}). {advice}"
    plan = f"{counted(len(planned), 'look')} with {counted_each(planned, 'seed')}"
    if last > len(planned):
        return f"{study} was looked at {last} times ({history}), but planned were {plan}. {advice}"
    differ = [
        number
        for number, seeds in looks.seeds.items()
        if seeds > planned[number - 1] or (number < last and seeds < planned[number - 1])  # the last may be incomplete
    ]
    if not differ:
        return ""
    return (
        f"{study} was looked at with {history}, but planned were {plan}: a number of seeds that was "
        "chosen after a look makes its p-values less sure."
    )


def _recorded(runs: pd.DataFrame) -> Iterator[tuple[str, str, int, int, tuple[int, ...]]]:
    """(study, series, seed, number of the look, planned seeds) of each run whose record has a look."""
    if "look" not in runs:  # a frame that was made by hand
        return
    columns = ("study", "series", "seed", "look")
    for study, series, seed, look in zip(*(runs[name].tolist() for name in columns), strict=True):
        number: Any = (look or {}).get("number")
        planned: Any = (look or {}).get("planned")
        if _is_count(number) and isinstance(planned, list) and all(map(_is_count, planned)):
            yield study or "", series, seed, int(number), tuple(planned)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
