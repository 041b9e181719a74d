"""Networks that were tuned: each with the value of a setting that did best on a holdout of the training images.

Nothing in a record says that a study was tuned. It is found from the runs: of the same networks, some were evaluated on
a holdout with several values of one setting of the recipe, and some on the test images. The launcher's rule
(`roadmap.common.tuning`) is applied to the former, and the latter are compared twice: with the recipe's own value, and
with the best one. The two use different seeds and images, so that intervals hold as for any network that was chosen in
advance: they are about these networks with these values, which a finer grid may change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.measures import VERDICTS
from analysis.sources.runs import Runs
from analysis.statistics.comparison import Comparison, Steps, comparisons
from analysis.statistics.context import Context, canonical
from analysis.statistics.estimates import estimate
from analysis.statistics.ladder import caption
from analysis.statistics.noise import Scores
from analysis.statistics.pairs import Pair, conclude_pairs, pairs_of
from roadmap.common.statuses import Status
from roadmap.common.tuning import best_value

HOLDOUT = "data.holdout"
SCHEDULE = ("epochs", "batch_size")
ENDED = (Status.DONE, Status.DIVERGED, Status.STOPPED)


@dataclass(frozen=True)
class Tuning:
    """The same networks with their recipe's own value of a setting, and with the best one of each."""

    setting: str
    """Such as `recipe.lr`."""
    search: pd.DataFrame
    """One row per network and value: `network`; `value`; `mean` of the main metric on the holdout; `n` seeds that
    trained, `diverged`, those that did not; `left` runs without an outcome yet; `own`, whether it is the recipe's own
    value; `best`, whether it was chosen; and `at_edge`, whether it was, and is the smallest or largest of its grid."""
    untuned: Comparison
    tuned: Comparison | None
    """None as long as no network is trained with its best value."""
    paths: frozenset[str]
    """The runs of the search, and those with other values than their recipe's own."""
    hours: dict[str, float]
    """Device-hours of the "search", and of the runs with the "own" and with the "best" values."""

    @property
    def looks(self) -> int:
        """The most planned looks that runs of one side have."""
        return max(comparison.looks for comparison in _comparisons(self).values())

    @property
    def values(self) -> int:
        """How many values each network was tried with, at most."""
        return int(self.search.groupby("network")["value"].size().max())


def tunings(runs: Runs) -> list[Tuning]:
    """The tuned studies among these runs, the largest first."""
    frame = runs.runs[runs.runs["left_out"] != "copy"]
    holdout = frame["data"].map(lambda data: data.get("holdout") or 0.0)
    searched, others = frame[holdout > 0], frame[holdout == 0]
    settings = {key for differs in searched["differs"] for key in differs if key.startswith("recipe.")}
    found = []
    for setting in sorted(settings):
        groups = _keys(others, setting)
        for key, search in searched.groupby(_keys(searched, setting)):
            if tuning := _tuning(setting, search, others[groups == key]):
                found.append(tuning)
    return sorted(found, key=lambda tuning: -len(tuning.paths))


def _keys(frame: pd.DataFrame, setting: str) -> pd.Series:
    """What runs must share, besides the network, to be of one tuned study."""
    name, keys = setting.removeprefix("recipe."), []
    for run in frame.to_dict("records"):
        schedule = {key: run[key] for key in SCHEDULE if key != name}
        differs = {key: value for key, value in run["differs"].items() if key not in (setting, HOLDOUT)}
        data = run["data"] | {"holdout": 0.0, "val": "val"}
        of_run = run | {"differs": differs, "data": data} | dict.fromkeys(SCHEDULE, 0)
        keys.append(canonical([Context.of(of_run, run["road"]).key, schedule if name in SCHEDULE else None]))
    return pd.Series(keys, index=frame.index, dtype=object)


