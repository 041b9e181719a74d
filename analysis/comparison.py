"""Which runs may be compared: those of one context, whose networks differ in their steps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache, cached_property

import pandas as pd

from analysis.context import Context
from analysis.estimates import compare
from analysis.records import Runs
from roadmap.sets import sections
from roadmap.steps import Rung, ladder

Steps = frozenset[str]
COSTS = ("macs", "params", "activations", "images_per_second", "train_seconds", "peak_memory_mb")
"""Of a run, in its record; of a network, the median over its runs."""


@dataclass(frozen=True)
class Comparison:
    """The runs of one context: what was trained alike, so that networks may be compared."""

    context: Context
    runs: pd.DataFrame
    """Those of `Runs.runs`, finished or not, with two columns more.

    `network`: what a run trained, in words: a rung's name, the steps, a model of timm's. Runs of one network differ
    in their seed alone.
    `set`: the set of steps of a run, None if its network is none or if it is another series of one that is there.
    """

    @property
    def counted(self) -> pd.DataFrame:
        """The runs that means are made of."""
        return self.runs[self.runs["left_out"] == ""]

    @property
    def rungs(self) -> tuple[Rung, ...]:
        """The ladder that these runs are compared with, measured or not."""
        return rungs_of(self.context.regime)

    @property
    def seeds(self) -> list[int]:
        """Of any run, finished or not."""
        return sorted(self.runs["seed"].unique().tolist())

    @property
    def train_images(self) -> int | None:
        """How many images a run trains on."""
        found = self.runs["train_images"].dropna()
        return int(found.iloc[0]) if len(found) else None

    @property
    def evaluated_on(self) -> str:
        """The images that the accuracies are of, in words."""
        words = {"test": "the whole test set", "holdout": "a hold-out of the training images"}
        found = self.counted["evaluated_on"].dropna().unique()
        return " and ".join(words.get(name, name) for name in found) or "nothing yet"

    @cached_property
    def by_set(self) -> dict[Steps, pd.DataFrame]:
        """The runs that count of every set of steps, indexed by seed."""
        counted = self.counted[self.counted["set"].notna()]
        return {steps: runs.set_index("seed") for steps, runs in counted.groupby("set", sort=False)}

    def values(self, steps: Iterable[str], column: str = "top1") -> pd.Series:
        """A column of the runs of a set of steps, by seed; empty if none is finished."""
        return self.scores(column).get(frozenset(steps), pd.Series(dtype=float))

    def scores(self, column: str = "top1") -> dict[Steps | str, pd.Series]:
        """A column of the runs that count, by seed, of every network that has some: `compare` takes them.

        The key of a network is its set of steps; of one that has none, its name.
        """
        counted = self.counted
        keys = counted["set"].where(counted["set"].notna(), counted["network"])
        values = counted.set_index("seed")[column].astype(float)
        found = {key: group.dropna() for key, group in values.groupby(keys.to_numpy(), sort=False)}
        return {key: group for key, group in found.items() if len(group)}


def comparisons(runs: Runs) -> list[Comparison]:
    """Runs by their contexts: first the most rungs measured, then the most finished runs, then the fewest changes."""
    first = runs.runs.drop_duplicates(["series", "regime"])  # runs of a series differ in their seed alone
    contexts = [Context.of(run) for run in first.to_dict("records")]
    by_key = {context.key: context for context in contexts}
    key_of = dict(zip(zip(first["series"], first["regime"], strict=True), (one.key for one in contexts), strict=True))
    keys = [key_of[one] for one in zip(runs.runs["series"], runs.runs["regime"], strict=True)]
    named = _named(runs.runs.assign(context=keys)).groupby("context", sort=False)
    found = [Comparison(by_key[key], frame.drop(columns="context")) for key, frame in named]
    return _numbered(sorted(found, key=_rank))


def _numbered(found: list[Comparison]) -> list[Comparison]:
    """The same, with the versions of datasets of one name numbered as they come."""
    versions: dict[str, list[str | None]] = {}
    numbered = []
    for one in found:
        known = versions.setdefault(one.context.data["name"], [])
        version = one.context.data.get("version")
        if version not in known:
            known.append(version)
        numbered.append(replace(one, context=replace(one.context, version=known.index(version))))
    return numbered


def network_table(comparison: Comparison) -> pd.DataFrame:
    """A row a network: what it reached, and what it costs.

    `network`, `rung` (None if it is none), `set`; `n` seeds, `left_out` runs; `top1_mean`, `top1_std` (percent, n - 1),
    `top1_low`, `top1_high` (its 95 % interval); and medians over its runs: `macs`, `params`, `activations`,
    `images_per_second`, `train_seconds`, `peak_memory_mb`, `device_hours`.
    """
    rows, keys = [], []
    for name, runs in comparison.runs.groupby("network", sort=False):
        counted = runs[runs["left_out"] == ""]
        top1 = counted["top1"].astype(float)
        steps = runs["set"].iloc[0]
        keys.append(name if steps is None else steps)
        rows.append(
            {
                "network": name,
                "rung": None if steps is None else runs["rung"].iloc[0],
                "set": steps,
                "n": len(counted),
                "left_out": int(runs["left_out"].isin(UNDONE).sum()),
                "top1_mean": top1.mean(),
                "top1_std": top1.std(ddof=1),
                **counted[list(COSTS)].astype(float).median(),
                "device_hours": (counted["train_seconds"] * counted["processes"].fillna(1)).median() / 3600,
            }
        )
    table = pd.DataFrame(rows)
    means = compare(comparison.scores(), [{key: 1.0} for key in keys])
    table.insert(table.columns.get_loc("top1_std") + 1, "top1_low", means["low"])
    table.insert(table.columns.get_loc("top1_low") + 1, "top1_high", means["high"])
    return table


UNDONE = ("queued", "running", "unfinished", "diverged", "failed")


@cache
def rungs_of(regime: str) -> tuple[Rung, ...]:
    """The ladder of a regime; empty for a regime that this checkout does not know."""
    try:
        return ladder(regime)
    except ValueError:
        return ()


def _named(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs in the paper's order, with `network` and `set`. Series are never averaged: of several in one `context`
    that have the same steps, the one with the most finished seeds is the network, the others are networks of their own.
    """
    runs["network"] = [_name(run) for run in runs[["model", "rung", "steps", "regime"]].itertuples(index=False)]
    is_set = (runs["model"] == "design") & runs["steps"].notna()
    sets = [frozenset(steps) if yes else None for steps, yes in zip(runs["steps"], is_set, strict=True)]
    runs["set"] = pd.Series(sets, index=runs.index, dtype=object)
    series = (
        runs.assign(done=runs["left_out"] == "", latest=runs["started"].fillna("").astype(str))
        .groupby(["context", "network", "series"], as_index=False)
        .agg(done=("done", "sum"), latest=("latest", "max"))
        .sort_values(["done", "latest"], ascending=False)
    )
    series["number"] = series.groupby(["context", "network"]).cumcount()
    number = runs.merge(series, on=["context", "network", "series"], how="left")["number"].to_numpy()
    for nth in sorted(set(number) - {0}):
        others = number == nth
        runs.loc[others, "network"] += ", another series" + (f" ({nth})" if nth > 1 else "")
        runs.loc[others, "set"] = None
    order = {
        (regime, one.name): index for regime in runs["regime"].unique() for index, one in enumerate(rungs_of(regime))
    }
    places = [order.get(one, len(order)) for one in zip(runs["regime"], runs["network"], strict=True)]
    return runs.assign(place=places).sort_values(["place", "network", "seed"], kind="stable").drop(columns="place")


