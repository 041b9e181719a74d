"""The run record (docs/records.md): plain files, each replaced atomically.

Imports no torch, so that commands know at once what is done and what is left.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any, Protocol, TextIO

from experiments.config.run import Run
from experiments.records.schema import BrokenRecordError, Row, summary_of
from experiments.runtime.environment import RUNS_PER_GPU
from experiments.runtime.locks import lock_file, locked, unlock
from roadmap.common.files import write
from roadmap.common.statuses import Status


class LockedError(RuntimeError):
    """Another process is training this run."""


def read_summary(directory: Path) -> Row | None:
    """summary.json, checked; None if there is none that can be used."""
    try:
        return summary_of(directory)
    except BrokenRecordError:
        return None


class RunReference(Protocol):
    """What identifies a run's record."""

    @property
    def directory(self) -> Path: ...

    @property
    def identity(self) -> str: ...


def is_done(run: RunReference) -> bool:
    summary = _own_summary(run)
    return summary.get("status") == Status.DONE and summary.get(summary.get("metric") or "") is not None


def is_ended(run: Run) -> bool:
    """Whether a launch has nothing to do for a run: it is done; or it was stopped by `stop_below`, which still asks for
    that."""
    summary = _own_summary(run)
    if run.stop_below is not None and summary.get("status") == Status.STOPPED:
        return (summary.get("below_median") or 0) > run.stop_below
    return is_done(run)


def _own_summary(run: RunReference) -> Row:
    """The summary of this very run; empty if there is none, or it is broken or another run's."""
    summary = read_summary(run.directory) or {}
    return summary if summary.get("identity") == run.identity else {}


def is_training(run: RunReference) -> bool:
    """Whether a process holds the run's lock."""
    if not run.directory.exists():
        return False
    try:
        with locked(run.directory / "lock", patience=0) as free:
            return not free
    except OSError:  # training it will report the error
        return False


def set_status(run: Run, status: str, reason: str | None = None, **facts: Any) -> None:
    """Record the status of a run that is not being trained, and further facts. The rest of its record is kept."""
    run.directory.mkdir(parents=True, exist_ok=True)
    before = {name: value for name, value in _own_summary(run).items() if value is not None}
    summary = _begun(run) | before | {"status": status, "reason": reason, **_divergences(before)} | facts
    write(run.directory / "config.json", pretty(run.to_json()))
    write(run.directory / "summary.json", pretty(summary))


def remove_record(run: Run) -> None:
    """Remove the record of a run that had none before `set_status`. Other files in its directory are kept."""
    for name in ("config.json", "summary.json", "lock"):
        (run.directory / name).unlink(missing_ok=True)
    with suppress(OSError):  # not empty
        run.directory.rmdir()


def _begun(run: Run) -> Row:
    return {
        "status": Status.RUNNING,
        "reason": None,
        "identity": run.identity,
        "series": run.series,
        "seed": run.seed,
        "epochs_done": 0,
        "epochs": run.recipe.epochs,
        "study": run.study_name,
        "task": run.task.name,
        "metric": run.task.metric,
    }


def _divergences(before: Row) -> Row:
    """How often the run has diverged before, which another attempt does not undo."""
    return {"diverged_before": (before.get("diverged_before") or 0) + (before.get("status") == Status.DIVERGED)}


class DoneError(RuntimeError):
    """Another process has trained this run meanwhile."""


