"""What each step of a study's road changes, and what that was worth: measured in the study, and in the paper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.measures import VERDICTS
from analysis.statistics.comparison import Comparison
from analysis.statistics.ladder import default_ladder
from analysis.text import count, equals, interval, percent, quantity, signed
from experiments.demo.networks import runs_of
from roadmap.common.words import counted
from roadmap.conf import OURS
from roadmap.roads import Road, Rung

MOST_CHANGES, MOST_SETTINGS = 10, 100
"""How many settings are listed: at once, and on demand."""
LONGEST_VALUE = 60
"""Characters of a setting's value; the rest is cut."""
NOTHING = "none"


@dataclass(frozen=True)
class Change:
    """A setting before and after a step."""

    setting: str
    before: str
    after: str


@dataclass(frozen=True)
class Effect:
    """A step, as the page describes it. All texts are plain."""

    about: str
    """What the step does, in words; "" if its road doesn't say."""
    changes: tuple[Change, ...]
    more_changes: tuple[Change, ...]
    """The rest, shown on demand."""
    unchanged: tuple[Change, ...]
    """The settings that stay as they are, by name: some decide what a change amounts to, as the stem's stride does."""
    parent: str | None
    """The name of the rung before it."""
    parent_title: str
    """ "" without one."""
    measured: str
    verdict: str
    """ "up", "down", or "" where no difference is shown."""
    published: str
    """In the paper; "" if it has no number."""


def effects_of(study: Comparison) -> dict[str, Effect]:
    """By the name of each rung."""
    ladder = default_ladder(study)
    rows = {row["rung"]: row for row in ladder.to_dict("records")}
    settings = _settings(study)
    return {rung.name: _effect(rung, rows.get(rung.name, {}), settings, study, ladder) for rung in study.road.rungs}


def _effect(
    rung: Rung, row: Mapping[str, Any], settings: Mapping[str, dict[str, Any]], study: Comparison, ladder: pd.DataFrame
) -> Effect:
    road, parent = study.road, rung.parent
    before, after = settings.get(parent or ""), settings.get(rung.name)
    changes, unchanged = _compared(before, after) if before and after else ([], [])
    return Effect(
        about=rung.about or _about(road, rung),
        changes=tuple(changes[:MOST_CHANGES]),
        more_changes=tuple(changes[MOST_CHANGES:MOST_SETTINGS]),
        unchanged=tuple(unchanged[:MOST_SETTINGS]),
        parent=parent,
        parent_title=road[parent].title if parent else "",
        measured=_measured(row, study, ladder),
        verdict=row["verdict"] if row.get("verdict") in VERDICTS else "",
        published=_published(rung, road),
    )


def _about(road: Road, rung: Rung) -> str:
    """Of a record that was written before roads had such texts."""
    try:
        known = OURS.road(road.name)[rung.name]
    except ValueError:
        return ""
    return known.about if known.step == rung.step else ""


def _settings(study: Comparison) -> dict[str, dict[str, Any]]:
    """Of each rung that was trained, the settings of its first run: its design's, its recipe's, and what it costs."""
    settings = {}
    for rung in study.road.rungs:
        if len(runs := runs_of(study, rung)):
            first = runs.iloc[0]
            costs = {"multiply-adds": quantity(first["macs"], ""), "parameters": count(first["params"])}
            recipe = {key: value for key, value in (first["recipe"] or {}).items() if key != "name"}
            settings[rung.name] = recipe | (first["design"] or {}) | costs
    return settings


def _compared(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[list[Change], list[Change]]:
    """The settings that differ, and those that don't."""
    changes: list[Change] = []
    unchanged: list[Change] = []
    for key in dict.fromkeys([*before, *after]):
        values = before.get(key), after.get(key)
        settings = unchanged if values[0] == values[1] else changes
        settings.append(Change(key.replace("_", " "), *map(_in_words, values)))
    return changes, sorted(unchanged, key=lambda each: each.setting)


def _in_words(value: Any) -> str:
    if value is None or value in ({}, [], ""):
        return NOTHING
    if isinstance(value, dict):  # layers
        return ", ".join(_in_words(layer.get("_target_")) for layer in value.values() if isinstance(layer, dict))
    if isinstance(value, list | tuple):
        return "–".join(map(_in_words, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)[:LONGEST_VALUE]


def _measured(row: Mapping[str, Any], study: Comparison, ladder: pd.DataFrame) -> str:
    if not row.get("n"):
        return "Not measured in these runs."
    of = f"{percent(row['mean'])} % of {study.evaluated_on} right, {counted(row['n'], 'seed')}"
    if pd.isna(row["change"]):
        return f"{of}."
    titles = ladder.attrs["titles"]
    change = f"{signed(row['change'])} points against {titles.get(row['reference'], row['reference'])}"
    if pd.isna(row["low"]):
        return f"{change} ({row['verdict']}). {of}."
    limits = interval(row["low"], row["high"])
    return f"{change} (95 % interval {limits}, not corrected); {_corrected(row, ladder)}. {of}."


def _corrected(row: Mapping[str, Any], ladder: pd.DataFrame) -> str:
    """Whether the change is shown, in words; its interval alone does not say so."""
    steps, looks = int(ladder["p_holm"].notna().sum()), ladder.attrs["looks"]
    counts = counted(steps, "step") + f" and {looks} planned looks" * (looks > 1)
    shown = "shown" if row["verdict"] in VERDICTS else "not shown"
    return f"once corrected for {counts} it is {shown} to differ from zero (p {equals(row['p_holm'])})"


def _published(rung: Rung, road: Road) -> str:
    if rung.published is None:
        return ""
    top1 = f"{rung.published.top1:.2f} %"
    before = road[rung.parent].published if rung.parent else None
    if before is None:
        return top1
    return f"{signed(rung.published.top1 - before.top1)} points: {before.top1:.2f} % before, {top1} after."
