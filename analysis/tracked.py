"""Runs that Weights & Biases has (docs/tracking.md): over its API, or in the files that it keeps offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.epochs import MEASURES, Histories, history, history_frame
from analysis.jsons import BrokenRecordError, one_line, parse

if TYPE_CHECKING:
    from analysis.records import Runs, Skipped

PAGE = 1000
"""Epochs asked for at a time."""


def load_wandb(
    project: str, filters: Mapping[str, Any] | None = None, *, order: str = "+created_at", timeout: int = 60
) -> Runs:
    """The runs of a W&B project: the same frames as `load` gives of their records.

    Epochs are fetched when `Runs.epochs` is first asked for, a request or more a run.

    Args:
        project: "entity/project", or "project" of one's default entity.
        filters: W&B's own (of MongoDB's form): {"group": "ladder"}, {"config.regime": "resnet50"}.
        order: W&B's own.
        timeout: seconds in which W&B has to answer.

    Raises:
        RecordsError: if W&B cannot be asked, or the project has no run of ours.
    """
    import wandb

    from analysis.records import RecordsError, Runs, run_frame, run_row

    rows, tracked, skipped = [], [], []
    try:
        for run in wandb.Api(timeout=timeout).runs(project, filters=dict(filters or {}), order=order):
            place = f"{run.entity}/{run.project}/{run.id}"
            try:
                rows.append(run_row(place, run.name, run.config, _known(run.summary_metrics)))
                tracked.append(run)
            except BrokenRecordError as error:
                skipped.append((place, f"{run.name}: {error}"))
    except (wandb.Error, OSError, ValueError) as error:
        raise RecordsError(f"W&B does not give the runs of {project} ({one_line(error)})") from None
    if not rows:
        why = f"{len(skipped)} runs, none of them ours" if skipped else "no run"
        raise RecordsError(f"W&B has {why} in {project}; name the entity too: entity/project")

    def histories(paths: list[str], skipped: Skipped) -> pd.DataFrame:
        arrays = []
        for path, run in zip(paths, tracked, strict=True):
            try:
                arrays.append(history(_distinct(run.scan_history(page_size=PAGE))))
            except (wandb.Error, OSError, ValueError, TypeError, AttributeError) as error:
                skipped.append((path, f"W&B does not give its epochs ({one_line(error)})"))
                arrays.append(np.empty((0, 1 + len(MEASURES))))
        return history_frame(paths, arrays)

    return Runs(run_frame(rows), histories, skipped)


def read_offline(files: list[str], skipped: Skipped) -> tuple[list[dict[str, Any]], Histories]:
    """Runs from W&B's `run-ID.wandb` files, each read by wandb's own tool; attempts of one run are one run."""
    from analysis.records import run_row

    attempts: dict[str, list[str]] = {}
    for file in files:
        attempts.setdefault(os.path.basename(file), []).append(file)
    rows, arrays = [], []
    for same in attempts.values():
        name, config, summary, lines = "", {}, {}, []
        try:
            for file in sorted(same):  # their folders begin with the time
                for record in _inspect(file):
                    if record["type"] == "run":
                        name = record["run"].get("display_name", name)
                        config |= record["run"].get("config", {}).get("update", {})
                    elif record["type"] == "summary":
                        summary |= record["summary"].get("update", {})
                    elif record["type"] == "history":
                        lines.append(record["history"]["item"])
            row, array = run_row(same[-1], name, config, _known(summary)), history(_distinct(lines))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            skipped.append((same[-1], one_line(error)))
            continue
        rows.append(row)
        arrays.append(array)
    return rows, lambda paths, skipped: history_frame(paths, arrays)


def _inspect(file: str) -> list[dict[str, Any]]:
    """The records of a file, as wandb reads it.

    Raises:
        OSError: if wandb cannot.
    """
    words = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", file]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"wandb cannot read it: {one_line(ValueError(done.stderr[-300:]))}")
    return [parse(line) for line in done.stdout.splitlines()]


def _known(summary: Any) -> dict[str, Any]:
    """A summary without what W&B adds to it."""
    items = json.loads(summary) if isinstance(summary, str) else dict(summary)
    return {name: value for name, value in items.items() if not name.startswith("_")}


def _distinct(rows: Any) -> list[dict[str, Any]]:
    """Epochs in their order, each as it was logged first: what is trained again after a loss is not logged again."""
    found: dict[int, dict[str, Any]] = {}
    for row in rows:
        found.setdefault(row["epoch"], row)
    return [found[epoch] for epoch in sorted(found)]
