"""The rows of runs and epochs, wherever they were read from: their columns and types, and what is refused."""

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
from roadmap.common.records import BrokenRecordError
from roadmap.common.statuses import Status
from roadmap.common.words import listed, shortened
from roadmap.roads import Road

ENDED = (Status.DONE, Status.DIVERGED)
"""Statuses that are an outcome: training such a run once more is a second try."""
NAMED = 4
"""How many of the runs whose copies disagree are named; the others are counted."""
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
    **dict.fromkeys(
        ("differs", "design", "recipe", "data", "init", "code", "versions", "git", "look", "tuning"), MAPPING
    ),
    "road": ROAD,
}
"""The columns of `Runs.runs` and their kinds. docs/analysis.md describes them."""
_FROM_CONFIG = (
    *("regime", "network", "rung", "steps", "differs", "road", "model", "design", "recipe", "data", "resolution"),
    *("seed", "precision", "init", "code", "micro_batch_size", "sync_batch_norm", "look", "tuning"),
)
_FROM_RECIPE = ("epochs", "batch_size", "lr")
_REQUIRED = (
    *("regime", "network", "road", "model", "design", "recipe", "data", "recipe_name", "data_name"),
    *("identity", "series", "metric"),
)
TOP1 = "top1"
LARGEST = 1e18
"""No number that was measured or counted is larger, and tables and figures could not show it."""
POSITIVE = ("macs", "params", "activations", "images_per_second", "seconds_per_epoch", "train_seconds", "wall_seconds")
"""What is more than 0 for every network and run."""
WHOLE = (
    *("threads", "processes", "accumulation", "micro_batch_size", "train_images", "evaluation_images"),
    *("broken_images", "classes", "diverged_before"),
)
"""Counts."""
_INSIDE: dict[str, dict[str, tuple[type, ...]]] = {
    "recipe": {"name": (str,), "epochs": (int,), "batch_size": (int,), "lr": (int, float)},
    "data": {"name": (str,), "num_classes": (int, NoneType), "holdout": (int, float, NoneType)},
    "git": {"commit": (str,)},
}
"""The keys of mappings that the analysis reads, and the types that their values may have."""
DEEPEST = 20
"""How deep lists and mappings may be nested."""
_TYPES = {MAPPING: (dict, "a JSON object"), LIST: (list, "a list"), FLAG: (bool, "true or false")}


