"""Where there are runs, and what reads them: every form of them on top of one `Runs` (docs/analysis.md, Loading).

    a directory a run        analysis/sources/directories.py
    a folder of two CSVs     analysis/sources/saved.py          Runs.save writes it
    Weights & Biases         analysis/sources/wandb.py        online, and what its client keeps offline

All give the same columns and types (analysis/sources/rows.py).
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from analysis.sources import directories, saved, wandb
from analysis.sources.correct_images import CorrectReader
from analysis.sources.directories import CONFIG, SUMMARY
from analysis.sources.epochs import READERS, Skip, read_epochs
from analysis.sources.rows import BrokenRecordError, run_frame
from analysis.sources.runs import EpochReader, RecordsError, Runs, noting
from analysis.sources.saved import RUNS_CSV


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
    for found, read, read_correct in _sources(find(paths, skip), skip):
        for row in found:
            rows.setdefault(row["path"], row)
            readers.setdefault(row["path"], read)
            correct_readers.setdefault(row["path"], read_correct)
    if not rows:
        raise RecordsError(_nothing(", ".join(map(str, paths)) or "no path", skipped))
    return Runs(run_frame(rows.values()), skipped, readers, correct_readers)


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


def _sources(found: Found, skip: Skip) -> Iterator[tuple[list[dict[str, Any]], EpochReader, CorrectReader]]:
    """The rows of each place, what reads its epochs, and which images its runs get right; the first of a path's rows is
    the one that counts."""
    yield _read_directories(found.directories, skip), read_epochs, directories.read_correct
    for folder in found.saved:
        yield *saved.read(folder, skip), partial(saved.read_correct, folder)
    if found.offline:
        yield *wandb.read_offline(found.offline, skip), lambda *_: ()  # W&B has no copy


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


def _unreadable(error: OSError) -> str:
    return f"cannot be read ({error.strerror})"


def _nothing(where: str, skipped: list[tuple[str, str]]) -> str:
    why = f"{len(skipped)} broken, the first: {skipped[0][0]}: {skipped[0][1]}" if skipped else "no run directory"
    return f"no run records in {where} ({why}); train something first, or name the folder that has them"
