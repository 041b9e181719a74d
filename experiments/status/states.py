"""What runs are doing, told from their records alone (docs/records.md): fast, for thousands of them.

Imports neither torch nor Hydra: reading the records takes less time than importing those.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.records.schema import BrokenRecordError, Row, summary_of
from roadmap.common.files import in_words, opened, printable, read_json

KILLED = "killed"
STATES = ("running", KILLED, "failed", "diverged", "unfinished", "queued", "done")
"""Those of a record, and `killed`: recorded as running while no process holds its lock. In the order of a table."""


@dataclass(frozen=True)
class State:
    """A run, as its summary.json tells. What is not known, or not yet, is None."""

    run: str
    directory: str
    state: str
    """One of STATES."""
    reason: str | None
    study: str | None
    seed: int | None
    epochs_done: int
    epochs: int | None
    top1: float | None
    """Percent, of the last epoch."""
    images_per_second: float | None
    seconds_left: int | None
    """Of a running run, from its second epoch on."""
    host: str | None
    gpus: str | None
    device: str | None
    processes: int | None
    job: dict[str, Any] | None
    """{"name", "index", "id"} of its SLURM job."""
    started: str | None
    finished: str | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class States:
    """What was found."""

    runs: tuple[State, ...]
    """Running ones first, and of each state the newest first."""
    skipped: tuple[tuple[str, str], ...]
    """Folders that hold no record, or none that can be read: which, and why in one line."""
    not_begun: int
    """Of a study: its runs that have left no record yet."""

    def counts(self) -> dict[str, int]:
        """{state: how many}, of the states that there are."""
        found = [one.state for one in self.runs]
        return {state: found.count(state) for state in STATES if state in found}


class NothingError(ValueError):
    """There are no runs to tell of. The message is one line."""


def read_states(folders: Sequence[str], study: str | None = None, now: float | None = None) -> States:
    """The runs in these folders, or those of them that a study asked for, as they are `now`, in seconds of the epoch.

    Raises:
        NothingError: if a folder or the study does not exist, or there are no runs.
    """
    now = time.time() if now is None else now
    runs, skipped, not_begun = [], [], 0
    try:
        for folder in folders:
            if not os.path.isdir(folder):
                raise NothingError(f"there is no folder {folder}")
        for directory in list(_members(folders, study) if study else _subfolders(folders)):
            try:
                runs.append(read_state(directory, now))
            except BrokenRecordError as error:
                if study and not os.path.exists(os.path.join(directory, "summary.json")):
                    not_begun += 1
                else:
                    skipped.append((directory, str(error)))
    except OSError as error:
        raise NothingError(in_words(error)) from error
    if not runs and not not_begun:
        raise NothingError(f"there are no runs in {', '.join(folders)}{_first(sorted(skipped))}")
    runs.sort(key=lambda one: one.run)
    runs.sort(key=lambda one: one.started or "", reverse=True)
    runs.sort(key=lambda one: STATES.index(one.state))
    return States(tuple(runs), tuple(sorted(skipped)), not_begun)


def read_state(directory: str, now: float) -> State:
    """The state of the run in a directory.

    Raises:
        BrokenRecordError: if there is no record that can be used.
    """
    summary = summary_of(directory)
    state = summary["status"]
    if state == "running" and not _is_held(directory):
        summary = summary_of(directory)  # it may have ended since
        state = KILLED if summary["status"] == "running" else summary["status"]
    done = summary.get("epochs_done") or 0
    known = {name: summary.get(name) for name in State.__dataclass_fields__}
    return State(
        **known
        | {
            "run": printable(os.path.basename(os.path.abspath(directory))),
            "directory": directory,
            "state": state,
            "epochs_done": done,
            "seconds_left": _seconds_left(directory, summary, done, now) if state == "running" else None,
        }
    )


def _seconds_left(directory: str, summary: Row, done: int, now: float) -> int | None:
    epochs, per_epoch = summary.get("epochs"), summary.get("seconds_per_epoch")
    if epochs is None or not done or per_epoch is None:
        return None
    try:
        written = os.stat(os.path.join(directory, "summary.json")).st_mtime
    except OSError:
        return None
    return round(max(0, (epochs - done) * per_epoch - max(0, now - written)))


def _is_held(directory: str) -> bool:
    """Whether a process holds the run's lock; taken to be so where that cannot be found out."""
    try:
        with opened(os.path.join(directory, "lock")) as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # closing the file releases it
    except OSError:  # held; or there is no lock, or no locks on this file system
        return True
    return False


def _subfolders(folders: Iterable[str]) -> Iterator[str]:
    """Those that may hold a run; a folder that holds a record itself is one."""
    for folder in folders:
        if os.path.exists(os.path.join(folder, "summary.json")):
            yield folder
            continue
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir() and entry.name != "studies" and not entry.name.startswith("."):
                    yield entry.path


def _members(folders: Sequence[str], study: str) -> Iterator[str]:
    """The directories of a study's runs, made or not."""
    lists = [Path(folder, "studies", f"{study}.json") for folder in folders]
    there = [path for path in lists if path.is_file()]
    if not there:
        known = sorted(path.stem for folder in folders for path in Path(folder, "studies").glob("*.json"))
        hint = f" (known: {', '.join(known)})" if known else ""
        raise NothingError(f"there is no study {study!r} in {', '.join(folders)}{hint}")
    for path in there:
        for name in _names(path):
            yield os.path.join(path.parent.parent, name)


def _names(path: Path) -> list[str]:
    """The runs that a study's file lists."""
    try:
        names = read_json(path)["runs"]
        if all(os.path.basename(name) == name and "\0" not in name for name in names):
            return names
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NothingError(f"{path} can't be read; launch the study again, which writes it anew") from error
    raise NothingError(f"{path} lists what are no runs; launch the study again, which writes it anew")


def _first(skipped: Sequence[tuple[str, str]]) -> str:
    return f" ({len(skipped)} skipped, the first: {skipped[0][0]}: {skipped[0][1]})" if skipped else ""
