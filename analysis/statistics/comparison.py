"""Which runs may be compared: those of one context, whose networks differ in their steps."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median
from typing import Any, NamedTuple

import pandas as pd

from analysis.sources.runs import Runs
from analysis.statistics.context import Context, canonical
from analysis.statistics.estimates import compare
from analysis.statistics.noise import FEWEST, Scores
from roadmap.common.bounds import did_you_mean
from roadmap.common.statuses import Status
from roadmap.common.words import listed, shortened
from roadmap.roads import Road

Steps = frozenset[str]
CONTEXT = (
    *("regime", "data", "resolution", "precision", "differs", "epochs", "batch_size", "metric", "recipe_name"),
    *("series", "model", "steps", "network", "rung"),
)
"""Columns of `Runs.runs` that say what a run trained, and how."""
ACCURACIES = ("top1", "top5", "ema_top1", "ema_top5")
"""Shares of the evaluation images, in percent."""
COUNTED = ("macs", "params", "activations")
"""Of a network, whatever was trained; all else is measured."""
COSTS = ("macs", "params", "activations", "images_per_second", "train_seconds", "peak_memory_mb")
"""Of a run, in its record; of a network, the median over its runs."""
NAMED = 20
"""Networks that a mistake lists, rungs first."""


@dataclass(frozen=True)
class Comparison:
    """The runs of one context: what was trained alike, so that networks may be compared."""

    context: Context
    runs: pd.DataFrame
    """Those of `Runs.runs`, finished or not, with a column more, `set`, and these as the comparison has them.

    `network`: what a run trained, in words: its nearest rung and what differs (`Road.name_of`), a model of timm's.
    Runs of one network differ in their seed alone.
    `set`: the set of steps of a run, None if its network is none, or if it is another series of one that is there.
    `rung`: the rung that has these steps, if any. `road`: the comparison's.
    """

    @property
    def counted(self) -> pd.DataFrame:
        """The runs that means are made of."""
        return self.runs[self.runs["left_out"] == ""]

    @property
    def road(self) -> Road:
        """The rungs that these runs are compared with, measured or not."""
        return self.context.road

    @property
    def metric(self) -> str:
        """The main metric of these runs, whose value is `score`; the default of every `value` here."""
        return self.context.metric

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
        unknown = "images that no record names" if len(self.counted) else "nothing yet"
        return listed(words.get(name, name) for name in found) or unknown

    def differ_alone(self, one: Steps, other: Steps) -> bool:
        """Whether two networks have the same layers and code of one's own as far as both have them: a step's file may
        have been changed between the runs of one and those of the other."""
        first, second = (self._own.get(steps, {}) for steps in (one, other))
        return all(first[name] == second[name] for name in first.keys() & second.keys())

    @cached_property
    def _own(self) -> dict[Steps, dict[str, Any]]:
        """By set of steps: each layer that is not the paper's, and the digest of each class's code."""
        runs = self.counted[self.counted["set"].notna()].drop_duplicates("set")
        return {
            steps: dict((design or {}).get("layers") or {}) | (code or {})
            for steps, design, code in zip(runs["set"], runs["design"], runs["code"], strict=True)
        }

    def values(self, steps: Iterable[str], column: str | None = None) -> pd.Series:
        """A column of the runs of a set of steps, by seed; empty if none is finished."""
        return self.scores(column).get(frozenset(steps), pd.Series(dtype=float))

    def key(self, network: str | Iterable[str]) -> Steps | str:
        """A network's key in `scores`, of a rung's name, its own (`runs["network"]`), or its steps.

        Raises:
            ValueError: if there is none, or none of its runs is finished.
        """
        if isinstance(network, Mapping):
            raise ValueError("a network is a name or a set of steps, and no mapping")
        scores = self.scores()
        steps = {rung.name: frozenset(rung.steps) for rung in self.road.rungs}
        known = {name if isinstance(name, str) else self.road.name_of(name): name for name in scores}
        key = (steps | known).get(network, network) if isinstance(network, str) else frozenset(network)
        if key not in scores:
            name = network if isinstance(network, str) else self.road.name_of(network)
            names = shortened([*known], NAMED, ", ".join)
            raise ValueError(f"no finished run of {name!r}{did_you_mean(name, known)} (measured: {names})")
        return key

    def name(self, key: Steps | str) -> str:
        """What the network of a key of `scores` is called."""
        return key if isinstance(key, str) else self.road.name_of(key)

    @cached_property
    def diverged(self) -> Counter[Steps | str]:
        """How many runs of each network diverged, by its key in `scores`."""
        return Counter(_keys(self.runs[self.runs["left_out"] == "diverged"]))

    def scores(self, column: str | None = None) -> Scores:
        """A column of the runs that count, by seed, of every network that has some: `compare` takes them. The main
        metric's unless another is named.

        The key of a network is its set of steps; of one that has none, its name.

        Raises:
            ValueError: if runs have no such number.
        """
        column = column or self.metric
        numbers = [*self.runs.select_dtypes("number").columns]
        if column not in (*numbers, self.metric):
            raise ValueError(
                f"runs have no number {column!r}{did_you_mean(column, numbers)} (numbers: {', '.join(numbers)})"
            )
        images = self.counted["evaluation_images"].min()
        return Scores(
            self._by_network("score" if column == self.metric else column),
            least=100 / images if column in ACCURACIES and images > 0 else 0.0,
            counted=column in COUNTED,
            pooled=self._pooled,
            collapsed=() if column in COSTS else self.collapsed,
        )

    @cached_property
    def _pooled(self) -> set[Steps]:
        """The networks whose noise is always used, so that all tables of a report judge alike: the rungs; and where few
        of them have replicates, those that differ from another measured network in one step."""
        rungs = {frozenset(rung.steps) for rung in self.road.rungs}
        seeds = {key: len(values) for key, values in self._by_network("score").items() if not isinstance(key, str)}
        if sum(seeds.get(steps, 0) > 1 for steps in rungs) >= FEWEST:
            return rungs
        return rungs.union(*({steps, steps - {step}} for steps in seeds for step in steps if steps - {step} in seeds))

    @cached_property
    def collapsed(self) -> dict[Steps | str, float]:
        """The networks that hardly trained, and their mean: no better than chance, by three standard deviations of so
        many images; or nearer to chance than to the median of all networks."""
        means = {key: values.mean() for key, values in self._by_network("score").items()}
        if self.metric not in ACCURACIES or not means:
            return {}
        classes = self.context.data.get("num_classes") or self.counted["classes"].max()
        chance = 100 / classes if classes > 0 else 0.0
        images = self.counted["evaluation_images"].min()
        luck = 3 * math.sqrt(chance * (100 - chance) / images) if images > 0 else 0.0
        limit = max(chance + luck, (chance + median(means.values())) / 2)
        return {key: mean for key, mean in means.items() if mean < limit}

    def _by_network(self, column: str) -> dict[Steps | str, pd.Series]:
        counted = self.counted
        values = counted.set_index("seed")[column].astype(float)
        found = {key: group.dropna() for key, group in values.groupby(_keys(counted).to_numpy(), sort=False)}
        return {key: group for key, group in found.items() if len(group)}


def _keys(runs: pd.DataFrame) -> pd.Series:
    return runs["set"].where(runs["set"].notna(), runs["network"])


def comparisons(runs: Runs) -> list[Comparison]:
    """Runs by their contexts: first the most rungs measured, then the most finished runs, then the fewest changes.

    A run is on the road that it was asked for on, on those that begin with it, and on any that has all of its steps; so
    it may be in several comparisons. One without a rung or a run that another one lacks is left out.
    """
    frame = runs.runs
    roads = frame["road"].tolist()
    keys = list(zip(frame["series"], frame["regime"], strict=True))
    trained = _trained(frame, roads)
    groups: dict[str, list[int]] = {}
    for place, key in enumerate(keys):
        groups.setdefault(trained[key].context.key, []).append(place)
    found = []
    for places in groups.values():
        distinct = {id(roads[place]): roads[place] for place in places}
        for road in longest(distinct.values()):
            on_it = {key for key, one in distinct.items() if begins(road, one)}
            own = [place for place in places if id(roads[place]) in on_it or _is_on(road, trained[keys[place]])]
            of_runs = [trained[keys[place]] for place in own]
            named = _named(frame.iloc[own].assign(road=road), of_runs, road)
            found.append(Comparison(replace(of_runs[0].context, road=road), named))
    return _numbered(_without_parts(sorted(found, key=_rank)))


def _is_on(road: Road, one: _Trained) -> bool:
    return one.steps is not None and not one.switches and one.steps <= {*road.steps}


def _without_parts(found: list[Comparison]) -> list[Comparison]:
    """Without a comparison whose runs are all in an earlier one, which measures as many rungs or more."""
    kept: list[Comparison] = []
    for one in found:
        paths = {*one.runs["path"]}
        if not any(paths <= {*other.runs["path"]} for other in kept):
            kept.append(one)
    return kept


def begins(road: Road, other: Road) -> bool:
    """Whether the road begins with the other, or is equal to it: by its rungs, whatever they are called in words."""
    rungs, others = (
        [(rung.name, rung.parent, rung.steps, rung.adopted, rung.section) for rung in one.rungs]
        for one in (road, other)
    )
    return rungs[: len(others)] == others and (len(rungs) > len(others) or road.base == other.base)


def longest(roads: Iterable[Road]) -> list[Road]:
    """The roads that no other one begins with."""
    found: list[Road] = []
    for road in sorted(roads, key=lambda road: -len(road.rungs)):
        if not any(begins(one, road) for one in found):
            found.append(road)
    return found


class _Trained(NamedTuple):
    """What the runs of a series train."""

    context: Context
    steps: Steps | None
    """None if the network is no set of steps."""
    switches: dict[str, Any]
    """Those that are set by hand, and not the context's."""
    name: str
    """Of a network that is no set of steps."""


