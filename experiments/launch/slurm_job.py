"""What a SLURM job does: it trains a run, or several, as they were launched, and puts itself back into the queue."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.config.code_digest import changed_sources
from experiments.config.run import Run
from experiments.errors import DONE, FAILED, IMPOSSIBLE, INTERRUPTED, LOCKED, is_first
from experiments.launch.limits import Limits
from experiments.records.record import read_summary, set_status
from experiments.runtime.environment import SECOND_PHASE
from roadmap.common.statuses import ENDED_BADLY, Status
from roadmap.common.words import counted, shortened

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission


@dataclass(frozen=True)
class QueuedRuns:
    """What submitit pickles when it submits a job, and calls in the job."""

    runs: tuple[Run, ...]
    sources: dict[str, str]
    """{file: digest} of the code that trains, at the time of the launch."""
    changed_sources: bool
    """Whether to train even if that code has changed."""
    limits: Limits = field(default=Limits(), kw_only=True)

    def __call__(self) -> None:
        if not self.changed_sources and (changed := changed_sources(self.sources)):
            reason = (
                f"the sources have changed since this run was launched ({shortened(changed, 3)}); launch it again to "
                "train it with them, or launch with hydra.launcher.changed_sources=true"
            )
            if is_first():
                for run in self.left():
                    set_status(run, Status.FAILED, reason)
                print(f"error: {reason}", file=sys.stderr)
            sys.exit(IMPOSSIBLE)
        self.train()

    def train(self) -> None:
        raise NotImplementedError

    def limit_reached(self) -> str | None:
        """Why no more runs start, in one line, if the study has reached one of its limits."""
        run = self.runs[0]
        return self.limits.reached_in_job(run.runs, run.study_name, os.environ.get("SLURM_JOB_NAME"))

    def left(self) -> list[Run]:
        """The runs that have not ended in any way, and that no other job has taken over."""
        left = []
        for run in self.runs:
            summary = read_summary(run.directory) or {}
            job = (summary.get("job") or {}).get("name")
            is_ended = summary.get("status") in (Status.DONE, Status.STOPPED, *ENDED_BADLY)
            if not is_ended and job in (None, os.environ.get("SLURM_JOB_NAME")):
                left.append(run)
        return left

    def checkpoint(self) -> DelayedSubmission:
        """What submitit puts back into the queue, after the runs have stopped and saved their state."""
        from submitit.helpers import DelayedSubmission

        _record_requeued(self.left())
        return DelayedSubmission(self)


class Job(QueuedRuns):
    """One run, in all processes of the job."""

    def train(self) -> None:
        from experiments.launch.worker import train_in_child

        [run] = self.runs
        try:
            train_in_child(run, self.limit_reached() if is_first() else None)
        except SystemExit as end:
            if end.code not in (DONE, LOCKED, INTERRUPTED):
                Path(os.environ["SUBMITIT_FOLDER"], f"{os.environ['SLURM_JOB_ID']}.failed").touch()
            if end.code == INTERRUPTED and not is_first():
                sys.exit(DONE)  # after a failure of another process, srun would end the first, which has more to do
            if end.code == INTERRUPTED and _is_preempted():
                _requeue(self.runs)
            raise
        except Exception as error:  # submitit's, if it has put this run back into the queue too often
            set_status(run, Status.UNFINISHED, str(error))
            raise


@dataclass(frozen=True)
class SharedJob(QueuedRuns):
    """Several runs side by side, one process each."""

    cores: int
    """Of the job, for all runs together."""
    runs_per_gpu: int
    patience: float
    """Seconds in which runs that are stopped can save their state."""

    def train(self) -> None:
        from experiments.launch.pool import LOST, Pool, failure
        from experiments.runtime.machine import share

        runs, received = self.left(), []
        numbers = signal.SIGINT, signal.SIGTERM, signal.SIGUSR2
        before = {number: signal.signal(number, lambda number, _: received.append(number)) for number in numbers}

        def report(run: Run, retried: str | None) -> None:
            end = f"{retried}; it is tried again alone" if retried else failure(run, pool.ended[run.identity]) or "done"
            print(f"{run.name}: {end}", flush=True)

        machine = share(len(runs), None, 1, self.runs[0].device, self.runs_per_gpu, self.cores)
        print(f"{counted(len(runs), 'run')}; {machine.describe()}", flush=True)
        pool = Pool(runs, machine, exclusive=True)
        pool.train(report, is_stopped=lambda: bool(received), is_spent=self.limit_reached)
        pool.stop(self.patience)
        if pool.waiting and not received and (reason := self.limit_reached()):
            waiting = [run for run in self.left() if run in pool.waiting]
            for run in waiting:
                set_status(run, Status.UNFINISHED, reason)
            print(f"{counted(len(waiting), 'run')} did not start: {reason}", flush=True)
        try:
            if signal.SIGUSR2 in received and callable(requeue := before[signal.SIGUSR2]):  # submitit's
                requeue(signal.SIGUSR2, None)
        except Exception as error:  # it has done so too often
            for run in self.left():
                set_status(run, Status.UNFINISHED, str(error))
            raise
        codes = {*pool.ended.values()} | ({INTERRUPTED} if received else set())
        if INTERRUPTED in codes:
            if _is_preempted():
                _requeue(self.left())
            sys.exit(INTERRUPTED)
        if any(code < 0 or code == LOST for code in codes):
            sys.exit(128 + signal.SIGKILL)  # for the job's last lines (slurm.REQUEUE_KILLED)
        if codes - {DONE}:
            sys.exit(FAILED)


@dataclass(frozen=True)
class NextPhase:
    """A job that launches the next phase of a study by the command that launched the first."""

    arguments: tuple[str, ...]
    folder: str
    """The working directory of the command."""

    def __call__(self) -> None:
        command = [sys.executable, "-m", "experiments.train", *self.arguments]
        end = subprocess.run(command, cwd=self.folder, env=os.environ | {SECOND_PHASE: "1"})
        if end.returncode:
            sys.exit(end.returncode)


def _record_requeued(runs: Sequence[Run]) -> None:
    for run in runs:
        set_status(run, Status.QUEUED, "resumes when SLURM starts the job again")


def _requeue(runs: Sequence[Run]) -> None:
    """Put this job back into the queue, for these runs of it."""
    _record_requeued(runs)
    subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], timeout=60)


def _is_preempted() -> bool:
    """Whether SLURM has asked this job to stop for another one: in partitions with a grace time, it requeues only what
    has not ended within that time. A cancelled job is no longer in the state RUNNING."""
    if shutil.which("squeue") is None:  # on this node
        return False
    command = ["squeue", "--noheader", f"--jobs={os.environ['SLURM_JOB_ID']}", "--format=%T"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.strip() == "RUNNING"
