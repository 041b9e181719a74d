"""What runs are doing, according to their records alone (docs/records.md): fast, for thousands of them.

Imports neither torch nor Hydra: reading the records takes less time than importing those.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.records.schema import BrokenRecordError, Row, summary_of
from experiments.records.study_file import is_search, run_names
from roadmap.common.files import in_words, opened, printable
from roadmap.common.records import LATENCY
from roadmap.common.statuses import Status

KILLED = "killed"
"""Recorded as running while no process holds the run's lock."""
STATES = (
    *(Status.RUNNING, KILLED, Status.FAILED, Status.DIVERGED, Status.UNFINISHED, Status.QUEUED),
    *(Status.STOPPED, Status.DONE),
)
"""In the order of the table."""


@dataclass(frozen=True)
class RunState:
    """A run according to its summary.json. What is not known, or not yet, is None."""

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
    runs: tuple[RunState, ...]
    """In the order of STATES, and the newest first in each."""
    skipped: tuple[tuple[str, str], ...]
    """(folder, why in one line) of those without a record that can be read."""
    not_begun: int
    """Runs of a study without a record yet."""
    searches: tuple[str, ...] = ()
    """Tuned studies whose search has ended, and whose second phase has not begun: it may have failed to."""

    def counts(self) -> dict[str, int]:
        """{state: number of runs}, without zeros."""
        states = [run.state for run in self.runs]
        return {state: states.count(state) for state in STATES if state in states}


class NoRunsError(ValueError):
    """There are no runs to report on. The message is one line."""


def read_states(folders: Sequence[str], study: str | None = None, now: float | None = None) -> States:
    """The runs in these folders, or those of them that belong to a study, as they are `now`, in seconds of the epoch.

    Raises:
        NoRunsError: if a folder or the study does not exist, or there are no runs.
    """
    now = time.time() if now is None else now
    runs, skipped, not_begun = [], [], 0
    try:
        for folder in folders:
            if not os.path.isdir(folder):
                raise NoRunsError(f"there is no folder {folder}")
        for directory in list(_members(folders, study) if study else _subfolders(folders)):
            try:
                if state := read_state(directory, now):
                    runs.append(state)
            except BrokenRecordError as error:
                if study and not os.path.exists(os.path.join(directory, "summary.json")):
                    not_begun += 1
                else:
                    skipped.append((directory, str(error)))
    except OSError as error:
        raise NoRunsError(in_words(error)) from error
    skipped.sort()
    if not runs and not not_begun:
        first = f" ({len(skipped)} skipped, the first: {': '.join(skipped[0])})" if skipped else ""
        raise NoRunsError(f"there are no runs in {', '.join(folders)}{first}")
    runs.sort(key=lambda run: run.run)
    runs.sort(key=lambda run: run.started or "", reverse=True)
    runs.sort(key=lambda run: STATES.index(run.state))
    return States(tuple(runs), tuple(skipped), not_begun, tuple(_searches(folders, study, runs)))


def _searches(folders: Sequence[str], study: str | None, runs: Sequence[RunState]) -> Iterator[str]:
    """The names in `States.searches`."""
    ends = (Status.DONE, Status.STOPPED, Status.DIVERGED)
    ended = {os.path.abspath(run.directory) for run in runs if run.state in ends}
    for path in sorted(path for folder in folders for path in Path(folder, "studies").glob("*.json")):
        if (study is None or path.stem == study) and is_search(path):
            with suppress(ValueError):  # of a file that cannot be read
                names = run_names(path)
                if ended.issuperset(os.path.abspath(path.parent.parent / name) for name in names):
                    yield path.stem


def read_state(directory: str, now: float) -> RunState | None:
    """The state of the run in a directory; None if its record is no run's, but of a measured speed.

    Raises:
        BrokenRecordError: if there is no record that can be used.
    """
    summary = summary_of(directory)
    if summary.get("task") == LATENCY:
        return None
    state = summary["status"]
    if state == Status.RUNNING and not _is_locked(directory):
        summary = summary_of(directory)  # it may have ended since
        state = KILLED if summary["status"] == Status.RUNNING else summary["status"]
    values: dict[str, Any] = {name: summary.get(name) for name in RunState.__dataclass_fields__} | {
        "run": printable(os.path.basename(os.path.abspath(directory))),
        "directory": directory,
        "state": state,
        "epochs_done": summary.get("epochs_done") or 0,
        "seconds_left": _seconds_left(directory, summary, now) if state == Status.RUNNING else None,
    }
    return RunState(**values)


def _seconds_left(directory: str, summary: Row, now: float) -> int | None:
    done, epochs, per_epoch = (summary.get(name) for name in ("epochs_done", "epochs", "seconds_per_epoch"))
    if epochs is None or not done or per_epoch is None:
        return None
    try:
        written = os.stat(os.path.join(directory, "summary.json")).st_mtime
    except OSError:
        return None
    return round(max(0, (epochs - done) * per_epoch - max(0, now - written)))


def _is_locked(directory: str) -> bool:
    """Whether a process holds the run's lock; also true where that cannot be known."""
    try:
        with opened(os.path.join(directory, "lock")) as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # closing the file releases it
    except OSError:  # it is held; or there is no lock, or no locks on this file system
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
    """The directories of a study's runs, whether they exist or not."""
    manifests = [path for folder in folders if (path := Path(folder, "studies", f"{study}.json")).is_file()]
    if not manifests:
        known = sorted(path.stem for folder in folders for path in Path(folder, "studies").glob("*.json"))
        hint = f" (known: {', '.join(known)})" if known else ""
        raise NoRunsError(f"there is no study {study!r} in {', '.join(folders)}{hint}")
    for path in manifests:
        try:
            names = run_names(path)
        except ValueError as error:
            raise NoRunsError(str(error)) from error
        for name in names:
            yield os.path.join(path.parent.parent, name)
