"""Networks that were tuned: each with the value of a setting that did best on a holdout of the training images.

Nothing in a record says that a study was tuned. It is found from the runs: of the same networks, some were evaluated on
a holdout with several values of one setting of the recipe, and some on the test images. The launcher's rule
(`roadmap.common.tuning`) is applied to the former, and the latter are compared twice: with the recipe's own value, and
with the best one. The two use different seeds and images, so that intervals hold as for any network that was chosen in
advance: they are about these networks with these values, which a finer grid may change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.measures import VERDICTS
from analysis.sources.correct_images import Correct
from analysis.sources.runs import Runs
from analysis.statistics.comparison import Comparison, comparisons
from analysis.statistics.context import Context, canonical
from analysis.statistics.ladder import default_reference, ladder_table
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
    table, best = _table(tried, finals)
    untuned = finals[finals["own"]]
    is_best = [
        canonical(best.get(key)) == canonical(value) for key, value in zip(finals["key"], finals["value"], strict=True)
    ]
    tuned = finals[is_best]
    if untuned.empty:
        return None
    paths = {*tried["path"], *finals["path"][~finals["own"]]}
    hours = {"search": _hours(tried), "own": _hours(untuned), "best": _hours(tuned[~tuned["own"]])}
    first = _compared(untuned, setting)
    return Tuning(setting, table, first, _compared(tuned, setting) if len(tuned) else None, frozenset(paths), hours)


def _table(tried: pd.DataFrame, finals: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Any]]:
    """`Tuning.search`, and the best value of each network whose search has ended."""
    rows, best = [], {}
    tries = tried.groupby("key").size().max()  # a network with fewer has some that were not even started
    names = finals.drop_duplicates("key").set_index("key")["network"]
    for key, of_network in tried.groupby("key", sort=False):
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
    (False, False): "not shown either way",
}


def tuned_table(tuning: Tuning, *, correct: Mapping[str, Correct] | None = None) -> pd.DataFrame:
    """One row per rung, in the road's order: its change untuned beside tuned.

    `rung`, `title`, `reference`; `own`, `best`, the two values of the setting; with the suffixes `_untuned` and
    `_tuned`: `mean`, `n`, `change` from the reference, `low`, `high`, `p_holm`, `verdict` (`ladder_table`); `outcome`:
    "still shown", "reversed" (shown both ways, in opposite directions), "no longer shown", "newly shown", "not shown
    either way", or "" where a change is not measured; and `same_sign`, whether both changes have the same sign.

    The references are the parents; where no rung's parent is measured, the first rung. `attrs` as of `ladder_table`.
    """
    columns = ["mean", "n", "change", "low", "high", "p_holm", "verdict"]
    untuned = _ladder(tuning.untuned, correct)
    tuned = _ladder(tuning.tuned, correct) if tuning.tuned else untuned.assign(**dict.fromkeys(columns, math.nan))
    table = untuned[["rung", "title", "reference"]].join(
        [untuned[columns].add_suffix("_untuned"), tuned[columns].add_suffix("_tuned")]
    )
    values = tuning.search.set_index("network")
    for name in ("own", "best"):
        chosen = values[values[name]]["value"]
        table.insert(3, name, [chosen.get(rung) for rung in table["rung"]])
    measured = table["change_untuned"].notna() & table["change_tuned"].notna()
    shown = [table[f"verdict_{which}"].isin(VERDICTS) for which in ("untuned", "tuned")]
    outcome = pd.Series([OUTCOMES[pair] for pair in zip(*shown, strict=True)], table.index)
    table["same_sign"] = (table["change_untuned"] > 0) == (table["change_tuned"] > 0)
    table["outcome"] = outcome.mask(shown[0] & shown[1] & ~table["same_sign"], "reversed").where(measured, "")
    table.attrs = untuned.attrs
    return table


def _ladder(comparison: Comparison, correct: Mapping[str, Correct] | None) -> pd.DataFrame:
    ladder = ladder_table(comparison, correct=correct)
    start = default_reference(ladder)
    return ladder_table(comparison, start, correct=correct) if start else ladder
