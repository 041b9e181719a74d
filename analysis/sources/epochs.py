"""The epochs of a run: what they hold, and how those of thousands of epochs.jsonl (docs/records.md) are read.

Imports no pandas: processes that help to read start at once.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson

from roadmap.common.files import read_bytes

EPOCHS = "epochs.jsonl"
EPOCH_COLUMNS = (
    *("epoch", "lr", "train_loss", "val_loss", "top1", "top5", "ema_val_loss", "ema_top1", "ema_top5"),
    *("images_per_second", "seconds"),
)
"""The columns of `Runs.epochs` besides `path`."""
READERS = 4
"""Threads: while one waits for the disk, another parses."""
SHARE = 1000
"""Files that are worth another process."""
_PROCESS = """
import pickle, sys
sys.path.insert(0, sys.argv[1])  # the package need not be installed
from analysis.sources.epochs import read_files
pickle.dump(read_files(pickle.load(sys.stdin.buffer)), sys.stdout.buffer)
"""

Skip = Callable[[str, str], None]
"""Called with what cannot be read: where, and why in one line."""


class Epochs(NamedTuple):
    """A run's epochs, in order, each once."""

    values: np.ndarray
    """float64, [EPOCH_COLUMNS, epochs]; NaN where a record has nothing."""
    complaint: str
    """One line on the rows that are not epochs or are repeated; empty if there are none."""


def read_epochs(paths: Iterable[str], skip: Skip) -> Iterator[tuple[str, np.ndarray]]:
    """The epochs of the runs in these directories. What is broken is skipped, and `skip` called with where and why.

    Parsing holds Python's lock, so thousands of files are divided among processes, as many as there are cores.
    """
    paths = list(paths)
    count = max(1, min(_cores(), len(paths) // SHARE))
    shares = [paths[len(paths) * index // count : len(paths) * (index + 1) // count] for index in range(count)]
    with ThreadPoolExecutor(count) as pool:
        elsewhere = [pool.submit(_read_in_process, share) for share in shares[1:]]
        runs = chain(read_files(shares[0]), *(share.result() for share in elsewhere))
    for path, (values, complaint) in zip(paths, runs, strict=True):
        if complaint:
            skip(f"{path}/{EPOCHS}", complaint)
        if values.size:
            yield path, values


def read_files(paths: list[str]) -> list[Epochs]:
    """The epochs of the run in each of these directories."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(_read_file, paths))


def _read_in_process(paths: list[str]) -> list[Epochs]:
    """`read_files` in another process, or in this one if there can be no other.

    No pool of `multiprocessing`: what it spawns runs the caller's script again, and what it forks took a fifth longer.
    """
    try:
        command = [sys.executable, "-c", _PROCESS, str(Path(__file__).parents[2])]
        done = subprocess.run(command, input=pickle.dumps(paths), capture_output=True, check=True)
        return pickle.loads(done.stdout)
    except (OSError, subprocess.CalledProcessError):
        return read_files(paths)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read_file(path: str) -> Epochs:
    try:
        return epochs_of(*parse_lines(read_bytes(f"{path}/{EPOCHS}")))
    except FileNotFoundError:
        return epochs_of([])  # a run that has not finished its first epoch
    except OSError as error:
        return Epochs(epochs_of([]).values, f"cannot be read ({error.strerror})")


def epochs_of(rows: list[Any], broken: Collection[int] = ()) -> Epochs:
    """The epochs in a run's rows, as a JSON parser returns them. `broken`: the numbers, from 1, of unparsable lines.

    Rows that are not epochs are left out. Of an epoch that is repeated, as after resuming a run, the last row counts.
    """
    where = f" (line {min(broken)} is not JSON)" if broken else ""
    try:
        return ordered(_table(rows), len(broken), where)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        objects = [row for row in rows if isinstance(row, dict)]
        values = [[number(row.get(name)) for row in objects] for name in EPOCH_COLUMNS]
        return ordered(np.array(values, float), len(broken) + len(rows) - len(objects), where)


def ordered(values: np.ndarray, lost: int = 0, where: str = "") -> Epochs:
    """Values sorted by epoch, each epoch once. `lost`: the number of lines without values; `where` describes them."""
    lines, epoch = values.shape[1] + lost, values[0]
    valid = (epoch >= 1) & (epoch < 2**53) & (epoch == np.floor(epoch))
    complaints = []
    if lost or not valid.all():
        kept = "the others are kept" if valid.any() else "none is left"
        complaints.append(f"{lines - int(valid.sum())} of {lines} lines are no epoch{where}; {kept}")
        values = values[:, valid]
    if (np.diff(values[0]) <= 0).any():
        reverse = values[:, ::-1]
        _, last = np.unique(reverse[0], return_index=True)
        if repeated := values.shape[1] - len(last):
            complaints.append(f"{repeated} lines repeat an epoch; the last line of each is kept")
        values = reverse[:, last]
    return Epochs(values, "; ".join(complaints))


def _table(rows: list[dict[str, Any]]) -> np.ndarray:
    """The values of rows that have the same columns, with numbers in all of them; raises for any others.

    Fast, and at once for each run: the dictionaries of three million rows would fill a laptop's memory.
    """
    if len({*map(len, rows)}) > 1:
        raise ValueError("rows differ in their columns")
    values = np.full((len(EPOCH_COLUMNS), len(rows)), np.nan)
    for column, name in zip(values, EPOCH_COLUMNS, strict=True):
        if rows and name in rows[0]:
            column[:] = np.fromiter([row[name] for row in rows], float, len(rows))
    return values


def parse_lines(text: bytes) -> tuple[list[Any], list[int]]:
    """The value of each line, and the numbers, from 1, of the lines that are no JSON."""
    with suppress(orjson.JSONDecodeError):  # all lines at once
        return orjson.loads(b"[%b]" % text.rstrip().replace(b"\n", b",")), []
    values, broken = [], []
    for line_number, line in enumerate(text.split(b"\n"), 1):
        try:
            if line.strip():
                values.append(parse(line))
        except ValueError:
            broken.append(line_number)
    return values, broken


def parse(text: bytes) -> Any:
    """A JSON value, read by orjson, or else by Python: a loss may be NaN, which is not quite JSON.

    Raises:
        ValueError: if it is not JSON.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        try:
            return json.loads(text)
        except RecursionError:
            raise ValueError("nested too deeply") from None


def number(value: Any) -> float:
    """NaN for what is no number. W&B writes "NaN" and "Infinity" as text."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")
