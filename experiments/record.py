"""The run record (docs/records.md): what a run leaves behind. Plain files, each written aside and renamed.

Imports no torch, so that what is done and what is left can be told at once.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

from experiments.run import Run

Row = dict[str, Any]

RESULTS = ("top1", "top5", "val_loss", "ema_top1", "ema_top5", "ema_val_loss")
"""Of the weights, and of their moving average if the recipe keeps one."""


class LockedError(RuntimeError):
    """Another process is training this run."""


def write(path: Path, text: str) -> None:
    """Replace a file in one step: a reader sees the old text or the new, whatever happens to the writer."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def read_summary(directory: Path) -> Row | None:
    """summary.json, or None if there is none that can be read."""
    try:
        return json.loads((directory / "summary.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None


def is_done(run: Run) -> bool:
    summary = read_summary(run.directory)
    return summary is not None and summary["status"] == "done" and summary["identity"] == run.identity


KEPT = ("job", "wandb")
"""Facts of the summary that outlive a run's interruption: the SLURM job that it is, and its id at W&B."""


def kept(run: Run) -> Row:
    """What a run that goes on keeps of the summary that it left."""
    summary = read_summary(run.directory) or {}
    return {name: summary.get(name) for name in KEPT}


class DoneError(RuntimeError):
    """Another process has trained this run since it was looked at."""


class Record:
    """A run's record while it is trained. Holding it holds the run's lock, which dies with the process.

    Of a run's several processes the first alone `writes`; the others keep the same in memory.

    Raises:
        LockedError: if another process trains the run.
        DoneError: if the run is done.
    """

    def __init__(self, run: Run, *, writes: bool = True) -> None:
        self.directory, self.writes = run.directory, writes
        self._lock = self._locked(run) if writes else None
        self.epochs: list[Row] = []
        self.summary: Row = kept(run) | {
            "status": "running",
            "reason": None,
            "identity": run.identity,
            "series": run.series,
            "seed": run.seed,
            "epochs_done": 0,
            "epochs": run.recipe.epochs,
            "study": run.study,
            "started": _now(),
            "finished": None,
            "host": platform.node(),
            "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "versions": versions(),
            "git": git_state(),
        }
        self._write("config.json", _pretty(run.to_json()))
        self.update()

    def _locked(self, run: Run) -> TextIO:
        self.directory.mkdir(parents=True, exist_ok=True)
        lock = (self.directory / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise LockedError(f"{self.directory} is being trained by another process") from error
        if is_done(run):
            lock.close()
            raise DoneError(f"{self.directory} is done already")
        return lock

    def _write(self, name: str, text: str) -> None:
        if self.writes:
            write(self.directory / name, text)

    def begin(self, epochs: Sequence[Row]) -> None:
        """Go on after these finished epochs, which the run was resumed with; none if it starts anew."""
        self.epochs = [*epochs]
        self._write_epochs()

    def update(self, **facts: Any) -> None:
        """Add facts to the summary."""
        self.summary |= facts
        self._write("summary.json", _pretty(self.summary))

    def epoch(self, row: Row, **facts: Any) -> None:
        """A finished epoch, and the summary as it stands after it, with these facts."""
        self.summary |= facts
        self.epochs.append({"epoch": len(self.epochs) + 1, **row})
        self._write_epochs()

    def _write_epochs(self) -> None:
        self._write("epochs.jsonl", "".join(json.dumps(row) + "\n" for row in self.epochs))
        if not self.epochs:
            return
        row = self.epochs[-1]
        best = max(self.epochs, key=lambda row: row["top1"])
        self.update(
            epochs_done=len(self.epochs),
            **{name: row[name] for name in RESULTS if name in row},
            top1_best=best["top1"],
            epoch_best=best["epoch"],
            images_per_second=statistics.median(row["images_per_second"] for row in self.epochs),
            seconds_per_epoch=statistics.median(row["seconds"] for row in self.epochs),
        )

    def finish(self, status: str, reason: str | None = None, **facts: Any) -> None:
        self.update(status=status, reason=reason, finished=_now(), **facts)
        if self._lock:
            self._lock.close()


@cache
def versions() -> dict[str, str]:
    packages = {"torch": "torch", "torchvision": "torchvision", "timm": "timm", "roadmap": "convnext-roadmap"}
    return {"python": platform.python_version()} | {name: version(package) for name, package in packages.items()}


@cache
def git_state() -> dict[str, Any] | None:
    """The commit that the sources stand at, and whether they differ from it; None outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _pretty(value: Row) -> str:
    return json.dumps(value, indent=1) + "\n"
