"""From run records (docs/records.md), wherever they are kept, to tidy frames: a row a run, a row an epoch."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.epochs import Histories, epoch_frame, read_histories
from analysis.jsons import BrokenRecordError, plain, read_object

CONFIG, SUMMARY = "config.json", "summary.json"
TABLE = "runs.csv"
"""That `Runs.save` writes, with `epochs.csv` beside it."""
ASKED = (
    *("regime", "rung", "steps", "differs", "model", "design", "recipe", "recipe_name", "data", "data_name"),
    *("resolution", "precision", "seed", "epochs", "batch_size", "lr", "init", "device_batch", "sync_batch_norm"),
)
"""Columns from a record's config.json."""
FOUND = (
    *("status", "reason", "identity", "series", "study", "top1", "top5", "val_loss", "ema_top1", "ema_top5"),
    *("ema_val_loss", "top1_best", "epoch_best", "evaluated_on", "train_images", "evaluation_images", "broken_images"),
    *("macs", "params", "activations", "images_per_second", "seconds_per_epoch", "train_seconds", "wall_seconds"),
    *("peak_memory_mb", "epochs_done", "started", "finished", "host", "gpus", "device", "threads", "processes"),
    *("accumulation", "versions", "git"),
)
"""Columns from its summary.json."""
COLUMNS = ("path", "name", *ASKED, *FOUND, "left_out")
NESTED = ("steps", "differs", "design", "recipe", "data", "init", "versions", "git")
"""Columns whose values are lists and mappings."""
NUMBERS = (
    *("resolution", "seed", "epochs", "batch_size", "lr", "device_batch", "top1", "top5", "val_loss"),
    *("ema_top1", "ema_top5", "ema_val_loss", "top1_best", "epoch_best", "train_images", "evaluation_images"),
    *("broken_images", "macs", "params", "activations", "images_per_second", "seconds_per_epoch", "train_seconds"),
    *("wall_seconds", "peak_memory_mb", "epochs_done", "threads", "processes", "accumulation"),
)
INTEGERS = ("resolution", "seed", "epochs", "batch_size")
STATUSES = ("done", "queued", "running", "unfinished", "diverged", "failed")
COPY = "copy"

Skipped = list[tuple[str, str]]


class RecordsError(ValueError):
    """There is nothing to analyse. The message is one line: what, where, and what to do."""


@dataclass
class Runs:
    """Run records as frames."""

    runs: pd.DataFrame
    """A row a run, whatever became of it; the columns are COLUMNS, the same from every source.

    `path`: the record's directory, or its place at W&B; `name`; what was asked for (`regime`, `rung`, `steps`, ...);
    what was found (`status`, `top1` in percent, `macs`, `images_per_second`, `wall_seconds`, ...): docs/records.md.
    `recipe_name`, `epochs`, `batch_size`, `lr` are the recipe's, `data_name` the data's. `left_out` is "" for a run
    that counts in means; else why it does not: its status, or "copy" of another run of the same series and seed.
    """
    histories: Histories
    """Where the epochs are read from, when they are first asked for."""
    skipped: Skipped = field(default_factory=list)
    """What could not be read: where, and a reason of one line."""

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """A row an epoch, read when first asked for; `path` refers to `runs`. What is broken joins `skipped`."""
        return self.histories(self.runs["path"].tolist(), self.skipped)

    @property
    def counted(self) -> pd.DataFrame:
        """The runs that means are made of."""
        return self.runs[self.runs["left_out"] == ""]

    @property
    def left_out_note(self) -> str:
        """How many runs are in no mean, and why; "" if all are."""
        reasons = self.runs["left_out"][self.runs["left_out"] != ""].value_counts()
        if reasons.empty:
            return ""
        words = [f"{count} {'copies of others' if why == COPY else why}" for why, count in reasons.items()]
        return f"{reasons.sum()} of {len(self.runs)} runs are left out: {', '.join(words)}."

    def save(self, folder: str | Path) -> None:
        """Write `runs.csv` and `epochs.csv`, which `load(folder)` reads back. Hosts and directories stay behind."""
        from analysis.archive import write

        write(self, Path(folder))


def load(paths: str | Path | Iterable[str | Path]) -> Runs:
    """Read the runs at `paths`: run directories, folders that hold some at any depth, or globs.

    A folder in which `Runs.save` left its tables is read as well, and what W&B kept offline (`run-ID.wandb`), unless
    it lies in a record, of which it is a copy.

    Raises:
        RecordsError: if no run can be read.
    """
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    found = list(dict.fromkeys(one for path in paths for one in find(path)))
    rows: list[dict[str, Any]] = []
    skipped: Skipped = []
    sources: list[tuple[int, Histories]] = []
    for kind, read in SOURCES.items():
        places = [place for place, its_kind in found if its_kind == kind]
        if places:
            more, histories = read(places, skipped)
            rows += more
            sources.append((len(more), histories))
    if not rows:
        where = ", ".join(map(str, paths)) or "no path"
        why = f"{len(skipped)} broken, the first: {skipped[0][0]}: {skipped[0][1]}" if skipped else "no run directory"
        raise RecordsError(
            f"no run records in {where} ({why}); train something first, or name the folder that has them"
        )
    return Runs(run_frame(rows), _together(sources), skipped)