def _trained(runs: pd.DataFrame, roads: list[Road]) -> dict[tuple[str, str], _Trained]:
    """By series and regime. A network may be asked for in several ways: the one with the fewest differences counts."""
    order = sorted(range(len(runs)), key=lambda place: len(runs["differs"].iat[place]))
    found: dict[tuple[str, str], _Trained] = {}
    columns = zip(*(runs[name] for name in CONTEXT), strict=True)
    rows = [dict(zip(CONTEXT, values, strict=True)) for values in columns]
    for place in order:
        run = rows[place]
        key = run["series"], run["regime"]
        if key in found:
            continue
        own = run["model"] == "design"
        steps = frozenset(run["steps"]) if own and run["steps"] is not None else None
        differs = {name: value for name, value in run["differs"].items() if name.startswith("design.")}
        found[key] = _Trained(Context.of(run, roads[place]), steps, differs, run["network"])
    return _with_shared_switches(found)


def _with_shared_switches(trained: dict[tuple[str, str], _Trained]) -> dict[tuple[str, str], _Trained]:
    """Where several sets of steps have the same switches set by hand, those are the context's."""
    sets: dict[tuple[str, str], set[Steps]] = {}
    keys = {key: (one.context.key, canonical(one.switches)) for key, one in trained.items()}
    for key, one in trained.items():
        if one.switches and one.steps is not None:
            sets.setdefault(keys[key], set()).add(one.steps)
    return {
        key: one._replace(context=replace(one.context, differs=one.context.differs | one.switches), switches={})
        if one.steps is not None and len(sets.get(keys[key], ())) > 1
        else one
        for key, one in trained.items()
    }


