"""When a study starts no more runs, according to the records of its runs alone: so a launcher, the next one, and the
jobs of a cluster agree."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from experiments.config.run import Run
from experiments.records.record import read_summary
from experiments.records.schema import Row
from experiments.records.study_file import may_diverge, run_names, study_file
from roadmap.common.statuses import ENDED_BADLY, Status
from roadmap.common.words import counted, shortened

NAMED = 3
"""How many failed runs are named."""


@dataclass(frozen=True)
class Limits:
    """What a study may cost. None for no limit."""

    fail_fast: int | None = None
    """Runs that may fail in one launch."""
    max_hours: float | None = None
    """GPU-hours, or core-hours on a CPU, of all its runs in all launches."""

    def failed(self, names: Iterable[str]) -> str | None:
        """Why the study stops, in one line, given the names of the runs that failed in this launch; None if it may
        continue."""
        names = [*names]
        if self.fail_fast is None or len(names) < self.fail_fast:
            return None
        return f"fail_fast={self.fail_fast}: {counted(len(names), 'run')} failed ({shortened(names, NAMED)})"

    def spent(self, runs: Path, study: str) -> str | None:
        """Why the study starts no more runs, in one line; None if there are hours left."""
        if self.max_hours is None:
            return None
        hours, units = hours_of(launched(runs, study))
        return f"max_hours={self.max_hours:g}: {hours:.3g} {units}-hours are spent" if hours >= self.max_hours else None

    def reached_in_job(self, runs: Path, study: str, job: str | None) -> str | None:
        """Why a run of a SLURM job does not start, in one line; None if it may. The runs that were submitted under the
        name of this job are its launch."""
        if self.fail_fast is None:
            return self.spent(runs, study)
        failed, results = [], may_diverge(study_file(runs, study))
        for directory in launched(runs, study):
            summary = read_summary(directory) or {}
            is_result = summary.get("status") == Status.DIVERGED and directory.name in results
            if summary.get("status") in ENDED_BADLY and _job(summary) == job and not is_result:
                failed.append(directory.name)
        return self.failed(failed) or self.spent(runs, study)


def was_kept(run: Run) -> bool:
    """Whether a run of a SLURM job did not start since its study had reached a limit, according to its record."""
    summary = read_summary(run.directory) or {}
    return summary.get("status") == Status.UNFINISHED and (summary.get("reason") or "").startswith(
        ("fail_fast=", "max_hours=")
    )


def launched(runs: Path, study: str) -> list[Path]:
    """The directories of all runs of a study, in all launches. Empty if its file is missing or broken: then nothing is
    known, and runs start."""
    try:
        return [runs / name for name in run_names(study_file(runs, study), all_launches=True)]
    except ValueError:
        return []


def hours_of(directories: Iterable[Path]) -> tuple[float, str]:
    """The hours that runs have spent on the epochs that they finished, and their unit, GPU or core. Runs that share a
    GPU share its hours."""
    summaries = [summary for directory in directories if (summary := read_summary(directory))]
    on_cpu = all(summary.get("device") in ("cpu", None) for summary in summaries)
    return sum(map(_hours, summaries)), "core" if on_cpu else "GPU"


def _hours(summary: Row) -> float:
    seconds = (summary.get("seconds_per_epoch") or 0) * (summary.get("epochs_done") or 0)
    if summary.get("device") == "cpu":
        devices = (summary.get("processes") or 1) * (summary.get("threads") or 1)
    else:
        devices = (summary.get("processes") or 1) / (summary.get("runs_per_gpu") or 1)
    return seconds * devices / 3600


def _job(summary: Row) -> str | None:
    return (summary.get("job") or {}).get("name")
