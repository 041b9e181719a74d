"""The rows of measured speeds (experiments/latency): their columns and types, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.sources.rows import FLAG, INTEGER, LIST, MAPPING, NUMBER, ROAD, TEXT, converted, frame_of
from roadmap.common.records import MODES, BrokenRecordError
from roadmap.common.statuses import Status

LATENCY_COLUMNS = {
    **dict.fromkeys(("path", "name", "regime", "network", "rung", "model"), TEXT),
    "resolution": INTEGER,
    "classes": INTEGER,
    **dict.fromkeys(("precision", "memory_format"), TEXT),
    **dict.fromkeys(("compiled", "gradient_checkpointing"), FLAG),
    **dict.fromkeys(("device", "processor"), TEXT),
    "threads": NUMBER,
    "mode": TEXT,
    "batch": INTEGER,
    **dict.fromkeys(("ms", "ms_low", "ms_high", "images_per_second", "rounds"), NUMBER),
    **dict.fromkeys(("macs", "params", "activations"), NUMBER),
    "busy": FLAG,
    **dict.fromkeys(("started", "finished", "host", "identity"), TEXT),
    **dict.fromkeys(("steps", "ms_of_rounds"), LIST),
    **dict.fromkeys(("differs", "design", "recipe", "data", "versions", "git"), MAPPING),
    "road": ROAD,
}
"""The columns of `Runs.latency` and their kinds. docs/latency.md describes them."""
_FROM_CONFIG = (
    *("regime", "network", "rung", "model", "resolution", "precision", "memory_format", "gradient_checkpointing"),
    *("steps", "differs", "design", "recipe", "data", "road"),
)
_REQUIRED = ("regime", "network", "road", "model", "device", "precision", "memory_format", "identity", "started")
_PER_ROW = ("mode", "batch", "started")
MOST_ROUNDS = 10_000
LONGEST = 1e9
"""Milliseconds of a pass: eleven days."""
LARGEST_BATCH = 2**20


def latency_rows(path: str, name: str, config: Mapping[str, Any], summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a network's record, one per mode and batch size, from config.json and summary.json. Times of a call
    that has not ended, or was interrupted, are left out.

    Raises:
        BrokenRecordError: if these are not a record of speed, or nothing is complete yet.
    """
    measurements = summary.get("measurements")
    if not isinstance(measurements, list) or not all(isinstance(row, dict) for row in measurements):
        raise BrokenRecordError("not a record of speed: 'measurements' is not a list of objects")
    is_ended = summary.get("status") in (Status.DONE, Status.FAILED)
    complete = [row for row in measurements if row.get("complete", is_ended)]
    if not complete and not is_ended:
        raise BrokenRecordError("not measured to the end; the same command of experiments.latency continues")
    values = {column: summary.get(column) for column in LATENCY_COLUMNS}
    values |= {key: config.get(key) for key in _FROM_CONFIG} | {"compiled": config.get("compile")}
    values |= {"path": path, "name": name}
    return [
        checked(
            values
            | {key: row.get(key) for key in _PER_ROW}
            | {"busy": row.get("busy", values["busy"]), "ms_of_rounds": row.get("ms")}
        )
        for row in complete
    ]


def checked(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with each column of its kind, and its medians and quartiles computed from the rounds.

    Raises:
        BrokenRecordError: if it is not one of a measured speed.
    """
    row = {column: converted(column, kind, row.get(column)) for column, kind in LATENCY_COLUMNS.items()}
    for column in _REQUIRED:
        if row[column] is None:
            raise BrokenRecordError(f"not a record of speed: {column!r} is missing")
    if row["mode"] not in MODES:
        raise BrokenRecordError(f"not a record of speed: mode is {row['mode']!r}, not {' or '.join(MODES)}")
    for column in ("batch", "resolution", "classes"):
        if not 0 < row[column] <= LARGEST_BATCH:
            raise BrokenRecordError(f"not a record of speed: {column} is {row[column]}")
    times = row["ms_of_rounds"] or []
    if not 0 < len(times) <= MOST_ROUNDS or not all(map(_is_time, times)):
        raise BrokenRecordError("not a record of speed: the times of the rounds are no list of milliseconds")
    if not all(isinstance(step, str) for step in row["steps"] or ()):
        raise BrokenRecordError("not a record of speed: 'steps' is not a list of names")
    low, median, high = np.quantile(np.array(times, float), [0.25, 0.5, 0.75]).tolist()
    row |= {"ms": median, "ms_low": low, "ms_high": high, "rounds": float(len(times))}
    return row | {"images_per_second": 1e3 * row["batch"] / median, "differs": row["differs"] or {}}


def latency_frame(rows: Iterable[Mapping[str, Any]] = ()) -> pd.DataFrame:
    """One row per network, setting, mode and batch size. Types are the same whatever the rows hold."""
    return frame_of(rows, LATENCY_COLUMNS)


def _is_time(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and 1e-6 <= value <= LONGEST