def _numbered(found: list[Comparison]) -> list[Comparison]:
    """The same, with versions of datasets of one name numbered as they come, and roads named if there are several."""
    versions: dict[str, list[str | None]] = {}
    roads = longest(dict.fromkeys(one.road for one in found))
    numbered = []
    for one in found:
        known = versions.setdefault(one.context.data["name"], [])
        version = one.context.data.get("version")
        if version not in known:
            known.append(version)
        road = ""
        if len(roads) > 1:
            same = [other for other in roads if other.name == one.road.name]
            place = next((place for place, other in enumerate(same) if begins(other, one.road)), 0)
            road = one.road.name + (f" ({place + 1})" if place else "")
        numbered.append(replace(one, context=replace(one.context, version=known.index(version), road_name=road)))
    return numbered


def network_table(comparison: Comparison) -> pd.DataFrame:
    """One row per network: what it reached, and what it costs.

    `network`, `rung` (None if it is none), `set`; `n` seeds that trained, `diverged`, those that did not; `left_out`
    runs, diverged or not done; `mean`, `std` (n - 1) of the main metric, `mean_low`, `mean_high` (its 95 % interval);
    and medians over its runs: `macs`, `params`, `activations`, `images_per_second`, `train_seconds`, `peak_memory_mb`,
    `device_hours`.
    """
    rows, keys = [], []
    for name, runs in comparison.runs.groupby("network", sort=False):
        counted = runs[runs["left_out"] == ""]
        scores = counted["score"].astype(float)
        steps = runs["set"].iloc[0]
        keys.append(name if steps is None else steps)
        rows.append(
            {
                "network": name,
                "rung": runs["rung"].iloc[0],
                "set": steps,
                "n": len(counted),
                "diverged": int((runs["left_out"] == "diverged").sum()),
                "left_out": int(runs["left_out"].isin(UNDONE).sum()),
                "mean": scores.mean(),
                "std": scores.std(ddof=1),
                **counted[list(COSTS)].astype(float).median(),
                "device_hours": (counted["train_seconds"] * counted["processes"].fillna(1)).median() / 3600,
            }
        )
    table = pd.DataFrame(rows)
    means = compare(comparison.scores(), [{key: 1.0} for key in keys])
    table.insert(table.columns.get_loc("std") + 1, "mean_low", means["low"])
    table.insert(table.columns.get_loc("mean_low") + 1, "mean_high", means["high"])
    return table