def run_row(path: str, name: str, config: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    """A run's row, from the contents of config.json and summary.json (docs/records.md).

    Raises:
        BrokenRecordError: if these are not a run's.
    """
    values = {column: summary.get(column) for column in COLUMNS}
    values |= {key: config.get(key) for key in _FROM_CONFIG}
    try:
        values |= {key: config["recipe"][key] for key in _FROM_RECIPE}
        values |= {"recipe_name": config["recipe"]["name"], "data_name": config["data"]["name"]}
    except KeyError as error:
        raise BrokenRecordError(f"not a run record: {error} is missing") from None
    except TypeError as error:
        raise BrokenRecordError(f"not a run record: {one_line(error)}") from None
    score = summary.get(values["metric"]) if isinstance(values["metric"], str) else None
    return checked(values | {"path": path, "name": name, "score": score})


def checked(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with each column of its kind; what a record leaves open is None, or NaN for a number.

    Raises:
        BrokenRecordError: if it is not a run's.
    """
    row = {column: converted(column, kind, row.get(column)) for column, kind in COLUMNS.items()}
    for column in _REQUIRED:
        if row[column] is None:
            raise BrokenRecordError(f"not a run record: {column!r} is missing")
    for column, types in _INSIDE.items():
        for key, allowed in types.items() if row[column] is not None else ():
            if not isinstance(value := row[column].get(key), allowed) or isinstance(value, bool):
                raise BrokenRecordError(f"not a run record: {key!r} of {column!r} is missing or has the wrong type")
    if not all(isinstance(step, str) for step in row["steps"] or ()):
        raise BrokenRecordError("not a run record: 'steps' is not a list of names")
    if row["status"] not in [*Status]:
        raise BrokenRecordError(f"status is {row['status']!r}, not one of {', '.join(Status)}")
    if row["status"] == Status.DONE and not (0 <= row["score"] <= (100 if row["metric"] == TOP1 else LARGEST)):
        raise BrokenRecordError(f"the run is done, but its {row['metric']} is {row['score']}")
    row["differs"] = row["differs"] or {}
    return row


def run_frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per run, with `left_out`. Types are the same whatever the rows hold: int64, float64, and object."""
    frame = frame_of(rows, COLUMNS)
    return frame.assign(left_out=left_out(frame))


def frame_of(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> pd.DataFrame:
    """A frame with these columns, of the types of their kinds."""
    types, rows = {INTEGER: "int64", NUMBER: "float64"}, list(rows)
    return pd.DataFrame(
        {
            column: pd.Series([row[column] for row in rows], dtype=types.get(kind, "object"))
            for column, kind in columns.items()
        }
    )


def left_out(runs: pd.DataFrame) -> pd.Series:
    """Why a run does not count in a mean: "copy" if there is a run of its series and seed already, else its status
    if it is not done, "diverged" if it is done, but had diverged before, else "".

    A copy is no replicate. Of several, the first that finished or diverged is not a copy: training a run again until
    it is good, or until it trains at all, changes nothing. If none has ended, it is the one that started last.
    """
    ended = runs["status"].isin(ENDED)
    first = runs[ended].sort_values(["finished", "started"], kind="stable")
    last = runs[~ended].iloc[::-1].sort_values("started", na_position="first", kind="stable").iloc[::-1]
    ranked = runs.loc[[*first.index, *last.index]]
    copies = ranked.duplicated(["series", "seed"]).reindex(runs.index)
    done = runs["status"] == Status.DONE
    return runs["status"].mask(done, "").mask(done & (runs["diverged_before"] > 0), "diverged").mask(copies, "copy")


def disagreements(runs: pd.DataFrame) -> list[str]:
    """Sentences on the runs that were trained more than once with different outcomes, the first few by name."""
    ended = runs[runs["status"].isin(ENDED)]
    ended = ended[ended.duplicated(["series", "seed"], keep=False)]
    ended = ended.sort_values("left_out", key=lambda why: why == "copy", kind="stable")  # first the one that counts
    sentences = []
    for _, copies in ended.groupby(["series", "seed"], sort=False):
        values = [f"{run.score:.6g}" if run.status == Status.DONE else run.status for run in copies.itertuples()]
        if len({*values}) > 1:
            paths = [printable(path) for path in copies["path"]]
            paths[0] += ", the first to end, which counts"
            ends = [f"{value} ({path})" for value, path in zip(values, paths, strict=True)]
            sentences.append(f"{len(ends)} copies of {copies['name'].iloc[0]} disagree: {listed(ends)}.")
    if len(sentences) > NAMED:
        sentences[NAMED:] = [f"So do copies of {len(sentences) - NAMED} more."]
    if again := runs[(runs["left_out"] == "diverged") & (runs["status"] == Status.DONE)]["name"].tolist():
        names = shortened(again, NAMED)
        sentences.append(f"{names} trained when tried again after diverging: the first outcome counts.")
    return sentences


def epoch_frame(epochs: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """One row per epoch, from the values of each run. `path` is categorical: a text per run, not one per epoch."""
    values = np.concatenate([np.empty((len(EPOCH_COLUMNS), 0)), *epochs.values()], axis=1)
    codes = np.repeat(np.arange(len(epochs)), [of_run.shape[1] for of_run in epochs.values()])
    paths = pd.Categorical.from_codes(codes, categories=pd.Index(list(epochs), dtype=object))
    columns = dict(zip(EPOCH_COLUMNS, values, strict=True))
    return pd.DataFrame({"path": paths, "epoch": columns.pop("epoch").astype("int64")} | columns, copy=False)


def one_line(error: object) -> str:
    return " ".join(str(error).split())


def converted(column: str, kind: str, value: Any) -> Any:
    """The value as one of its column's kind; None, or NaN for a number, if a record has none.

    Raises:
        BrokenRecordError: if it can't be converted, and no record may have it.
    """
    if kind == ROAD:
        return _road(value)
    value = _printable(column, value)
    if kind == TEXT:
        return value or None if isinstance(value, str) or value is None else json.dumps(value)
    if kind == INTEGER:
        return _integer(column, value)
    if kind == NUMBER:
        value = number(value)
        possible = abs(value) <= LARGEST and (value > 0 or column not in POSITIVE)
        return value if possible and (value.is_integer() or column not in WHOLE) else math.nan
    expected, words = _TYPES[kind]
    if value is not None and not isinstance(value, expected):
        raise BrokenRecordError(f"not a run record: {column!r} is not {words}")
    return value


def _printable(column: str, value: Any, depth: int = 0) -> Any:
    """The value with all text in it printable, except for the path, which is used to find the run: no terminal and no
    report gets a control character from a record."""
    if isinstance(value, str):
        return value if column == "path" or value.isprintable() else printable(one_line(value))
    if isinstance(value, dict | list) and depth == DEEPEST:
        raise BrokenRecordError(f"not a run record: {column!r} is nested too deeply")
    if isinstance(value, dict):
        return {printable(key): _printable(column, inner, depth + 1) for key, inner in value.items()}
    return [_printable(column, inner, depth + 1) for inner in value] if isinstance(value, list) else value


def _integer(column: str, value: Any) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**63:
        problem = "missing" if value is None else "no 64-bit integer"
        raise BrokenRecordError(f"not a run record: {column!r} is {problem}")
    return value


def _road(value: Any) -> Road | None:
    """Equal roads become the same object: all runs of a study have one road, which is then parsed once."""
    if value is None or isinstance(value, Road):
        return value
    try:
        return _parsed_road(orjson.dumps(value))
    except (ValueError, TypeError) as error:  # orjson raises a TypeError
        raise BrokenRecordError(f"not a run record: 'road': {printable(one_line(error))}") from None


@cache
def _parsed_road(text: bytes) -> Road:
    return Road.from_json(_printable("road", orjson.loads(text)))
