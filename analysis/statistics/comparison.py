"""Which runs may be compared: those of the same context, whose networks differ in their steps."""

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
from analysis.statistics.looks import planned_looks
from analysis.statistics.noise import FEWEST, Scores
from roadmap.common.bounds import did_you_mean
from roadmap.common.words import listed, shortened
from roadmap.roads import Road

Steps = frozenset[str]
CONTEXT = (
    *("regime", "data", "resolution", "precision", "differs", "epochs", "batch_size", "metric", "recipe_name"),
    *("series", "model", "steps", "network", "road"),
)
"""Columns of `Runs.runs` that describe what a run trained, and how."""
ACCURACIES = ("top1", "top5", "ema_top1", "ema_top5")
"""Shares of the evaluation images, in percent."""
COUNTED = ("macs", "params", "activations")
"""Costs of a network that are counted, so that they are exact; all others are measured."""
COSTS = ("macs", "params", "activations", "images_per_second", "train_seconds", "peak_memory_mb")
"""Costs of a run, in its record; a network's is the median over its runs."""
NAMED = 20
"""How many networks an error message lists."""
TEST_SETS = ("sample", "torchvision")
"""Readers of datasets whose evaluation images are those that their authors call the test set."""


@dataclass(frozen=True)
class Comparison:
    """The runs of one context: they were trained alike, so their networks may be compared."""

    context: Context
    runs: pd.DataFrame
    """Rows of `Runs.runs`, finished or not, with one more column, `set`, and these columns in terms of this comparison.

    `network`: the name of what a run trained: its nearest rung and the differences (`Road.name_of`), or a timm model.
    Runs of one network differ in their seed alone.
    `set`: the set of steps of a run; None if its network is not a set of steps, or another series of the same steps.
    `rung`: the rung that has these steps, if any. `road`: the comparison's.
    """

    @property
    def counted(self) -> pd.DataFrame:
        """The runs that count in means."""
        return self.runs[self.runs["left_out"] == ""]

    @property
    def road(self) -> Road:
        """The rungs that these runs are compared with, measured or not."""
        return self.context.road

    @property
    def metric(self) -> str:
        """The main metric of these runs, whose value is `score`; wherever a `value` can be chosen, the default."""
        return self.context.metric

    @property
    def seeds(self) -> list[int]:
        """The seeds of all runs, finished or not."""
        return sorted(self.runs["seed"].unique().tolist())

    @property
    def train_images(self) -> int | None:
        """How many images a run trains on."""
        counts = self.runs["train_images"].dropna()
        return int(counts.iloc[0]) if len(counts) else None

    @property
    def stem_stride(self) -> int:
        """By how much the stems reduce the resolution; the least where they differ."""
        return min(((design or {}).get("stem_stride", 4) for design in self.runs["design"]), default=4)

    @property
    def evaluated_on(self) -> str:
        """The images on which accuracies were measured, in words."""
        names = self.counted["evaluated_on"].dropna().unique()
        unknown = "images that no record names" if len(self.counted) else "nothing yet"
        return listed(map(self.evaluation_images, names)) or unknown

    def evaluation_images(self, evaluated_on: str) -> str:
        """What a record's `evaluated_on` says, in words: "test" are the images of `data.val`, which only some datasets'
        authors have set apart as a test set."""
        data = self.context.data
        split = str(data.get("val", "val")).partition("|")[0]
        whole = "the whole test set" if data.get("reader") in TEST_SETS else f"the whole {split} split"
        return {"test": whole, "holdout": "a hold-out of the training images"}.get(evaluated_on, evaluated_on)

    def same_code(self, a: Steps, b: Steps) -> bool:
        """Whether the user-defined code that two networks share is the same: the file of a step may have been changed
        between the runs of the two."""
        first, second = (self._code.get(steps, {}) for steps in (a, b))
        return all(first[name] == second[name] for name in first.keys() & second.keys())

    @cached_property
    def _code(self) -> dict[Steps, dict[str, Any]]:
        """By set of steps: each layer that is not the paper's, and the digest of the code of each class."""
        runs = self.counted[self.counted["set"].notna()].drop_duplicates("set")
        return {
            steps: dict((design or {}).get("layers") or {}) | (code or {})
            for steps, design, code in zip(runs["set"], runs["design"], runs["code"], strict=True)
        }

    def values(self, steps: Iterable[str], column: str | None = None) -> pd.Series:
        """The values of a column for the runs of a set of steps, by seed; empty if none is finished."""
        return self.scores(column).get(frozenset(steps), pd.Series(dtype=float))

    def key(self, network: str | Iterable[str]) -> Steps | str:
        """The key in `scores` of a network that is given by a rung's name, its own (`runs["network"]`), or its steps.

        Raises:
            ValueError: if there is no such network, or none of its runs is finished.
        """
        if isinstance(network, Mapping):
            raise ValueError("a network is given by a name or a set of steps, not by a mapping")
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
        """The name of the network with this key in `scores`."""
        return key if isinstance(key, str) else self.road.name_of(key)

    @cached_property
    def diverged(self) -> Counter[Steps | str]:
        """The number of diverged runs of each network, by its key in `scores`."""
        return Counter(_keys(self.runs[self.runs["left_out"] == "diverged"]))

    @cached_property
    def stopped(self) -> Counter[Steps | str]:
        """The number of runs of each network that `stop_below` ended early, by its key in `scores`. It ended them for
        being low, so the mean of the network's other runs is too high, by an unknown amount."""
        return Counter(_keys(self.runs[self.runs["left_out"] == "stopped"]))

    def has_survivors(self, *keys: Steps | str) -> bool:
        """Whether some run of these networks diverged or was stopped early, so that means are of those that
        finished."""
        return any(self.diverged[key] or self.stopped[key] for key in keys)

    def scores(self, column: str | None = None) -> Scores:
        """The values of a column (by default, of the main metric) for every network with runs that count, by seed, as
        `compare` takes them.

        The key of a network is its set of steps, or its name if it is not a set of steps.

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
            stopped=() if column in COSTS else self.stopped,
            looks=self.looks,
        )

    @cached_property
    def looks(self) -> int:
        """The number of planned looks at the results; 1 without a plan."""
        return planned_looks(self.runs)

    @cached_property
    def _pooled(self) -> set[Steps]:
        """The networks whose noise is always used, so that all tables of a report come to the same verdicts: the rungs;
        and if few of them have replicates, those that differ from another measured network in one step."""
        rungs = {frozenset(rung.steps) for rung in self.road.rungs}
        seeds = {key: len(values) for key, values in self._by_network("score").items() if not isinstance(key, str)}
        if sum(seeds.get(steps, 0) > 1 for steps in rungs) >= FEWEST:
            return rungs
        return rungs.union(*({steps, steps - {step}} for steps in seeds for step in steps if steps - {step} in seeds))

    @cached_property
    def collapsed(self) -> dict[Steps | str, float]:
        """The networks that hardly trained, and their means: no better than chance, by three standard deviations of
        that many images, or nearer to chance than to the median of all networks."""
        means = {key: values.mean() for key, values in self._by_network("score").items()}
        if self.metric not in ACCURACIES or not means:
            return {}
        classes = self.context.data.get("num_classes") or self.counted["classes"].max()
        chance = 100 / classes if classes > 0 else 0.0
        images = self.counted["evaluation_images"].min()
        margin = 3 * math.sqrt(chance * (100 - chance) / images) if images > 0 else 0.0
        limit = max(chance + margin, (chance + median(means.values())) / 2)
        return {key: mean for key, mean in means.items() if mean < limit}

    def _by_network(self, column: str) -> dict[Steps | str, pd.Series]:
        counted = self.counted
        values = counted.set_index("seed")[column].astype(float)
        networks = {key: group.dropna() for key, group in values.groupby(_keys(counted).to_numpy(), sort=False)}
        return {key: group for key, group in networks.items() if len(group)}


def _keys(runs: pd.DataFrame) -> pd.Series:
    return runs["set"].where(runs["set"].notna(), runs["network"])


def comparisons(runs: Runs) -> list[Comparison]:
    """Runs by context: first the most measured rungs, then the most finished runs, then the fewest changed settings.

    A run belongs to the road of its record, to those that begin with it, and to any that has all of its steps. So it
    may be in several comparisons. A comparison whose runs are all in an earlier one is left out.
    """
    frame = runs.runs
    roads = frame["road"].tolist()
    keys = list(zip(frame["series"], frame["regime"], strict=True))
    trained = _trained(frame)
    contexts: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        contexts.setdefault(trained[key].context.key, []).append(row)
    results = []
    for rows in contexts.values():
        distinct = {id(roads[row]): roads[row] for row in rows}
        for road in longest(distinct.values()):
            prefixes = {key for key, shorter in distinct.items() if begins(road, shorter)}
            members = [row for row in rows if id(roads[row]) in prefixes or _is_on(road, trained[keys[row]])]
            of_members = [trained[keys[row]] for row in members]
            named = _named(frame.iloc[members].assign(road=road), of_members, road)
            results.append(Comparison(replace(of_members[0].context, road=road), named))
    return _numbered(_without_subsets(sorted(results, key=_rank)))


def _is_on(road: Road, trained: _Trained) -> bool:
    return trained.steps is not None and not trained.switches and trained.steps <= {*road.steps}


def _without_subsets(ranked: list[Comparison]) -> list[Comparison]:
    """Without a comparison whose runs are all in an earlier one, which measures at least as many rungs."""
    kept: list[Comparison] = []
    for comparison in ranked:
        paths = {*comparison.runs["path"]}
        if not any(paths <= {*earlier.runs["path"]} for earlier in kept):
            kept.append(comparison)
    return kept


def begins(road: Road, shorter: Road) -> bool:
    """Whether a road begins with another, or is equal to it: by the rungs, whatever their titles."""
    rungs, first = (
        [(rung.name, rung.parent, rung.steps, rung.adopted, rung.section) for rung in each.rungs]
        for each in (road, shorter)
    )
    return rungs[: len(first)] == first and (len(rungs) > len(first) or road.base == shorter.base)


def longest(roads: Iterable[Road]) -> list[Road]:
    """The roads with which no other one begins."""
    kept: list[Road] = []
    for road in sorted(roads, key=lambda road: -len(road.rungs)):
        if not any(begins(longer, road) for longer in kept):
            kept.append(road)
    return kept


class _Trained(NamedTuple):
    """What the runs of a series train."""

    context: Context
    steps: Steps | None
    """None if the network is not a set of steps."""
    switches: dict[str, Any]
    """Switches set by hand that are not part of the context."""
    network: str
    """The name in the record, for a network that is not a set of steps."""


def _trained(runs: pd.DataFrame) -> dict[tuple[str, str], _Trained]:
    """By series and regime. The same network may have been requested in several ways: that with the fewest differences
    counts."""
    trained: dict[tuple[str, str], _Trained] = {}
    rows = [dict(zip(CONTEXT, values, strict=True)) for values in zip(*(runs[name] for name in CONTEXT), strict=True)]
    for run in sorted(rows, key=lambda run: len(run["differs"])):
        key = run["series"], run["regime"]
        if key not in trained:
            has_steps = run["model"] == "design" and run["steps"] is not None
            switches = {name: value for name, value in run["differs"].items() if name.startswith("design.")}
            steps = frozenset(run["steps"]) if has_steps else None
            trained[key] = _Trained(Context.of(run, run["road"]), steps, switches, run["network"])
    return _with_shared_switches(trained)


def _with_shared_switches(trained: dict[tuple[str, str], _Trained]) -> dict[tuple[str, str], _Trained]:
    """Where several sets of steps have the same switches set by hand, those become part of the context."""
    sets: dict[tuple[str, str], set[Steps]] = {}
    keys = {key: (series.context.key, canonical(series.switches)) for key, series in trained.items()}
    for key, series in trained.items():
        if series.switches and series.steps is not None:
            sets.setdefault(keys[key], set()).add(series.steps)
    return {
        key: series._replace(
            context=replace(series.context, differs=series.context.differs | series.switches), switches={}
        )
        if series.steps is not None and len(sets.get(keys[key], ())) > 1
        else series
        for key, series in trained.items()
    }


def _numbered(ranked: list[Comparison]) -> list[Comparison]:
    """The same, with the versions of datasets of one name numbered in order, and roads named if there are several."""
    versions: dict[str, list[str | None]] = {}
    roads = longest(dict.fromkeys(comparison.road for comparison in ranked))
    numbered = []
    for comparison in ranked:
        context, road = comparison.context, comparison.road
        known = versions.setdefault(context.data["name"], [])
        version = context.data.get("version")
        if version not in known:
            known.append(version)
        name = ""
        if len(roads) > 1:
            namesakes = [namesake for namesake in roads if namesake.name == road.name]
            number = next((index for index, namesake in enumerate(namesakes) if begins(namesake, road)), 0)
            name = road.name + (f" ({number + 1})" if number else "")
        numbered.append(replace(comparison, context=replace(context, version=known.index(version), road_name=name)))
    return numbered


def network_table(comparison: Comparison) -> pd.DataFrame:
    """One row per network: its accuracy and its costs.

    `network`, `rung` (None if it is none), `set`; `n` seeds that finished, `diverged`, those that did not train, and
    `stopped`, those that `stop_below` ended early; `left_out` runs, these or not done; `mean`, `std` (n - 1) of the
    main metric, `mean_low`, `mean_high` (its 95 % interval); and medians over its runs: `macs`, `params`,
    `activations`, `images_per_second`, `train_seconds`, `peak_memory_mb`, `device_hours`.
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
                "stopped": int((runs["left_out"] == "stopped").sum()),
                "left_out": int((~runs["left_out"].isin(("", "copy"))).sum()),
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


