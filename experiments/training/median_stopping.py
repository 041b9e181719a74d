"""The median stopping rule (Golovin et al. 2017) with a margin: `stop_below`.

A run ends early when, after some epoch, its metric is below the median of its study's finished runs after the same
epoch, by more than the margin. Not before a third of its epochs: a high learning rate, or a warmup, starts slowly and
may still end best (docs/spending.md has a case).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from experiments.config.run import Run
from experiments.errors import HopelessError
from experiments.records.record import Record, read_summary
from experiments.records.schema import Row
from experiments.records.study_file import run_names, study_file
from experiments.runtime.processes import Processes
from roadmap.common.files import read_object
from roadmap.common.statuses import Status

FEWEST = 3
"""Finished runs without which none is stopped."""
GRACE = 1 / 3
"""The part of its epochs that every run is given."""
ALIKE = ("epochs", "task", "metric", "evaluated_on", "evaluation_images")
"""Facts of a summary without which the metrics of two runs at the same epoch cannot be compared."""
DATA = ("name", "version", "subset", "holdout")
"""Likewise, settings of the data."""


def stop_if_hopeless(run: Run, record: Record, processes: Processes) -> None:
    """To be called after an epoch. With several processes the first decides.

    Raises:
        HopelessError: in all processes.
    """
    if run.stop_below is None:
        return
    reason = processes.broadcast_from_first(_reason(run, record) if processes.is_first else None)
    if reason:
        raise HopelessError(reason)


def _reason(run: Run, record: Record) -> str | None:
    """Why the run is hopeless, in one line; None if it isn't. By how much it is below is added to its record."""
    metric, epoch = run.task.metric, len(record.epochs)
    if epoch < GRACE * run.recipe.epochs:
        return None
    finished = [*_finished(run, record.summary, epoch)]
    if len(finished) < FEWEST:
        return None
    value, middle = record.epochs[-1][metric], median(finished)
    if middle - value <= run.stop_below:
        return None
    record.update(below_median=middle - value)
    return (
        f"{metric} {value:.2f} after epoch {epoch} of {run.recipe.epochs} is {middle - value:.2f} below {middle:.2f}, "
        f"the median of the study's {len(finished)} finished runs (stop_below={run.stop_below:g})"
    )


def _finished(run: Run, summary: Row, epoch: int) -> Iterator[float]:
    """The metric of the study's finished runs after an epoch, of those that were trained for as many epochs and
    evaluated on the same data."""
    try:
        names = run_names(study_file(run.runs, run.study_name), all_launches=True)
    except ValueError:
        return
    data = run.to_json()["data"]
    for name in names:
        directory = run.runs / name
        other = read_summary(directory) or {}
        is_alike = all(other.get(fact) == summary.get(fact) for fact in ALIKE)
        if other.get("status") == Status.DONE and is_alike and _has_data(directory, data):
            value = _row(directory, epoch).get(run.task.metric)
            if isinstance(value, int | float):
                yield value


def _has_data(directory: Path, data: dict[str, Any]) -> bool:
    other = (read_object(directory / "config.json") or {}).get("data") or {}
    return all(other.get(setting) == data[setting] for setting in DATA)


def _row(directory: Path, epoch: int) -> Row:
    """A line of epochs.jsonl; empty if it is missing or broken."""
    try:
        row = json.loads((directory / "epochs.jsonl").read_text("utf-8").splitlines()[epoch - 1])
    except (OSError, ValueError, IndexError):
        return {}
    return row if isinstance(row, dict) and row.get("epoch") == epoch else {}
