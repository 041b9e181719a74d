"""The content of a run's config.json and summary.json (docs/records.md), checked in one place for all that read them.

Other programs may have written them, or a full disk may have cut them. Imports neither torch nor Hydra: reading the
records of thousands of runs takes less time than importing those.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

from roadmap.common.files import printable, read_json
from roadmap.common.records import BrokenRecordError, read_record_file
from roadmap.common.statuses import Status

Row = dict[str, Any]


def summary_of(directory: str | os.PathLike) -> Row:
    """summary.json. Its `status` is one of `Status`; every other known field has its type or is None, and texts are
    printable, whatever the file says.

    Raises:
        BrokenRecordError: if there is none that can be used.
    """
    summary = read_record_file(directory, "summary.json")
    if summary.get("status") not in [*Status]:
        raise BrokenRecordError(f"summary.json: its status is none of {', '.join(Status)}")
    summary = _converted(summary, SUMMARY)
    metric = summary.get("metric")
    for name in {str(metric), f"{metric}_best"} & summary.keys() - SUMMARY.keys():
        summary[name] = _number(summary[name])
    return summary


def config_of(directory: str | os.PathLike) -> Row:
    """config.json, with everything that a run's has.

    Raises:
        BrokenRecordError: if there is none that can be used.
    """
    config = _converted(read_record_file(directory, "config.json"), CONFIG | OPTIONAL)
    if lacking := [name for name in CONFIG if config.get(name) is None]:
        raise BrokenRecordError(f"config.json: {lacking[0]} is missing or has another type")
    return config


LONGEST_CLASS_NAME = 100
"""Characters; the rest is cut."""


def class_names_of(directory: str | os.PathLike, classes: int) -> tuple[str, ...] | None:
    """The names of that many classes in classes.json, printable; None if there are none that can be used."""
    try:
        names = read_json(os.path.join(directory, "classes.json"))
    except (OSError, ValueError):
        return None
    if not isinstance(names, list) or len(names) != classes or not all(isinstance(name, str) for name in names):
        return None
    return tuple(printable(name[:LONGEST_CLASS_NAME]) for name in names)


Kind = Callable[[Any], Any]
"""Converts any value to one of a type, or to None."""


def _converted(row: Row, kinds: dict[str, Kind]) -> Row:
    return {key: kinds[key](value) if key in kinds else value for key, value in row.items()}


def _text(value: Any) -> str | None:
    return printable(" ".join(value.split())) if isinstance(value, str) else None


def _number(value: Any) -> float | int | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and abs(value) <= MOST and math.isfinite(value) else None


def count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST else None


def _mapping(value: Any) -> Row | None:
    return value if isinstance(value, dict) else None


def _object(required: str = "", **fields: Kind) -> Kind:
    def convert(value: Any) -> Row | None:
        if not isinstance(value, dict):
            return None
        converted = value | {name: kind(value.get(name)) for name, kind in fields.items()}
        return None if required and converted[required] is None else converted

    return convert


MOST = 2**63 - 1
TEXTS: tuple[str, ...] = ("status", "reason", "identity", "series", "study", "host", "gpus", "device", "evaluated_on")
TEXTS += ("started", "finished", "task", "metric", "retried_alone")
COUNTS: tuple[str, ...] = ("seed", "epochs", "epochs_done", "epoch_best", "train_images", "evaluation_images")
COUNTS += ("broken_images", "diverged_before", "classes", "macs", "params", "activations", "threads", "processes")
COUNTS += ("accumulation", "runs_per_gpu")
NUMBERS: tuple[str, ...] = ("top1", "top5", "val_loss", "ema_top1", "ema_top5", "ema_val_loss", "top1_best")
NUMBERS += ("below_median", "images_per_second", "seconds_per_epoch", "train_seconds", "wall_seconds", "peak_memory_mb")
SUMMARY: dict[str, Kind] = {
    **dict.fromkeys(TEXTS, _text),
    **dict.fromkeys(COUNTS, count),
    **dict.fromkeys(NUMBERS, _number),
    "job": _object(name=_text, index=count, id=_text),
    "wandb": _object("id", id=_text, url=_text),
}
CONFIG: dict[str, Kind] = {
    "model": _text,
    "design": _mapping,
    "recipe": _object("name", name=_text),
    "data": _object("name", name=_text),
    "resolution": count,
}
OPTIONAL: dict[str, Kind] = {"network": _text, "road": _mapping}
"""Of config.json, where they may be missing."""