def _tuning(setting: str, search: pd.DataFrame, finals: pd.DataFrame) -> Tuning | None:
    """None if this is no tuned study: a sweep on a holdout alone, say."""
    name = setting.removeprefix("recipe.")

    def with_values(frame: pd.DataFrame) -> pd.DataFrame:
        networks = [canonical([*pair]) for pair in zip(frame["model"], frame["design"], strict=True)]
        values = [recipe.get(name) for recipe in frame["recipe"]]
        is_own = [setting not in differs for differs in frame["differs"]]
        return frame.assign(key=networks, value=pd.Series(values, frame.index, dtype=object), own=is_own)

    search, finals = with_values(search), with_values(finals)
    grids = search.groupby("key")["value"].nunique()
    tried = search[search["key"].isin(grids.index[grids > 1])]
    finals = finals[finals["key"].isin(tried["key"])]
    if tried.empty or finals.empty:
        return None
    untuned = finals[finals["own"]]
    if untuned.empty:
        return None
    first = _compared(untuned, setting)
    name_of = first.runs.set_index("path")["network"]
    keys = untuned.set_index("path")["key"].reindex(first.runs["path"])  # in the road's order
    names = {key: name_of[path] for path, key in keys.items()}
    tried = tried[tried["key"].isin(names.keys())]
    table, best = _table(tried, names)
    is_best = [
        canonical(best.get(key)) == canonical(value) for key, value in zip(finals["key"], finals["value"], strict=True)
    ]
    tuned = finals[is_best]
    paths = {*tried["path"], *finals["path"][~finals["own"]]}
    hours = {"search": _hours(tried), "own": _hours(untuned), "best": _hours(tuned[~tuned["own"]])}
    return Tuning(setting, table, first, _compared(tuned, setting) if len(tuned) else None, frozenset(paths), hours)