class Record:
    """A run's record while it is trained. It holds the run's lock until it is finished, or the process dies.

    Of a run's several processes, only the first `writes`; the others keep the record in memory.

    Raises:
        LockedError: if another process trains the run.
        DoneError: if the run has ended.
    """

    def __init__(self, run: Run, *, writes: bool = True) -> None:
        self.directory, self.task, self.writes = run.directory, run.task, writes
        self._lock = self._lock_run(run) if writes else None
        self.epochs: list[Row] = []
        self._updating = Lock()
        before = _own_summary(run)
        self.summary: Row = _begun(run) | {
            "job": _job(before.get("job")),
            "wandb": before.get("wandb"),
            **_divergences(before),
            "started": now(),
            "finished": None,
            "host": platform.node(),
            "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "runs_per_gpu": int(os.environ[RUNS_PER_GPU]) if RUNS_PER_GPU in os.environ else None,
            "retried_alone": before.get("retried_alone"),
            "below_median": None,
            "versions": versions(),
            "git": git_state(),
        }
        self._write("config.json", pretty(run.to_json()))
        self.update()

    def _lock_run(self, run: Run) -> TextIO:
        lock = lock_file(self.directory / "lock")
        if lock is None:
            raise LockedError(f"{self.directory} is being trained by another process")
        if is_ended(run):
            unlock(lock)
            raise DoneError(f"{self.directory} has ended already")
        return lock

    def _write(self, name: str, text: str) -> None:
        if self.writes:
            write(self.directory / name, text)

    def begin(self, epochs: Sequence[Row]) -> None:
        """Continue after these finished epochs of a resumed run; none if it starts from scratch."""
        self.epochs = [*epochs]
        self._write_epochs()

    def update(self, **facts: Any) -> None:
        """Add facts to the summary. Thread-safe."""
        with self._updating:
            self.summary |= facts
            self._write("summary.json", pretty(self.summary))

    def epoch(self, row: Row, **facts: Any) -> None:
        """Add a finished epoch, and update the summary, with these facts."""
        self.epochs.append({"epoch": len(self.epochs) + 1, **row})
        self._write_epochs(**facts)

    def _write_epochs(self, **facts: Any) -> None:
        self._write("epochs.jsonl", "".join(json.dumps(row) + "\n" for row in self.epochs))
        if not self.epochs:
            return
        row, metric = self.epochs[-1], self.task.metric
        results = [prefix + name for prefix in ("", "ema_") for name in self.task.results]
        best = max(self.epochs, key=lambda row: row[metric])
        self.update(
            epochs_done=len(self.epochs),
            **{name: row[name] for name in results if name in row},
            **{f"{metric}_best": best[metric], "epoch_best": best["epoch"]},
            images_per_second=statistics.median(row["images_per_second"] for row in self.epochs),
            seconds_per_epoch=statistics.median(row["seconds"] for row in self.epochs),
            **facts,
        )

    def class_names(self, names: Sequence[str] | None) -> None:
        """Write what the classes are called, if that is known."""
        if names is not None:
            self._write("classes.json", json.dumps([*names]) + "\n")

    def images(self, correct: Row | None) -> None:
        """Write which images of the last evaluation the network gets right, if that is known."""
        if correct is not None:
            self._write("correct.json", json.dumps(correct) + "\n")

    def finish(self, status: str, reason: str | None = None, **facts: Any) -> None:
        self.update(status=status, reason=reason, finished=now(), **facts)
        if self._lock:
            unlock(self._lock)
            self._lock = None


def _job(submitted: Row | None) -> Row | None:
    """The SLURM job of this process, if any: the one that the run's launcher submitted, or another."""
    if "SLURM_JOB_ID" not in os.environ:
        return None
    array, task = (os.environ.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK"))
    job_id = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
    if submitted and submitted["name"] == os.environ.get("SLURM_JOB_NAME"):
        return submitted | {"id": job_id}
    return {"name": None, "index": None, "id": job_id}


@cache
def versions() -> dict[str, str]:
    packages = {"torch": "torch", "torchvision": "torchvision", "timm": "timm", "roadmap": "convnext-roadmap"}
    return {"python": platform.python_version()} | {name: version(package) for name, package in packages.items()}


@cache
def git_state() -> dict[str, Any] | None:
    """The commit of the sources, and whether they differ from it; None outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def now() -> str:
    """ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def pretty(value: Row) -> str:
    """The content of a JSON file of a record."""
    return json.dumps(value, indent=1) + "\n"
