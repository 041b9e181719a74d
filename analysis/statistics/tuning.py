"""Networks that were tuned: each with the value of a setting that did best on a holdout of the training images.

The records of a search say which setting it is about, and what was tried. The launcher's rule (`roadmap.common.tuning`)
is applied to them again, and the networks' runs on the images of `data.val` are compared twice: with the recipe's own
value, and with the best one. Search and results have different seeds and images, so that intervals hold as for networks
that were fixed in advance: they are about these networks with these values, which a finer grid may change.
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
    settings = frame["tuning"].map(lambda mark: str((mark or {}).get("setting") or ""))
    searched, finals = frame[settings.str.startswith("recipe.") & (holdout > 0)], frame[holdout == 0]
    found = []
    for (setting, _), search in searched.groupby([settings[searched.index], holdout[searched.index]], sort=False):
        search, others = _keyed(search, setting), _keyed(finals, setting)
        for study, of_study in search.groupby("study_key", sort=False):
            found += _tunings(setting, of_study, others[others["study_key"] == study])
    return sorted(found, key=lambda tuning: -len(tuning.paths))


def _keyed(frame: pd.DataFrame, setting: str) -> pd.DataFrame:
    """With the `value` of the setting; whether that is the recipe's `own`; `study_key`, equal for runs that may be
    compared, and `key`, for those of a network, whatever this value, and whether on the holdout."""
    name = setting.removeprefix("recipe.")
    values, own, studies, networks = [], [], [], []
    for run in frame.to_dict("records"):
        differs = {key: value for key, value in run["differs"].items() if key not in (setting, HOLDOUT)}
        data = run["data"] | {"holdout": 0.0, "val": "val"}
        same = dict.fromkeys({name} & {*SCHEDULE}, 0)
        studies.append(Context.of(run | {"differs": differs, "data": data} | same, run["road"]).key)
        recipe = {key: value for key, value in run["recipe"].items() if key not in (name, "name")}
        networks.append(canonical([studies[-1], run["model"], run["design"], recipe]))
        values.append(run["recipe"].get(name))
        own.append(setting not in run["differs"])
    values = pd.Series(values, frame.index, dtype=object)
    return frame.assign(value=values, own=own, study_key=studies, key=networks)


def _tunings(setting: str, search: pd.DataFrame, finals: pd.DataFrame) -> list[Tuning]:
    """One for each comparison of the networks with their own values: none as long as no such run is there."""
    finals = finals[finals["key"].isin(search["key"])]
    own = finals[finals["own"]]
    found = []
    for untuned in _compared(own, setting):
        of_path = own.set_index("path")
        keys = of_path["key"].reindex(untuned.runs["path"])  # in the road's order
        names = dict(zip(keys, untuned.runs["network"], strict=True))
        tried = search[search["key"].isin(names)]
        table, best = _table(tried, names)
        wanted = {(key, canonical(value)) for key, value in best.items()}
        is_best = [(key, canonical(value)) in wanted for key, value in zip(finals["key"], finals["value"], strict=True)]
        chosen = finals[is_best]
        paths = {*tried["path"], *chosen["path"][~chosen["own"]]}
        hours = {
            "search": _hours(tried),
            "own": _hours(of_path.loc[untuned.runs["path"]]),
            "best": _hours(chosen[~chosen["own"]]),
        }
        tuned = next(iter(_compared(chosen, setting)), None)
        found.append(Tuning(setting, table, untuned, tuned, frozenset(paths), hours))
    return found


def _table(tried: pd.DataFrame, names: Mapping[str, str]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """`Tuning.search`, and the best value of each network whose search has ended."""
    rows: list[dict[str, Any]] = []
    best: dict[str, Any] = {}
    for key, name in names.items():
        of_network = tried[tried["key"] == key]
        grid = {canonical(value): value for value in _listed(of_network, "values", str | int | float)}
        seeds = {*_listed(of_network, "seeds", int)}
        values = of_network["value"].map(canonical)
        by_value = {value: of_network[(values == text).to_numpy()] for text, value in grid.items()}
        has_ended = all({*runs["seed"][runs["status"].isin(ENDED)]} >= seeds for runs in by_value.values())
        scores = {
            value: runs["score"].where(runs["status"] == Status.DONE).tolist() for value, runs in by_value.items()
        }
        chosen = best_value(scores) if has_ended else None
        if chosen is not None:
            best[key] = chosen
        is_ordered = all(isinstance(value, int | float) for value in grid.values())
        for value, runs in sorted(by_value.items(), key=lambda entry: (str(type(entry[0])), entry[0])):
            counts = runs["status"].value_counts()
            is_best = chosen is not None and value == chosen
            rows.append(
                {
                    "network": name,
                    "value": value,
                    "mean": runs["score"][runs["status"] == Status.DONE].astype(float).mean(),
                    "n": int(counts.get(Status.DONE, 0)),
                    "diverged": int(counts.get(Status.DIVERGED, 0)),
                    "left": max(len(seeds) - int(runs["status"].isin(ENDED).sum()), 0),
                    "own": bool(runs["own"].any()),
                    "best": is_best,
                    "at_edge": is_best and is_ordered and value in (min(by_value), max(by_value)),
                }
            )
    columns = ["network", "value", "mean", "n", "diverged", "left", "own", "best", "at_edge"]
    return pd.DataFrame(rows, columns=columns), best


def _listed(runs: pd.DataFrame, key: str, kind: Any) -> list[Any]:
    """What the marks of a search list, as far as it is of this kind: anyone may have written a record."""
    lists = [mark.get(key) for mark in runs["tuning"]]
    return [value for values in lists if isinstance(values, list) for value in values if isinstance(value, kind)]


def _hours(runs: pd.DataFrame) -> float:
    return float((runs["train_seconds"] * runs["processes"].fillna(1)).sum() / 3600)


def _compared(runs: pd.DataFrame, setting: str) -> list[Comparison]:
    """The comparisons of these networks, whatever their values of the setting."""
    without = [{key: value for key, value in differs.items() if key != setting} for differs in runs["differs"]]
    name = setting.removeprefix("recipe.")
    if name in SCHEDULE and len(runs):
        runs = runs.assign(**{name: runs[name].iloc[0]})
    return comparisons(Runs(runs.drop(columns=["key", "study_key", "value", "own"]).assign(differs=without)))


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
    `same_sign`, whether both changes have the same sign; and `collapsed`, whether one of the two hardly trained,
    untuned or tuned (`Comparison.collapsed`).

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
    table["collapsed"] = [
        any(key in comparison.collapsed for comparison in _comparisons(tuning).values() for key in pair[2:])
        for pair in pairs
    ]
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
