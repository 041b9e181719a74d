"""What a run's row and an epoch's row hold, wherever they were read: the columns, their types, what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from functools import cache
from types import NoneType
from typing import Any

import numpy as np
import orjson
import pandas as pd

from analysis.sources.epochs import EPOCH_COLUMNS, number
from roadmap.common.files import printable
from roadmap.common.statuses import Status
from roadmap.common.words import listed, shortened
from roadmap.roads import Road

ENDED = (Status.DONE, Status.DIVERGED)
"""What trained to its end, or cannot: training it once more, as it is, is a second try."""
NAMED = 4
"""Runs whose copies disagree that are named."""
TEXT, INTEGER, NUMBER, MAPPING, LIST, FLAG, ROAD = "text", "integer", "number", "mapping", "list", "flag", "road"
COLUMNS = {
    **dict.fromkeys(("path", "name", "status", "left_out", "reason", "study"), TEXT),
    **dict.fromkeys(("regime", "network", "rung", "model", "recipe_name", "data_name"), TEXT),
    **dict.fromkeys(("seed", "resolution", "epochs", "batch_size"), INTEGER),
    "lr": NUMBER,
    **dict.fromkeys(("precision", "task", "metric"), TEXT),
    "score": NUMBER,
    **dict.fromkeys(("top1", "top5", "val_loss", "ema_top1", "ema_top5", "ema_val_loss"), NUMBER),
    **dict.fromkeys(("top1_best", "epoch_best", "epochs_done", "diverged_before"), NUMBER),
    "evaluated_on": TEXT,
    **dict.fromkeys(("train_images", "evaluation_images", "broken_images", "classes"), NUMBER),
    **dict.fromkeys(("macs", "params", "activations"), NUMBER),
    **dict.fromkeys(("images_per_second", "seconds_per_epoch", "train_seconds", "wall_seconds"), NUMBER),
    "peak_memory_mb": NUMBER,
    **dict.fromkeys(("started", "finished", "host", "gpus", "device"), TEXT),
    **dict.fromkeys(("threads", "processes", "accumulation", "micro_batch_size"), NUMBER),
    "sync_batch_norm": FLAG,
    **dict.fromkeys(("series", "identity"), TEXT),
    "steps": LIST,
    **dict.fromkeys(("differs", "design", "recipe", "data", "init", "code", "versions", "git"), MAPPING),
    "road": ROAD,
}
"""Of `Runs.runs`: each column's kind. docs/analysis.md describes them."""
_FROM_CONFIG = (
    *("regime", "network", "rung", "steps", "differs", "road", "model", "design", "recipe", "data", "resolution"),
    *("seed", "precision", "init", "code", "micro_batch_size", "sync_batch_norm"),
)
_FROM_RECIPE = ("epochs", "batch_size", "lr")
_REQUIRED = ("regime", "model", "design", "recipe", "data", "recipe_name", "data_name", "identity", "series")
TOP1 = "top1"
"""The main metric of records that name none."""
LARGEST = 1e18
"""A number beyond this is none that was measured or counted: tables and figures could not show it."""
POSITIVE = ("macs", "params", "activations", "images_per_second", "seconds_per_epoch", "train_seconds", "wall_seconds")
"""No network and no run has none of these."""
WHOLE = (
    "threads",
    "processes",
    "accumulation",
    "micro_batch_size",
    "train_images",
    "evaluation_images",
    "broken_images",
)
WHOLE += ("classes", "diverged_before")
"""Counts."""
_INSIDE: dict[str, dict[str, tuple[type, ...]]] = {
    "recipe": {"name": (str,), "epochs": (int,), "batch_size": (int,), "lr": (int, float)},
    "data": {"name": (str,), "num_classes": (int, NoneType), "holdout": (int, float, NoneType)},
    "git": {"commit": (str,)},
}
"""Of mappings: what is read of them, and of which types it is."""
DEEPEST = 20
"""Lists and mappings in one another."""
_KINDS = {MAPPING: (dict, "a JSON object"), LIST: (list, "a list"), FLAG: (bool, "true or false")}


