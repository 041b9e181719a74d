"""Finds runs and reads them: every form of them becomes one `Runs` (docs/analysis.md, Loading).

    one directory per run    analysis/sources/directories.py
    a folder of CSV files    analysis/sources/saved.py          written by Runs.save
    Weights & Biases         analysis/sources/wandb.py          online, and what its client keeps offline

All have the same columns and types (analysis/sources/rows.py).
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from analysis.sources import directories, saved, wandb
from analysis.sources.correct_images import CorrectReader
from analysis.sources.epochs import Skip, read_epochs
from analysis.sources.latency import latency_frame
from analysis.sources.rows import run_frame
from analysis.sources.runs import EpochReader, RecordsError, Runs, noting
from analysis.sources.saved import LATENCY_CSV, RUNS_CSV
from roadmap.common.records import CONFIG, SUMMARY


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
    correct_readers: dict[str, CorrectReader] = {}
    latency: list[dict[str, Any]] = []
    for new_rows, read_epochs_of, read_correct in _read(find(paths, skip), skip, latency):
        for row in new_rows:  # the first row of a path counts
            rows.setdefault(row["path"], row)
            readers.setdefault(row["path"], read_epochs_of)
            correct_readers.setdefault(row["path"], read_correct)
    if not rows and not latency:
        why = f"{len(skipped)} broken, the first: {': '.join(skipped[0])}" if skipped else "no run directory"
        searched = ", ".join(map(str, paths)) or "no path"
        raise RecordsError(f"no run records in {searched} ({why}); train something first, or name the folder with runs")
    return Runs(run_frame(rows.values()), latency_frame(latency), skipped, readers, correct_readers)


class Locations(NamedTuple):
    """Where runs are, each location once, sorted within each path that was searched."""

    directories: list[str]
    """Run directories."""
    saved: list[str]
    """Folders with a runs.csv, or a latency.csv."""
    offline: list[str]
    """Files of W&B's client."""


def find(paths: Iterable[str | Path], skip: Skip) -> Locations:
    """The runs at or below these paths; a path that does not exist is read as a glob. Run directories are not searched:
    what W&B's client keeps there is a copy.

    Raises:
        RecordsError: if there is nothing at a path.
    """
    locations = Locations([], [], [])
    for path in paths:
        tops = [os.fspath(path)] if os.path.exists(path) else sorted(glob.glob(os.fspath(path), recursive=True))
        if not tops:
            raise RecordsError(f"nothing at {path}; name a run, a folder of runs or a glob that matches some")
        for top in tops:
            for folder, below, files in os.walk(top, onerror=lambda error: skip(error.filename, _unreadable(error))):
                if CONFIG in files or SUMMARY in files:
                    below.clear()
                    locations.directories.append(folder)
                    continue
                below.sort()
                if RUNS_CSV in files or LATENCY_CSV in files:
                    locations.saved.append(folder)
                locations.offline.extend(f"{folder}/{name}" for name in sorted(files) if name.endswith(".wandb"))
    return Locations(*map(list, map(dict.fromkeys, locations)))


def _read(
    locations: Locations, skip: Skip, latency: list[dict[str, Any]]
) -> Iterator[tuple[list[dict[str, Any]], EpochReader, CorrectReader]]:
    """The rows of each source, and what reads the epochs and the correct images of its runs. Rows of measured speeds
    are added to `latency`."""
    runs, of_speed = directories.read_records(locations.directories, skip)
    latency += of_speed
    yield runs, read_epochs, directories.read_correct
    for folder in locations.saved:
        latency += saved.read_latency(folder, skip)
        yield saved.read(folder, skip), partial(saved.read_epochs, folder), partial(saved.read_correct, folder)
    if locations.offline:
        yield *wandb.read_offline(locations.offline, skip), lambda *_: ()  # W&B has no correct.json


def _unreadable(error: OSError) -> str:
    return f"cannot be read ({error.strerror})"