def find(path: str | Path) -> Iterator[tuple[str, str]]:
    """What is at or below a path, sorted, with its kind; a path that does not exist is read as a glob.

    Raises:
        RecordsError: if nothing is there.
    """
    path = os.fspath(path)
    tops = [path] if os.path.exists(path) else sorted(glob.glob(path, recursive=True))
    if not tops:
        raise RecordsError(f"nothing at {path}; name a run, a folder of runs or a glob that matches some")
    for top in tops:
        if os.path.isfile(top):  # a table or W&B's own file, named itself
            yield from _kept(os.path.dirname(top), [os.path.basename(top)])
        for folder, below, files in os.walk(top):
            if CONFIG in files or SUMMARY in files:
                below.clear()
                yield folder, "record"
            else:
                yield from _kept(folder, sorted(files))
            below.sort()


def run_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """A row a run, every column, numbers numeric; what a record leaves open is None or NaN."""
    columns = {name: [row.get(name) for row in rows] for name in COLUMNS}
    frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})
    for name in NUMBERS:
        frame[name] = pd.to_numeric(frame[name], errors="coerce").astype(float)
    frame = frame.astype(dict.fromkeys(INTEGERS, int))
    frame["left_out"] = _left_out(frame)
    return frame


def run_row(path: str, name: str, config: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    """A run as a row, from the two halves of its record.

    Raises:
        BrokenRecordError: if it is none of ours, or its result cannot be.
    """
    try:
        config = {key: plain(value) for key, value in config.items()}
        recipe, data = config["recipe"], config["data"]
        row = {
            **{key: config.get(key) for key in ASKED},
            **{key: config[key] for key in ("model", "design", "resolution", "seed")},
            "path": path,
            "name": name,
            "differs": config.get("differs") or {},
            "recipe_name": recipe["name"],
            "data_name": data["name"],
            **{key: recipe[key] for key in ("epochs", "batch_size", "lr")},
            **{key: summary.get(key) for key in FOUND},
            **{key: summary[key] for key in ("status", "identity", "series")},
        }
        for key in INTEGERS:
            if not isinstance(row[key], int):
                raise TypeError(f"{key} is {row[key]!r}")
    except KeyError as error:
        raise BrokenRecordError(f"not a run record: {error} is missing") from None
    except (TypeError, AttributeError) as error:
        raise BrokenRecordError(f"not a run record: {error}") from None
    _check(row["status"], row["top1"])
    return row


def _records(places: list[str], skipped: Skipped) -> tuple[list[dict[str, Any]], Histories]:
    rows = []
    for place in places:
        try:
            config, summary = (read_object(os.path.join(place, file)) for file in (CONFIG, SUMMARY))
            rows.append(run_row(place, os.path.basename(place), config, summary))
        except BrokenRecordError as error:
            skipped.append((place, str(error)))
    return rows, read_histories


def _tables(places: list[str], skipped: Skipped) -> tuple[list[dict[str, Any]], Histories]:
    from analysis.archive import read

    return read(places, skipped)


def _offline(places: list[str], skipped: Skipped) -> tuple[list[dict[str, Any]], Histories]:
    from analysis.tracked import read_offline

    return read_offline(places, skipped)


SOURCES: dict[str, Callable[[list[str], Skipped], tuple[list[dict[str, Any]], Histories]]] = {
    "record": _records,
    "table": _tables,
    "offline": _offline,
}


def _kept(folder: str, files: list[str]) -> Iterator[tuple[str, str]]:
    """Runs that are kept in another form than a directory a run."""
    for file in files:
        if file == TABLE:
            yield os.path.join(folder, file), "table"
        elif file.startswith("run-") and file.endswith(".wandb"):
            yield os.path.join(folder, file), "offline"


def _together(sources: list[tuple[int, Histories]]) -> Histories:
    """The epochs of several sources, whose runs follow one another."""
    if len(sources) == 1:
        return sources[0][1]

    def histories(paths: list[str], skipped: Skipped) -> pd.DataFrame:
        frames, start = [], 0
        for count, source in sources:
            frames.append(source(paths[start : start + count], skipped))
            start += count
        return epoch_frame(frames)

    return histories


def _left_out(frame: pd.DataFrame) -> pd.Series:
    """Why a run is in no mean, or "". Of copies a finished one counts if there is one, else the latest."""
    ranked = frame[["series", "seed"]].assign(done=frame["status"] == "done", started=frame["started"].fillna(""))
    first = ranked.sort_values(["done", "started"], kind="stable").drop_duplicates(["series", "seed"], keep="last")
    status = frame["status"].where(frame["status"] != "done", "")
    return status.where(frame.index.isin(first.index), COPY).astype(str)


def _check(status: Any, top1: Any) -> None:
    if status not in STATUSES:
        raise BrokenRecordError(f"{SUMMARY}: status is {status!r}, not one of {', '.join(STATUSES)}")
    if status == "done" and not (isinstance(top1, (int, float)) and 0 <= top1 <= 100):
        raise BrokenRecordError(f"{SUMMARY}: the run is done, but its top1 is {top1!r}")