def _name(run: tuple) -> str:
    """What the network is: a timm model, a rung, or its steps."""
    if run.model != "design":
        return run.model
    if run.steps is not None:
        return set_name(run.regime, frozenset(run.steps))
    return run.rung or "a design of its own"


@cache
def set_name(regime: str, steps: Steps) -> str:
    """What a set of steps is called, however it was asked for: a rung's name, or whichever is short: `all steps but
    gelu`, `only gelu`, sections of the paper (`macro + micro`), or the steps."""
    rungs = rungs_of(regime)
    for rung in rungs:
        if steps == frozenset(rung.steps):
            return rung.name
    every = rungs[-1].steps if rungs else ()
    named = [step for step in every if step in steps] + sorted(steps - set(every))
    lacking = [step for step in every if step not in steps]
    if len(lacking) == 1 and steps < set(every):
        return f"all steps but {lacking[0]}"
    if len(named) == 1:
        return f"only {named[0]}"
    whole = [name for name, group in sections().items() if steps.issuperset(group)]
    if steps == {step for name in whole for step in sections()[name]}:
        return " + ".join(whole)
    if len(lacking) < len(named) and steps < set(every):
        return f"all steps but {' + '.join(lacking)}"
    return " + ".join(named)


def _rank(one: Comparison) -> tuple:
    counted = one.counted
    return -counted["rung"].nunique(), -len(counted), len(one.context.differs), one.context.key