UNDONE = tuple(status for status in Status if status != Status.DONE)


def _named(runs: pd.DataFrame, trained: list[_Trained], road: Road) -> pd.DataFrame:
    """The runs in the road's order, with `network`, `rung` and `set`. Series are never averaged: of several that have
    the same steps, the one with the most finished seeds is the network, the others are networks of their own."""
    rungs = {frozenset(rung.steps): rung.name for rung in reversed(road.rungs)}
    series = dict(zip(runs["series"], trained, strict=True))
    names = {
        key: one.name if one.steps is None else road.name_of(one.steps, one.switches) for key, one in series.items()
    }
    done = Counter(runs["series"][runs["left_out"] == ""])
    latest = runs["started"].fillna("").astype(str).groupby(runs["series"]).max()
    seen: Counter[str] = Counter()
    found: dict[str, tuple[str, str | None, Steps | None]] = {}
    for key in sorted(series, key=lambda key: (done[key], latest[key]), reverse=True):
        name, steps = names[key], None if series[key].switches else series[key].steps
        if number := seen[name]:
            steps, name = None, f"{name}, another series" + (f" ({number})" if number > 1 else "")
        seen[names[key]] += 1
        found[key] = name, rungs.get(steps), steps
    columns = zip(*(found[key] for key in runs["series"]), strict=True)
    columns = (pd.Series(list(values), index=runs.index, dtype=object) for values in columns)
    runs = runs.assign(**dict(zip(("network", "rung", "set"), columns, strict=True)))
    order = {rung.name: place for place, rung in enumerate(road.rungs)}
    places = [order.get(name, len(order)) for name in runs["rung"]]
    return runs.assign(place=places).sort_values(["place", "network", "seed"], kind="stable").drop(columns="place")


def _rank(one: Comparison) -> tuple:
    counted = one.counted
    return -counted["rung"].nunique(), -len(counted), len(one.context.differs), one.context.key, one.road.name