class BrokenRecordError(ValueError):
    """What looks like a run but is no record. The message is one line."""


def run_row(path: str, name: str, config: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    """A run's row, of what config.json and summary.json hold (docs/records.md).

    Raises:
        BrokenRecordError: if these are not a run's.
    """
    known = {column: summary.get(column) for column in COLUMNS}
    known |= {key: config.get(key) for key in _FROM_CONFIG}
    try:
        known |= {key: config["recipe"][key] for key in _FROM_RECIPE}
        names = {"recipe_name": config["recipe"]["name"], "data_name": config["data"]["name"]}
    except KeyError as error:
        raise BrokenRecordError(f"not a run record: {error} is missing") from None
    except TypeError as error:
        raise BrokenRecordError(f"not a run record: {one_line(error)}") from None
    metric = known["metric"] if isinstance(known["metric"], str) else TOP1
    return checked(known | names | {"path": path, "name": name, "score": summary.get(metric)})


def checked(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with each column of its kind; what a record leaves open is None, or NaN for a number.

    Raises:
        BrokenRecordError: if it is not a run's.
    """
    row = {
        column: _CONVERT[kind](column, row.get(column) if kind == ROAD else _printable(column, row.get(column)))
        for column, kind in COLUMNS.items()
    }
    row["metric"] = row["metric"] or TOP1
    if row["metric"] == TOP1:
        row["score"] = row["top1"]
    for column in _REQUIRED:
        if row[column] is None:
            raise BrokenRecordError(f"not a run record: {column!r} is missing")
    for column, types in _INSIDE.items():
        for key, kinds in types.items() if row[column] is not None else ():
            if not isinstance(value := row[column].get(key), kinds) or isinstance(value, bool):
                raise BrokenRecordError(f"not a run record: {key!r} of {column!r} is missing or of no such type")
    if not all(isinstance(step, str) for step in row["steps"] or ()):
        raise BrokenRecordError("not a run record: 'steps' are no names")
    if row["status"] not in [*Status]:
        raise BrokenRecordError(f"status is {row['status']!r}, not one of {', '.join(Status)}")
    if row["status"] == Status.DONE and not (0 <= row["score"] <= (100 if row["metric"] == TOP1 else LARGEST)):
        raise BrokenRecordError(f"the run is done, but its {row['metric']} is {row['score']}")
    row["differs"] = row["differs"] or {}
    return row


def run_frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per run, with `left_out`. Types are the same whatever the rows hold: int64, float64, and object."""
    types = {INTEGER: "int64", NUMBER: "float64"}
    rows = list(rows)
    frame = pd.DataFrame(
        {
            column: pd.Series([row[column] for row in rows], dtype=types.get(kind, "object"))
            for column, kind in COLUMNS.items()
        }
    )
    return frame.assign(left_out=left_out(frame))


def left_out(runs: pd.DataFrame) -> pd.Series:
    """Why a run does not count in a mean: "copy" if a run of its series and seed is there already, else its status
    if it is not done, "diverged" if it is, but had diverged before, else "".

    A copy is no replicate. Of several the first that finished or diverged is no copy: whoever trains a run again until
    it is good, or until it trains, changes nothing. If none has, it is the one that started last.
    """
    ended = runs["status"].isin(ENDED)
    first = runs[ended].sort_values(["finished", "started"], kind="stable")
    last = runs[~ended].iloc[::-1].sort_values("started", na_position="first", kind="stable").iloc[::-1]
    ranked = runs.loc[[*first.index, *last.index]]
    copies = ranked.duplicated(["series", "seed"]).reindex(runs.index)
    again = (runs["status"] == Status.DONE) & (runs["diverged_before"] > 0)
    return runs["status"].mask(runs["status"] == Status.DONE, "").mask(again, "diverged").mask(copies, "copy")


def disagreements(runs: pd.DataFrame) -> list[str]:
    """Sentences on the runs that were trained more than once and did not always end alike, the first few by name."""
    ended = runs[runs["status"].isin(ENDED)]
    ended = ended[ended.duplicated(["series", "seed"], keep=False)]
    ended = ended.sort_values("left_out", key=lambda why: why == "copy", kind="stable")  # first the one that counts
    found = []
    for _, copies in ended.groupby(["series", "seed"], sort=False):
        values = [f"{run.score:.6g}" if run.status == Status.DONE else run.status for run in copies.itertuples()]
        if len({*values}) > 1:
            paths = [printable(path) for path in copies["path"]]
            paths[0] += ", the first to end, which counts"
            ends = [f"{value} ({path})" for value, path in zip(values, paths, strict=True)]
            found.append(f"{len(ends)} copies of {copies['name'].iloc[0]} disagree: {listed(ends)}.")
    more = [f"So do copies of {len(found) - NAMED} more."] if len(found) > NAMED else []
    again = runs[(runs["left_out"] == "diverged") & (runs["status"] == Status.DONE)]["name"].tolist()
    words = f"{shortened(again, NAMED)} trained when tried again after diverging: the first outcome counts."
    return found[:NAMED] + more + [words] * bool(again)


def epoch_frame(parts: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """A row an epoch, of the values of each run. `path` is categorical: a text a run, not one an epoch."""
    values = np.concatenate([np.empty((len(EPOCH_COLUMNS), 0)), *parts.values()], axis=1)
    codes = np.repeat(np.arange(len(parts)), [part.shape[1] for part in parts.values()])
    paths = pd.Categorical.from_codes(codes, categories=pd.Index(list(parts), dtype=object))
    columns = dict(zip(EPOCH_COLUMNS, values, strict=True))
    return pd.DataFrame({"path": paths, "epoch": columns.pop("epoch").astype("int64")} | columns, copy=False)


def _printable(column: str, value: Any, depth: int = 0) -> Any:
    """With every text in it printable, but for the path, which has to be found again: whatever a record says, no
    terminal and no report gets a control character of it."""
    if isinstance(value, str):
        return value if column == "path" or value.isprintable() else printable(one_line(value))
    if isinstance(value, dict | list) and depth == DEEPEST:
        raise BrokenRecordError(f"not a run record: {column!r} is nested too deeply")
    if isinstance(value, dict):
        return {printable(key): _printable(column, one, depth + 1) for key, one in value.items()}
    return [_printable(column, one, depth + 1) for one in value] if isinstance(value, list) else value


def one_line(error: object) -> str:
    return " ".join(str(error).split())


def _text(column: str, value: Any) -> str | None:
    return value or None if isinstance(value, str) or value is None else json.dumps(value)


def _integer(column: str, value: Any) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**63:
        missing = value is None
        raise BrokenRecordError(f"not a run record: {column!r} is {'missing' if missing else 'no 64-bit integer'}")
    return value


def _of_kind(kind: str) -> Any:
    expected, words = _KINDS[kind]

    def convert(column: str, value: Any) -> Any:
        if value is not None and not isinstance(value, expected):
            raise BrokenRecordError(f"not a run record: {column!r} is not {words}")
        return value

    return convert


def _road(column: str, value: Any) -> Road | None:
    """Equal roads are one value: a study's runs have the same, so each is read once."""
    if value is None or isinstance(value, Road):
        return value
    try:
        return _read_road(orjson.dumps(value))
    except (ValueError, TypeError) as error:  # orjson's is a TypeError
        raise BrokenRecordError(f"not a run record: {column!r}: {printable(one_line(error))}") from None


@cache
def _read_road(text: bytes) -> Road:
    return Road.from_json(_printable("road", orjson.loads(text)))


def _finite(column: str, value: Any) -> float:
    value = number(value)
    possible = abs(value) <= LARGEST and (value > 0 or column not in POSITIVE)
    return value if possible and (value.is_integer() or column not in WHOLE) else math.nan


_CONVERT = {TEXT: _text, INTEGER: _integer, NUMBER: _finite, ROAD: _road} | {kind: _of_kind(kind) for kind in _KINDS}
