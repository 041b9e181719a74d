"""Where a comparison's numbers come from: machines, versions, hours; what is missing; what differs but should not."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import pandas as pd

from analysis.sources.rows import disagreements
from analysis.statistics.comparison import Comparison
from analysis.statistics.context import canonical, epochs
from roadmap.common.words import listed, shortened

DAY = re.compile(r"\d{4}-\d\d-\d\d")
NETWORKS = 3
"""How many networks a sentence names."""
NAMED = 20
"""How many unfinished runs are named: a large study that has just begun has thousands."""


class Provenance(NamedTuple):
    """What a reader needs to repeat the runs: for each fact the distinct values, as short text."""

    recipes: list[str]
    seeds: list[int]
    devices: list[str]
    threads: list[str]
    versions: list[str]
    commits: list[str]
    evaluated_on: list[str]
    hours: float
    """The sum of the wall-clock hours of all runs; of those that have not finished, of their epochs."""
    dates: str


def describe(comparison: Comparison) -> str:
    """What was measured: data, epochs, resolution, seeds, evaluation, and settings that differ."""
    context, runs = comparison.context, comparison.counted
    images = comparison.train_images
    facts = [
        f"{images:,} training images" if images else None,
        f"{epochs(*sorted(runs['epochs'].unique()))}, batch {_listed(runs['batch_size'])}" if len(runs) else None,
        f"{context.resolution} px",
        f"{'seed' if runs['seed'].nunique() == 1 else 'seeds'} {_listed(runs['seed'])}" if len(runs) else None,
        f"last epoch, on {comparison.evaluated_on}{_count(runs)}" if len(runs) else "no finished run",
        context.changes or None,
    ]
    return " · ".join(filter(None, facts))


def _count(runs: pd.DataFrame) -> str:
    """The number of evaluation images, if it is known and the same for all."""
    counts = runs["evaluation_images"].dropna().unique()
    return f" ({counts[0]:,.0f} images)" if len(counts) == 1 else ""


def provenance(comparison: Comparison) -> Provenance:
    runs = comparison.runs
    return Provenance(
        recipes=list(dict.fromkeys(map(_recipe, runs["recipe"]))),
        seeds=comparison.seeds,
        devices=_distinct(runs["device"]),
        threads=_distinct(runs["threads"].astype("Int64")),
        versions=_distinct(_versions(runs)),
        commits=_distinct(_commits(runs)),
        evaluated_on=_distinct(comparison.counted["evaluated_on"]),
        hours=float(runs["wall_seconds"].fillna(runs["seconds_per_epoch"] * runs["epochs_done"]).sum()) / 3600,
        dates=_dates(runs),
    )


def warnings(comparison: Comparison) -> list[str]:
    """Sentences on what should be equal in all finished runs, or in copies of one run, but differs."""
    runs = comparison.counted
    facts = {
        "package versions": _versions(runs),
        "commits": _commits(runs),
        "devices": runs["device"],
        "numbers of threads": runs["threads"].astype("Int64"),
        "evaluation images": runs["evaluated_on"].map(comparison.evaluation_images, na_action="ignore"),
    }
    sentences = [
        f"Runs differ in their {fact}: {_counts(values)}."
        for fact, values in facts.items()
        if values.nunique(dropna=False) > 1
    ]
    dirty = sum(bool(git and git.get("dirty")) for git in runs["git"])
    if dirty:
        sentences.append(f"{_runs(dirty)} came from a checkout with uncommitted changes.")
    return sentences + _redefined(comparison) + disagreements(comparison.runs)


def _redefined(comparison: Comparison) -> list[str]:
    """A sentence if the same steps were trained with different settings that nobody changed by hand: the regime, a step
    or a recipe was edited between the runs."""
    runs = comparison.counted
    by_hand = runs["differs"].map(lambda differs: any(name.startswith("design.") for name in differs))
    requested = runs[(runs["model"] == "design") & runs["steps"].notna() & ~by_hand].drop_duplicates("series")
    networks, changed = [], set()
    for steps, group in requested.groupby(requested["steps"].map(frozenset), sort=False):
        names = _unequal([_settings(*values) for values in zip(group["design"], group["recipe"], strict=True)])
        if names:
            networks.append(comparison.name(steps))
            changed |= names
    if not networks:
        return []
    return [
        f"{comparison.context.regime} did not mean the same in all runs: those of {shortened(networks, NETWORKS)} "
        f"differ in {listed(sorted(changed))}, although the same was requested. They are not averaged, but rungs that "
        "are compared may differ in this too: keep such runs in separate folders."
    ]


def _settings(design: dict[str, Any], recipe: dict[str, Any]) -> dict[str, str]:
    named = {f"design.{name}": value for name, value in design.items()}
    return {
        name: canonical(value) for name, value in (named | {f"recipe.{key}": recipe[key] for key in recipe}).items()
    }


def _unequal(settings: list[dict[str, str]]) -> set[str]:
    """The settings that are not the same in all of these; one that a record lacks was at its default."""
    names = set.intersection(*({*each} for each in settings))
    return {name for name in names if len({each[name] for each in settings}) > 1}


def missing(comparison: Comparison) -> list[str]:
    """The rungs that lack runs which other rungs have: a line for those without a finished run, and one for every seed.
    A rung without any run is not part of the study, and a run that diverged or was stopped early is not missing."""
    runs = comparison.runs[comparison.runs["rung"].notna() & comparison.runs["set"].notna()]
    done = runs[runs["left_out"].isin(("", "diverged", "stopped"))].groupby("rung")["seed"].agg(set)
    rungs = [rung.name for rung in comparison.road.rungs if (runs["rung"] == rung.name).any()]
    without = {"no finished run": [rung for rung in rungs if rung not in done]}
    for seed in sorted(runs["seed"].unique()):
        without[f"no finished run of seed {seed}"] = [rung for rung in rungs if rung in done and seed not in done[rung]]
    return [f"{lack}: {', '.join(rungs)}" for lack, rungs in without.items() if rungs]


def unfinished(runs: pd.DataFrame) -> list[str]:
    """A line for each of the first NAMED runs that are not done, nor stopped early: name, status and reason; the others
    are counted."""
    return _listed_runs(runs[~runs["status"].isin(("done", "stopped"))])


def stopped(comparison: Comparison) -> list[str]:
    """The same of the runs that `stop_below` ended early."""
    return _listed_runs(comparison.runs[comparison.runs["left_out"] == "stopped"])


def _listed_runs(runs: pd.DataFrame) -> list[str]:
    named, more = runs.head(NAMED), runs.iloc[NAMED:]
    rows = zip(named["name"], named["status"], named["reason"].fillna(""), strict=True)
    lines = [
        f"{name}: {status}" + (f" ({' '.join(reason.split())})" if reason else "") for name, status, reason in rows
    ]
    if len(more):
        counts = ", ".join(f"{count} {status}" for status, count in more["status"].value_counts().items())
        lines.append(f"and {len(more)} more: {counts}")
    return lines


def _listed(values: pd.Series) -> str:
    return ", ".join(str(value) for value in sorted(values.unique()))


def _recipe(recipe: dict[str, Any]) -> str:
    keys = ("optimizer", "epochs", "batch_size", "lr")
    values: list[Any] = [recipe.get(key) for key in keys]
    optimizer, number, batch, lr = values
    return f"{recipe['name']}: {optimizer}, {epochs(number)}, batch {batch}, learning rate {lr:g}"


def _versions(runs: pd.DataFrame) -> pd.Series:
    return runs["versions"].map(
        lambda versions: ", ".join(f"{name} {version}" for name, version in (versions or {}).items())
    )


def _commits(runs: pd.DataFrame) -> pd.Series:
    return runs["git"].map(lambda git: git["commit"][:10] if git else "no checkout")


def _dates(runs: pd.DataFrame) -> str:
    days = sorted({day[:10] for column in ("started", "finished") for day in runs[column].dropna() if DAY.match(day)})
    return " to ".join(dict.fromkeys([days[0], days[-1]])) if days else "unknown"


def _distinct(values: pd.Series) -> list[str]:
    return [str(value) for value in sorted(values.dropna().unique())]


def _counts(values: pd.Series) -> str:
    counts = values.value_counts(dropna=False)
    return "; ".join(f"{'unknown' if pd.isna(value) else value} ({_runs(count)})" for value, count in counts.items())


def _runs(count: int) -> str:
    return f"{count} run" if count == 1 else f"{count} runs"
