"""From a folder of run records (docs/records.md) to tidy frames: a row a run, a row an epoch."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

CONFIG, SUMMARY, EPOCHS = "config.json", "summary.json", "epochs.jsonl"
EPOCH_COLUMNS = ("epoch", "lr", "train_loss", "val_loss", "top1", "top5", "images_per_second", "seconds")
NUMBERS = (
    *("resolution", "seed", "epochs", "batch_size", "lr"),
    *("top1", "top5", "val_loss", "macs", "params", "activations", "images_per_second", "train_seconds"),
    *("wall_seconds", "peak_memory_mb", "epochs_done", "threads", "processes", "train_images", "evaluation_images"),
)
OTHERS = ("study", "reason", "evaluated_on", "started", "finished", "device", "versions", "git")
STATUSES = ("done", "queued", "running", "unfinished", "diverged", "failed")


class RecordsError(ValueError):
    """There is nothing to analyse. The message is one line: what, where, and what to do."""


class BrokenRecordError(ValueError):
    """A directory that looks like a run but is not a record. The message is one line."""


@dataclass
class Runs:
    """Run records as frames."""

    runs: pd.DataFrame
    """A row a run, finished or not (see `status`).

    `path`, `name`; `regime`, `rung`, `steps`, `differs`, `model`, `design`, `recipe`, `data`, `resolution`,
    `precision`, `seed`; `recipe_name`, `data_name`, `epochs`, `batch_size`, `lr`; and the summary's: `status`, `top1`
    (percent), `macs`, `params`, `images_per_second`, `wall_seconds` (s), ... `steps`, `differs`, `design`, `recipe`,
    `data`, `versions` and `git` are the record's own lists and mappings.
    """
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    """What could not be read, each with a reason of one line."""

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """A row an epoch, read when first asked for; `path` refers to `runs`. What is broken joins `skipped`."""
        return read_epochs(self.runs["path"], self.skipped)


def load(paths: str | Path | Iterable[str | Path]) -> Runs:
    """Read the records at `paths`: run directories, folders that hold some at any depth, or globs.

    Raises:
        RecordsError: if no record can be read.
    """
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    rows, skipped = [], []
    for run in dict.fromkeys(run for path in paths for run in find(path)):
        try:
            rows.append(_read_run(run))
        except BrokenRecordError as error:
            skipped.append((run, str(error)))
    if not rows:
        where = ", ".join(map(str, paths)) or "no path"
        why = f"{len(skipped)} broken, the first: {skipped[0][0]}: {skipped[0][1]}" if skipped else "no run directory"
        raise RecordsError(
            f"no run records in {where} ({why}); train something first, or name the folder that has them"
        )
    frame = _frame(rows)
    return Runs(frame.assign(left_out=_left_out(frame)), skipped)


def _left_out(frame: pd.DataFrame) -> pd.Series:
    """Why a run is in no mean: its status, or "copy"; "" if it is."""
    ranked = frame.assign(done=frame["status"] == "done").sort_values(["done", "started"], na_position="first")
    first = ranked.drop_duplicates(["series", "seed"], keep="last").index
    status = frame["status"].where(frame["status"] != "done", "")
    return status.where(frame.index.isin(first), "copy")


def find(path: str | Path) -> Iterator[Path]:
    """The run directories at or below a path, sorted; a path that does not exist is read as a glob.

    Raises:
        RecordsError: if nothing is there.
    """
    tops = [str(path)] if os.path.exists(path) else sorted(glob.glob(str(path), recursive=True))
    if not tops:
        raise RecordsError(f"nothing at {path}; name a run, a folder of runs or a glob that matches some")
    for top in tops:
        for folder, below, files in os.walk(top):
            if CONFIG in files or SUMMARY in files:
                below.clear()
                yield Path(folder)
            below.sort()


def read_epochs(runs: Iterable[Path], skipped: list[tuple[Path, str]]) -> pd.DataFrame:
    """The epochs of these runs, a row each; files that are broken are added to `skipped`.

    Columns are gathered as arrays, a file at a time: three million dictionaries would not fit a laptop.
    """
    counts, columns = {}, {name: [] for name in EPOCH_COLUMNS}
    for run in runs:
        file = run / EPOCHS
        try:
            lines = file.read_text(encoding="utf-8").split("\n") if file.exists() else []
            epochs = json.loads(f"[{','.join(filter(None, lines))}]")
            arrays = {name: np.array([epoch.get(name) for epoch in epochs], dtype=float) for name in EPOCH_COLUMNS}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            skipped.append((file, f"not a JSON object a line ({_one_line(error)})"))
            continue
        counts[run] = len(epochs)
        for name, array in arrays.items():
            columns[name].append(array)
    paths = np.repeat(np.array([*counts, None], dtype=object)[:-1], list(counts.values()))
    values = {name: np.concatenate(arrays) if arrays else np.empty(0) for name, arrays in columns.items()}
    return pd.DataFrame({"path": paths} | values).astype({"epoch": int})


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """A row a run; every column is there, numbers are numeric, and what a record leaves open is None."""
    frame = pd.DataFrame([dict.fromkeys(NUMBERS + OTHERS) | row for row in rows], dtype=object)
    return frame.assign(**{name: pd.to_numeric(frame[name], errors="coerce") for name in NUMBERS})


def _read_run(run: Path) -> dict[str, Any]:
    config, summary = _read_json(run / CONFIG), _read_json(run / SUMMARY)
    try:
        row = {
            "path": run,
            "name": run.name,
            **{key: config.get(key) for key in ("regime", "rung", "steps", "precision")},
            "differs": config.get("differs") or {},
            **{key: config[key] for key in ("model", "design", "recipe", "data", "resolution", "seed")},
            "recipe_name": config["recipe"]["name"],
            "data_name": config["data"]["name"],
            **{key: config["recipe"][key] for key in ("epochs", "batch_size", "lr")},
        }
        results = {key: summary[key] for key in ("status", "identity", "series")}
    except KeyError as error:
        raise BrokenRecordError(f"not a run record: {error} is missing") from None
    except TypeError as error:
        raise BrokenRecordError(f"not a run record: {_one_line(error)}") from None
    _check_status(results["status"], summary.get("top1"))
    return summary | row | results


def _check_status(status: Any, top1: Any) -> None:
    if status not in STATUSES:
        raise BrokenRecordError(f"{SUMMARY}: status is {status!r}, not one of {', '.join(STATUSES)}")
    if status == "done" and not (isinstance(top1, (int, float)) and 0 <= top1 <= 100):
        raise BrokenRecordError(f"{SUMMARY}: the run is done, but its top1 is {top1!r}")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise BrokenRecordError(f"no {file.name}") from None
    except (OSError, ValueError) as error:
        raise BrokenRecordError(f"{file.name} cannot be read ({_one_line(error)})") from None
    if not isinstance(value, dict):
        raise BrokenRecordError(f"{file.name} holds no JSON object")
    return value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
