"""What runs are doing, told from their records alone (docs/records.md): fast, for thousands of them.

Imports neither torch nor Hydra nor anything of ours: reading the records takes less time than importing those.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RECORDED = ("running", "queued", "unfinished", "failed", "diverged", "done")
KILLED = "killed"
STATES = ("running", KILLED, "failed", "diverged", "unfinished", "queued", "done")
"""Those of RECORDED, and `killed`, recorded as running while no process holds its lock; in the order of a table."""


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
    skipped: int
    """Folders that hold no record, or none that can be read."""
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
    for folder in folders:
        if not os.path.isdir(folder):
            raise NothingError(f"there is no folder {folder}")
    candidates = list(_members(folders, study) if study else _subfolders(folders))
    runs, skipped, not_begun = [], 0, 0
    for directory in candidates:
        state = read_state(directory, now)
        if state:
            runs.append(state)
        elif study and not os.path.exists(os.path.join(directory, "summary.json")):
            not_begun += 1
        else:
            skipped += 1
    if not runs and not not_begun:
        raise NothingError(f"there are no runs in {', '.join(folders)}")
    runs.sort(key=lambda one: one.run)
    runs.sort(key=lambda one: one.started or "", reverse=True)
    runs.sort(key=lambda one: STATES.index(one.state))
    return States(tuple(runs), skipped, not_begun)


def read_state(directory: str, now: float) -> State | None:
    """The state of the run in a directory; None if there is no record that can be read."""
    summary, written = _read(directory)
    if summary is None:
        return None
    state = summary["status"]
    if state == "running" and not _is_held(directory):
        summary, written = _read(directory)  # it may have ended since
        if summary is None:
            return None
        state = KILLED if summary["status"] == "running" else summary["status"]
    epochs, done = _number(summary, "epochs"), _number(summary, "epochs_done") or 0
    per_epoch = _number(summary, "seconds_per_epoch")
    left = None
    if state == "running" and epochs is not None and done and per_epoch is not None:
        left = round(max(0, (epochs - done) * per_epoch - max(0, now - written)))
    return State(
        run=os.path.basename(os.path.abspath(directory)),
        directory=directory,
        state=state,
        reason=_text(summary, "reason"),
        study=_text(summary, "study"),
        seed=_number(summary, "seed"),
        epochs_done=done,
        epochs=epochs,
        top1=_number(summary, "top1"),
        images_per_second=_number(summary, "images_per_second"),
        seconds_left=left,
        host=_text(summary, "host"),
        gpus=_text(summary, "gpus"),
        device=_text(summary, "device"),
        processes=_number(summary, "processes"),
        job=summary["job"] if isinstance(summary.get("job"), dict) else None,
        started=_text(summary, "started"),
        finished=_text(summary, "finished"),
    )


def _read(directory: str) -> tuple[dict[str, Any] | None, float]:
    """The summary and when it was written; None if it is not one."""
    try:
        with open(os.path.join(directory, "summary.json"), "rb") as file:
            summary, written = json.loads(file.read()), os.fstat(file.fileno()).st_mtime
    except (OSError, ValueError):
        return None, 0
    is_record = isinstance(summary, dict) and summary.get("status") in RECORDED
    return (summary if is_record else None), written


def _is_held(directory: str) -> bool:
    """Whether a process holds the run's lock; taken to be so where that cannot be found out."""
    try:
        with open(os.path.join(directory, "lock"), "rb") as lock:
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
        try:
            names = json.loads(path.read_text("utf-8"))["runs"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NothingError(f"{path} can't be read") from error
        yield from (os.path.join(path.parent.parent, str(name)) for name in names)


def _number(summary: dict[str, Any], key: str) -> Any:
    value = summary.get(key)
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if is_number else None


def _text(summary: dict[str, Any], key: str) -> str | None:
    """In one line, and without what a terminal would obey."""
    value = summary.get(key)
    return " ".join("".join(c if c.isprintable() else " " for c in value).split()) if isinstance(value, str) else None
