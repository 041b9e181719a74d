"""The epochs of a run: what they hold, and how those of thousands of epochs.jsonl (docs/records.md) are read.

No pandas here: processes that help to read start at once.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
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
"""Of `Runs.epochs`, besides `path`."""
READERS = 4
"""Threads: while one waits for the disk, another parses."""
SHARE = 1000
"""Files that are worth another process."""

Skip = Callable[[str, str], None]
"""Told of what cannot be read: where, and why in one line."""


class Epochs(NamedTuple):
    """A run's epochs, in order, each once."""

    values: np.ndarray
    """float64, [EPOCH_COLUMNS, epochs]; NaN where a record has nothing."""
    complaint: str
    """One line on the rows that are no epochs, or are there twice; empty if there are none."""


def epochs_of(rows: list[Any], broken: Collection[int] = ()) -> Epochs:
    """The epochs of a run's rows, as a JSON parser gives them. `broken` counts, from 1, lines that gave no row.

    What is no epoch is left out. Of an epoch that is there again, as where a run was resumed, the last row is kept.
    """
    try:
        values = _together(rows)
        no_epoch = []
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        values, no_epoch = _one_by_one(rows)
    return tidy(values, len(broken) + len(no_epoch), _first(broken))


def tidy(values: np.ndarray, lost: int = 0, where: str = "") -> Epochs:
    """Values in the order of their epochs, each once. `lost` counts the lines that gave none, `where` says which."""
    lines, number = values.shape[1] + lost, values[0]
    good = (number >= 1) & (number < 2**53) & (number == np.floor(number))
    complaints = []
    if lost or not good.all():
        kept = "the others are kept" if good.any() else "none is left"
        complaints.append(f"{lines - int(good.sum())} of {lines} lines are no epoch{where}; {kept}")
        values = values[:, good]
    if (np.diff(values[0]) <= 0).any():
        order = np.argsort(values[0], kind="stable")
        last = np.append(np.diff(values[0, order]) > 0, True)
        if again := len(order) - int(last.sum()):
            complaints.append(f"{again} lines are of an epoch that is there again; the last of each is kept")
        values = values[:, order[last]]
    return Epochs(values, "; ".join(complaints))


def read_epochs(paths: Iterable[str], skip: Skip) -> Iterator[tuple[str, np.ndarray]]:
    """The epochs of the runs in these directories. What is broken is skipped, and `skip` told where and why.

    Thousands are shared out among processes, as many as there are cores: parsing holds Python's lock.
    """
    paths = list(paths)
    count = max(1, min(_cores(), len(paths) // SHARE))
    ends = [len(paths) * index // count for index in range(count + 1)]
    shares = [paths[begin:end] for begin, end in itertools.pairwise(ends)]
    with ThreadPoolExecutor(count) as pool:
        others = [pool.submit(_read_in_process, share) for share in shares[1:]]
        found = [read_files(shares[0]), *(other.result() for other in others)]
    for path, (values, complaint) in zip(paths, itertools.chain.from_iterable(found), strict=True):
        if complaint:
            skip(f"{path}/{EPOCHS}", complaint)
        if values.size:
            yield path, values


def read_files(paths: list[str]) -> list[Epochs]:
    """The epochs of the run in each of these directories."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(_read_file, paths))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read_file(path: str) -> Epochs:
    try:
        return epochs_of(*parse_lines(read_bytes(f"{path}/{EPOCHS}")))
    except FileNotFoundError:
        return epochs_of([])  # a run of no epoch yet
    except OSError as error:
        return Epochs(epochs_of([]).values, f"cannot be read ({error.strerror})")


def _read_in_process(paths: list[str]) -> list[Epochs]:
    """`read_files` in a process of its own; or here, if there can be none."""
    here = str(Path(__file__).parents[2])  # the package need not be installed
    code = f"import sys; sys.path.insert(0, {here!r}); from analysis.sources.epochs import serve; serve()"
    asked = b"\0".join(map(os.fsencode, paths))
    try:
        answer = subprocess.run([sys.executable, "-c", code], input=asked, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return read_files(paths)
    head, _, _ = answer.partition(b"\n")
    found, place = [], len(head) + 1
    for count, complaint in orjson.loads(head):
        values = np.frombuffer(answer, float, len(EPOCH_COLUMNS) * count, place)
        found.append(Epochs(values.reshape(len(EPOCH_COLUMNS), count), complaint))
        place += values.nbytes
    return found


def serve() -> None:
    """Answer `_read_in_process`: a line of JSON, [epochs, complaint] a run; then the values of each."""
    found = read_files([*map(os.fsdecode, sys.stdin.buffer.read().split(b"\0"))])
    sys.stdout.buffer.write(orjson.dumps([[one.values.shape[1], one.complaint] for one in found]) + b"\n")
    for one in found:
        sys.stdout.buffer.write(one.values.tobytes())


def parse_lines(text: bytes) -> tuple[list[Any], list[int]]:
    """The value of each line, and the numbers, from 1, of the lines that are no JSON."""
    try:
        return orjson.loads(b"[%b]" % text.rstrip().replace(b"\n", b",")), []
    except orjson.JSONDecodeError:
        pass
    values, broken = [], []
    for number, line in enumerate(text.split(b"\n"), 1):
        try:
            if line.strip():
                values.append(parse(line))
        except ValueError:
            broken.append(number)
    return values, broken


def parse(text: bytes) -> Any:
    """What orjson reads, or else Python: a loss may be NaN, which is not quite JSON.

    Raises:
        ValueError: if it is no JSON.
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


def _together(rows: list[dict[str, Any]]) -> np.ndarray:
    """All rows at once, which they allow if they have the same columns, and numbers in them.

    Three million dictionaries would fill a laptop's memory, so a run's become an array before the next are read.
    """
    values = np.full((len(EPOCH_COLUMNS), len(rows)), np.nan)
    if not rows:
        return values
    if {*map(len, rows)} != {len(rows[0])}:
        raise ValueError("rows differ in their columns")
    there = [index for index, name in enumerate(EPOCH_COLUMNS) if name in rows[0]]
    get = itemgetter(*(EPOCH_COLUMNS[index] for index in there), "epoch")  # twice: a tuple also of a single column
    found = np.fromiter(itertools.chain.from_iterable(map(get, rows)), float, len(rows) * (len(there) + 1))
    values[there] = found.reshape(len(rows), -1)[:, :-1].T
    return values


def _one_by_one(rows: list[Any]) -> tuple[np.ndarray, list[Any]]:
    """What numbers there are in rows of any kind; and the rows that are no objects."""
    objects = [row for row in rows if isinstance(row, dict)]
    values = [[number(row.get(name)) for name in EPOCH_COLUMNS] for row in objects]
    others = [row for row in rows if not isinstance(row, dict)]
    return np.array(values, dtype=float).reshape(len(objects), len(EPOCH_COLUMNS)).T, others


def _first(lines: Collection[int]) -> str:
    return f" (line {min(lines)} is no JSON)" if lines else ""