def _named(runs: pd.DataFrame, trained: list[_Trained], road: Road) -> pd.DataFrame:
    """The runs in the road's order, with `network`, `rung` and `set`. Series are never averaged: of several with the
    same steps, the one with the most finished seeds is the network, and the others are networks by themselves."""
    rungs = {frozenset(rung.steps): rung.name for rung in reversed(road.rungs)}
    series = dict(zip(runs["series"], trained, strict=True))
    names = {
        key: each.network if each.steps is None else road.name_of(each.steps, each.switches)
        for key, each in series.items()
    }
    done = Counter(runs["series"][runs["left_out"] == ""])
    latest = runs["started"].fillna("").astype(str).groupby(runs["series"]).max()
    seen: Counter[str] = Counter()
    labels: dict[str, tuple[str, str | None, Steps | None]] = {}
    for key in sorted(series, key=lambda key: (done[key], latest[key]), reverse=True):
        name, steps = names[key], None if series[key].switches else series[key].steps
        if number := seen[name]:
            steps, name = None, f"{name}, another series" + (f" ({number})" if number > 1 else "")
        seen[names[key]] += 1
        labels[key] = name, rungs.get(steps) if steps is not None else None, steps
    columns = [
        pd.Series(list(values), index=runs.index, dtype=object)
        for values in zip(*(labels[key] for key in runs["series"]), strict=True)
    ]
    runs = runs.assign(**dict(zip(("network", "rung", "set"), columns, strict=True)))
    order = {rung.name: index for index, rung in enumerate(road.rungs)}
    positions = runs["rung"].map(lambda name: order.get(name, len(order)))
    return (
        runs.assign(position=positions)
        .sort_values(["position", "network", "seed"], kind="stable")
        .drop(columns="position")
    )


def _rank(comparison: Comparison) -> tuple:
    counted, context = comparison.counted, comparison.context
    return -counted["rung"].nunique(), -len(counted), len(context.differs), context.key, comparison.road.name
