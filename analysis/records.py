"""From records of runs to tidy frames: one row per run, one row per epoch (docs/analysis.md, Loading).

    a directory a run        analysis/directories.py
    a folder of two CSVs     analysis/saved.py          Runs.save writes it
    Weights & Biases         analysis/tracked.py        online, and what its client keeps offline

All give the same columns and types (analysis/rows.py).
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis import directories, saved
from analysis.directories import CONFIG, SUMMARY
from analysis.epochs import READERS, Skip, read_epochs
from analysis.rows import STATUSES, BrokenRecordError, epoch_frame, run_frame
from analysis.saved import RUNS_CSV
from roadmap.files import printable

EpochReader = Callable[[list[str], Skip], Iterable[tuple[str, np.ndarray]]]
"""The epochs of the runs at these paths: a path, and its values as `epochs.Epochs` has them."""


class RecordsError(ValueError):
    """There is nothing to analyse. The message is one line: what, where, and what to do."""


@dataclass(eq=False)
class Runs:
    """Runs as frames, the same wherever they were loaded from."""

    runs: pd.DataFrame
    """One row per run, finished or not; docs/analysis.md has the columns.

    `path` is its key: the directory, or "entity/project/id" at W&B. `left_out` is "" for a run that counts in means,
    else why it does not: "queued", "running", "unfinished", "diverged", "failed", or "copy" (its series and seed are
    there already: `rows.left_out`). Numbers are int64 or float64, texts str or None; `steps`, `differs`, `design`,
    `recipe`, `data`, `init`, `versions` and `git` are the record's own lists and mappings, not to be changed.
    """
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """What could not be read: where, and why in one line."""
    readers: dict[str, EpochReader] = field(default_factory=dict, repr=False)
    """By path, what reads a run's epochs."""

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """A row an epoch, read when first asked for, in the order of `runs`. What is broken joins `skipped`.

        `path` (categorical, of the paths in `runs`) and `epoch` (from 1) are its key; `lr`, `train_loss`, `val_loss`,
        `top1`, `top5` (percent), `ema_val_loss`, `ema_top1`, `ema_top5`, `images_per_second`, `seconds`.
        """
        paths = self.runs["path"].tolist()
        found: dict[str, np.ndarray] = {}
        for read in dict.fromkeys(self.readers.values()):
            own = [path for path in paths if self.readers.get(path) == read]
            found |= read(own, noting(self.skipped))
        return epoch_frame({path: found[path] for path in paths if path in found})

    @property
    def counted(self) -> pd.DataFrame:
        """The rows of `runs` that means are made of."""
        return self.runs[self.runs["left_out"] == ""]

    @property
    def left_out_note(self) -> str:
        """Such as "12 of 63 runs are left out: 7 unfinished, 3 diverged, 2 copies of others"; empty if none is."""
        counts = Counter(self.runs["left_out"])
        left = len(self.runs) - counts.pop("", 0)
        if not left:
            return ""
        parts = [f"{counts[status]} {status}" for status in STATUSES if counts[status]]
        if copies := counts["copy"]:
            parts.append("1 copy of another" if copies == 1 else f"{copies} copies of others")
        return f"{left} of {len(self.runs)} runs {'is' if left == 1 else 'are'} left out: {', '.join(parts)}"

    def save(self, folder: str | Path) -> None:
        """Write runs.csv and epochs.csv, which `load` reads to frames equal but for `path` and `host`: neither a
        machine's name nor its paths are in them.

        Raises:
            OSError: if the folder cannot be written.
        """
        saved.write(self.runs, self.epochs, os.fspath(folder))


def load(paths: str | Path | Iterable[str | Path]) -> Runs:
    """Read the runs at `paths`: run directories, folders that hold some at any depth, or globs.

    Folders that `Runs.save` wrote are read as well, and runs that W&B's client keeps (`offline-run-*/run-ID.wandb`)
    where they lie outside of a run directory. What cannot be read is in `Runs.skipped`.

    Raises:
        RecordsError: if no run can be read.
    """
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    skipped: list[tuple[str, str]] = []
    skip = noting(skipped)
    rows: dict[str, dict[str, Any]] = {}
    readers: dict[str, EpochReader] = {}
    for found, read in _sources(find(paths, skip), skip):
        for row in found:
            rows.setdefault(row["path"], row)
            readers.setdefault(row["path"], read)
    if not rows:
        raise RecordsError(_nothing(", ".join(map(str, paths)) or "no path", skipped))
    return Runs(run_frame(rows.values()), skipped, readers)


class Found(NamedTuple):
    """Where there are runs, each place once, sorted within each path that was asked for."""

    directories: list[str]
    saved: list[str]
    """Folders with a runs.csv."""
    offline: list[str]
    """Files of W&B's client."""


def find(paths: Iterable[str | Path], skip: Skip) -> Found:
    """The runs at or below these paths; a path that does not exist is read as a glob. Inside a run nothing is sought:
    what W&B keeps there is a copy.

    Raises:
        RecordsError: if nothing is at a path.
    """
    found: tuple[dict[str, None], ...] = ({}, {}, {})
    directories, saved, offline = found
    for path in paths:
        tops = [os.fspath(path)] if os.path.exists(path) else sorted(glob.glob(os.fspath(path), recursive=True))
        if not tops:
            raise RecordsError(f"nothing at {path}; name a run, a folder of runs or a glob that matches some")
        for top in tops:
            for folder, below, files in os.walk(top, onerror=lambda error: skip(error.filename, _unreadable(error))):
                if CONFIG in files or SUMMARY in files:
                    below.clear()
                    directories[folder] = None
                    continue
                below.sort()
                if RUNS_CSV in files:
                    saved[folder] = None
                offline |= {f"{folder}/{name}": None for name in sorted(files) if name.endswith(".wandb")}
    return Found(*map(list, found))


def _sources(found: Found, skip: Skip) -> Iterator[tuple[list[dict[str, Any]], EpochReader]]:
    """The rows of each place and what reads its epochs; the first of a path's rows is the one that counts."""
    yield _read_directories(found.directories, skip), read_epochs
    for folder in found.saved:
        yield saved.read(folder, skip)
    if found.offline:
        from analysis import tracked

        yield tracked.read_offline(found.offline, skip)


def _read_directories(paths: list[str], skip: Skip) -> list[dict[str, Any]]:
    rows = []
    with ThreadPoolExecutor(READERS) as pool:
        for path, found in zip(paths, pool.map(_read_directory, paths), strict=True):
            skip(path, str(found)) if isinstance(found, BrokenRecordError) else rows.append(found)
    return rows


def _read_directory(path: str) -> dict[str, Any] | BrokenRecordError:
    try:
        return directories.read_run(path)
    except BrokenRecordError as error:
        return error


def noting(skipped: list[tuple[str, str]]) -> Skip:
    """What adds to `Runs.skipped`, in text that any terminal and file can take."""
    return lambda path, why: skipped.append((printable(path), printable(why)))


def _unreadable(error: OSError) -> str:
    return f"cannot be read ({error.strerror})"


def _nothing(where: str, skipped: list[tuple[str, str]]) -> str:
    why = f"{len(skipped)} broken, the first: {skipped[0][0]}: {skipped[0][1]}" if skipped else "no run directory"
    return f"no run records in {where} ({why}); train something first, or name the folder that has them"