def _table(tried: pd.DataFrame, names: Mapping[str, str]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """`Tuning.search`, and the best value of each network whose search has ended."""
    rows, best = [], {}
    tries = tried.groupby("key").size().max()  # a network with fewer has some that were not even started
    for key in names:
        of_network = tried[tried["key"] == key]
        grid = dict(iter(of_network.groupby("value", sort=False)))
        scores = {
            value: [
                score if status == Status.DONE else math.nan
                for score, status in zip(runs["score"], runs["status"], strict=True)
            ]
            for value, runs in grid.items()
        }
        has_ended = len(of_network) == tries and of_network["status"].isin(ENDED).all()
        chosen = best_value(scores) if has_ended else None
        if chosen is not None:
            best[key] = chosen
        numbers = [value for value in grid if isinstance(value, int | float)]
        for value, runs in sorted(grid.items(), key=lambda entry: (str(type(entry[0])), entry[0])):
            trained = runs[runs["status"] == Status.DONE]
            is_best = chosen is not None and value == chosen
            rows.append(
                {
                    "network": names[key],
                    "value": value,
                    "mean": trained["score"].astype(float).mean(),
                    "n": len(trained),
                    "diverged": int((runs["status"] == Status.DIVERGED).sum()),
                    "left": int((~runs["status"].isin(ENDED)).sum()),
                    "own": bool(runs["own"].iloc[0]),
                    "best": is_best,
                    "at_edge": is_best and len(numbers) == len(grid) and value in (min(numbers), max(numbers)),
                }
            )
    return pd.DataFrame(rows), best


def _hours(runs: pd.DataFrame) -> float:
    return float((runs["train_seconds"] * runs["processes"].fillna(1)).sum() / 3600)


def _compared(runs: pd.DataFrame, setting: str) -> Comparison:
    """The comparison of these networks, whatever their values of the setting."""
    without = [{key: value for key, value in differs.items() if key != setting} for differs in runs["differs"]]
    name = setting.removeprefix("recipe.")
    if name in SCHEDULE:
        runs = runs.assign(**{name: runs[name].iloc[0]})
    return comparisons(Runs(runs.drop(columns=["key", "value", "own"]).assign(differs=without)))[0]


OUTCOMES = {
    (True, True): "still shown",
    (True, False): "no longer shown",
    (False, True): "newly shown",
    (False, False): "shown neither way",
}
SIDES = ("untuned", "tuned")


def tuned_table(tuning: Tuning) -> pd.DataFrame:
    """One row per pair of networks (`pairs_of`): their difference untuned beside tuned.

    `title`, `kind`, `network`, `reference`, the names of the two; with the suffixes `_untuned` and `_tuned`: `n`, the
    seeds of the side with fewer, `change`, its 95 % interval `low`, `high`, `p`, `p_holm`, `verdict` (`conclude`; each
    ladder is a family of hypotheses, but for "ends"); `outcome`: "still shown", "reversed" (shown both ways, in
    opposite directions), "no longer shown", "newly shown", "shown neither way", or "" where a change is not measured;
    and `same_sign`, whether both changes have the same sign.

    `attrs` has words for captions.
    """
    scores = {side: comparison.scores() for side, comparison in _comparisons(tuning).items()}
    untuned, road = scores["untuned"], tuning.untuned.road
    networks = [key for key in untuned if not isinstance(key, str)]

    def is_measured(a: Steps, b: Steps) -> bool:
        return a in untuned and b in untuned and tuning.untuned.same_code(a, b)

    pairs = pairs_of(road, networks, is_measured)
    table = pd.DataFrame(
        [(pair.title, pair.kind, road.name_of(pair.network), road.name_of(pair.reference)) for pair in pairs],
        columns=["title", "kind", "network", "reference"],
    )
    for side in SIDES:
        table = table.join(_changes(scores.get(side, Scores({})), pairs, tuning.looks).add_suffix(f"_{side}"))
    measured = table["change_untuned"].notna() & table["change_tuned"].notna()
    shown = [table[f"verdict_{side}"].isin(VERDICTS) for side in SIDES]
    outcome = pd.Series([OUTCOMES[pair] for pair in zip(*shown, strict=True)], table.index, dtype=object)
    table["same_sign"] = (table["change_untuned"] > 0) == (table["change_tuned"] > 0)
    table["outcome"] = outcome.mask(shown[0] & shown[1] & ~table["same_sign"], "reversed").where(measured, "")
    table.attrs = caption(tuning.untuned) | {"looks": tuning.looks}
    return table


def tuned_networks(tuning: Tuning) -> pd.DataFrame:
    """One row per network: `network`; `own`, `best`, the two values of the setting; `at_edge` (`Tuning.search`);
    `holdout_own`, `holdout_best`, the means on the holdout; and `mean_untuned`, `mean_tuned`, those of the runs on all
    training images. What is not known is None, or NaN for a number."""
    means = {side: _means(comparison) for side, comparison in _comparisons(tuning).items()}
    rows = []
    for network, values in tuning.search.groupby("network", sort=False):
        row: dict[str, Any] = {"network": network}
        for name in ("own", "best"):
            chosen = values[values[name]]
            row[name] = chosen["value"].iloc[0] if len(chosen) else None
            row[f"holdout_{name}"] = chosen["mean"].iloc[0] if len(chosen) else math.nan
        row["at_edge"] = bool(values["at_edge"].any())
        rows.append(row | {f"mean_{side}": means.get(side, {}).get(network, math.nan) for side in SIDES})
    return pd.DataFrame(rows)


def _comparisons(tuning: Tuning) -> dict[str, Comparison]:
    return {"untuned": tuning.untuned} | ({"tuned": tuning.tuned} if tuning.tuned else {})


def _means(comparison: Comparison) -> dict[str, float]:
    return {comparison.name(key): values.mean() for key, values in comparison.scores().items()}


def _changes(scores: Scores, pairs: Sequence[Pair], looks: int) -> pd.DataFrame:
    sums = [{pair.network: 1.0, pair.reference: -1.0} for pair in pairs]
    columns = ["n", "change", "low", "high", "p", "p_holm", "verdict"]
    if not pairs:
        return pd.DataFrame(columns=columns)
    table = conclude_pairs(pairs, estimate(scores, sums), looks).rename(columns={"value": "change"})
    table["n"] = [min(len(scores.get(key, ())) for key in pair[2:]) for pair in pairs]
    return table[columns]
