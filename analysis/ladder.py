"""From runs to ladders: what each step changed, against its parent, over seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.context import Context
from analysis.records import Runs
from analysis.statistics import change
from roadmap.steps import Rung, ladder


@dataclass(frozen=True)
class Ladder:
    """The rungs of one context, measured as far as its runs go."""

    context: Context
    rungs: tuple[Rung, ...]
    runs: pd.DataFrame
    """The context's runs in the paper's order, one a rung and seed; those that are not done are not counted."""
    table: pd.DataFrame
    """A row a rung, in the paper's order, runs or not.

    `rung`, `parent`, `title`, `section`, `adopted`; `n` seeds, `top1_mean`, `top1_std` (percent, n - 1); `change` from
    the parent with its interval `low`, `high` (points), `method`, `verdict`; `macs`, `params`, `images_per_second`;
    `published_top1`, `published_std`, `published_change`; `left_out`, the number of runs that are not done.
    """

    @property
    def counted(self) -> pd.DataFrame:
        """The runs that the means are made of."""
        return self.runs[self.runs["status"] == "done"]

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


class Agreement(NamedTuple):
    """How many of the paper's clear changes have the same sign here.

    A published change is clear if it exceeds twice its own noise, sqrt(std^2 + parent's std^2) over seeds.
    """

    clear: int
    measured: int
    """Of the clear ones, those whose two rungs both have finished runs here."""
    same_sign: int
    unknown: int
    """Steps whose noise the paper does not tell, so left out."""


def ladders(records: Runs) -> list[Ladder]:
    """A ladder a context, the one with the most finished runs first. Runs that are no rungs: see `others`."""
    frame = unique(records.runs)
    frame = frame[[_is_rung(regime, rung) for regime, rung in zip(frame["regime"], frame["rung"], strict=True)]]
    contexts = [Context.of(run) for run in frame.to_dict("records")]
    keys = pd.Series([context.key for context in contexts], index=frame.index, dtype=object)
    by_key = dict(zip(keys, contexts, strict=True))
    found = [_ladder(by_key[key], runs) for key, runs in frame.groupby(keys, sort=False)]
    return sorted(found, key=lambda one: (-len(one.counted), one.context.key))


def others(records: Runs, ladders: list[Ladder]) -> pd.DataFrame:
    """A row a series of the runs on no ladder: timm models, free sets of steps, a rung's second series.

    `name`, `regime`, `context`, `n`, `top1_mean`, `top1_std`, `macs`, `params`, `images_per_second`, `left_out`.
    """
    frame = unique(records.runs)
    taken = set().union(*(one.runs["path"] for one in ladders))
    frame = frame[~frame["path"].isin(taken)]
    rows = [_other(series) for _, series in frame.groupby("series", sort=False)]
    return pd.DataFrame(rows)


def unique(frame: pd.DataFrame) -> pd.DataFrame:
    """One run a series and seed, a finished one if there is one, else the latest: a copy is no replicate."""
    ranked = frame.assign(done=frame["status"] == "done").sort_values(["done", "started"], na_position="first")
    return ranked.drop_duplicates(["series", "seed"], keep="last").drop(columns="done").sort_index()


def agreement(table: pd.DataFrame) -> Agreement:
    """Count, over a ladder's steps, the published changes that are clear and those that have the same sign here."""
    steps = table[table["parent"].notna()]
    std = table.set_index("rung")["published_std"]
    noise = np.hypot(steps["published_std"], steps["parent"].map(std))
    clear = steps[steps["published_change"].abs() > 2 * noise]
    measured = clear[clear["change"].notna()]
    same = np.sign(measured["change"]) == np.sign(measured["published_change"])
    return Agreement(len(clear), len(measured), int(same.sum()), int(noise.isna().sum()))


@cache
def rungs_of(regime: str) -> tuple[Rung, ...]:
    """The ladder of a regime; empty for a regime that this checkout does not know."""
    try:
        return ladder(regime)
    except ValueError:
        return ()


def _ladder(context: Context, runs: pd.DataFrame) -> Ladder:
    """Series are never averaged: a rung's is the one with the most finished seeds, and the rest is in `others`."""
    rungs = rungs_of(context.regime)
    ranked = (
        runs.assign(done=runs["status"] == "done", latest=runs["started"].fillna(""))
        .groupby(["rung", "series"], as_index=False)
        .agg(done=("done", "sum"), latest=("latest", "max"))
        .sort_values(["done", "latest"])
    )
    runs = runs[runs["series"].isin(ranked.drop_duplicates("rung", keep="last")["series"])]
    order = {rung.name: index for index, rung in enumerate(rungs)}
    runs = runs.assign(order=runs["rung"].map(order)).sort_values(["order", "seed"]).drop(columns="order")
    return Ladder(context, rungs, runs, _table(rungs, runs))


def _table(rungs: tuple[Rung, ...], runs: pd.DataFrame) -> pd.DataFrame:
    done = runs[runs["status"] == "done"]
    top1 = {name: group.set_index("seed")["top1"] for name, group in done.groupby("rung")}
    published = {rung.name: rung.published for rung in rungs}
    none = pd.Series(dtype=float)
    rows = []
    for rung in rungs:
        values, before = top1.get(rung.name, none), top1.get(rung.parent, none)
        difference = change(values, before)
        parent_top1 = published[rung.parent].top1 if rung.parent else math.nan
        rows.append(
            {
                **{key: getattr(rung, key) for key in ("parent", "title", "section", "adopted")},
                "rung": rung.name,
                **_measured(done[done["rung"] == rung.name]),
                **difference._asdict(),
                "verdict": difference.verdict or _why_no_change(rung, values, before),
                "published_top1": rung.published.top1,
                "published_std": rung.published.std,
                "published_change": round(rung.published.top1 - parent_top1, 2),
                "left_out": int((runs["rung"] == rung.name).sum()) - len(values),
            }
        )
    table = pd.DataFrame(rows).astype({"published_std": float})
    return table[["rung", *table.columns.drop("rung")]]


def _why_no_change(rung: Rung, values: pd.Series, before: pd.Series) -> str:
    if values.empty:
        return "no finished run"
    return "start" if rung.parent is None else "parent missing"


def _measured(done: pd.DataFrame) -> dict[str, Any]:
    """Accuracy over seeds and costs of the finished runs of one series."""
    return {
        "n": len(done),
        "top1_mean": done["top1"].mean(),
        "top1_std": done["top1"].std(ddof=1),
        "macs": done["macs"].median(),
        "params": done["params"].median(),
        "images_per_second": done["images_per_second"].median(),
    }


def _other(series: pd.DataFrame) -> dict[str, Any]:
    done = series[series["status"] == "done"]
    run = series.iloc[0]
    return {
        "name": _name(run),
        "regime": run["regime"],
        "context": Context.of(run),
        "epochs": run["epochs"],
        **_measured(done),
        "left_out": len(series) - len(done),
    }


def _name(run: pd.Series) -> str:
    """What the network is: a timm model, a rung, or its steps, told from the road's end if that is shorter."""
    if run["model"] != "design":
        return run["model"]
    if run["rung"]:
        return f"{run['rung']}, another series"
    if run["steps"] is None:
        return "a design of its own"
    rungs = rungs_of(run["regime"])
    every = rungs[-1].steps if rungs else ()
    lacking = [step for step in every if step not in run["steps"]]
    if len(lacking) < len(run["steps"]) and set(run["steps"]) <= set(every):
        return f"all steps but {' + '.join(lacking)}"
    return " + ".join(run["steps"]) or "no steps"


def _is_rung(regime: str, rung: str | None) -> bool:
    return any(one.name == rung for one in rungs_of(regime))
