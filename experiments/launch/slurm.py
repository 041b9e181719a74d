"""The launcher `slurm`: a study's runs as an array of jobs, each of which trains a run, or several, as submitted.

Nothing is kept but the run records, into which a job's name is written before it is submitted: whether a run is taken
care of is told by its record and by squeue, whatever became of whoever submitted it.
"""

from __future__ import annotations

import io
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.config.code_digest import changed_sources, training_sources
from experiments.config.run import Run
from experiments.errors import (
    DEVICE_FAILED,
    DONE,
    FAILED,
    HOST_FAILED,
    IMPOSSIBLE,
    INTERRUPTED,
    SettingsError,
    is_first,
)
from experiments.launch.study import Study, failure
from experiments.records.record import Row, is_done, is_training, read_summary, remove_record, set_status
from experiments.runtime.locks import locked
from roadmap.common.statuses import ENDED_BADLY, Status

if TYPE_CHECKING:
    from submitit import AutoExecutor
    from submitit.helpers import DelayedSubmission

SHARED = ("nodes", "tasks_per_node", "gpus_per_node", "cpus_per_task", "mem_gb", "timeout_min")
"""Options that submitit knows for any cluster; it calls the others slurm_..."""
LARGEST_ARRAY = 1000
"""Jobs submitted together: SLURM takes 1,000 unless its MaxArraySize says otherwise."""
POLL = 5.0
"""Seconds between two looks at the queue, with wait=true."""
SILENCE = 600.0
"""Seconds that squeue may fail meanwhile."""
MARGIN = 10.0
"""Seconds before the end of a job by which the runs that share it have saved, or are killed, so that it is requeued."""
PATIENCE = 60.0
"""Seconds to wait for another launcher that is submitting runs of the same folder."""

REQUEUE_THE_DEAD = r"""
code=$?
# A process that was killed by what nobody can catch (128 + 9: out of memory, say) goes on from its checkpoint; three
# times, since it may die again of the same. A run that failed, or was stopped (130), has said so and ends; of one that
# failed srun has killed the other processes, so its code says nothing.
if [ ! -e {folder}/$SLURM_JOB_ID.failed ] && [ $code -gt 128 ] && [ $code -lt 160 ] && [ $code -ne 130 ]; then
    echo $code >> {folder}/$SLURM_JOB_ID.deaths
    if [ $(wc -l < {folder}/$SLURM_JOB_ID.deaths) -le 3 ]; then scontrol requeue $SLURM_JOB_ID; fi
fi
exit $code
"""


@dataclass(frozen=True)
class Job:
    """What SLURM runs: a run as it was launched, by the sources that it was launched with."""

    run: Run
    sources: dict[str, str]
    changed_sources: bool
    """Whether others will do."""

    @property
    def runs(self) -> tuple[Run, ...]:
        return (self.run,)

    def __call__(self) -> None:
        if not self.changed_sources:
            _refuse_changed_sources(self.sources, [self.run])
        from experiments.launch.worker import train_in_child

        try:
            train_in_child(self.run)
        except SystemExit as end:
            if end.code in (FAILED, IMPOSSIBLE, HOST_FAILED, DEVICE_FAILED):
                Path(os.environ["SUBMITIT_FOLDER"], f"{os.environ['SLURM_JOB_ID']}.failed").touch()
            if end.code == INTERRUPTED and not is_first():
                sys.exit(DONE)  # the first has more to do, and with a failure of another srun would end it
            if end.code == INTERRUPTED and _is_preempted():
                _requeue([self.run])
            raise
        except Exception as error:  # submitit's, that it has put this run back into the queue too often
            set_status(self.run, Status.UNFINISHED, str(error))
            raise

    def checkpoint(self) -> DelayedSubmission:
        """submitit asks what to put back into the queue, after the run has stopped and saved where it is."""
        from submitit.helpers import DelayedSubmission

        _mark_requeued([self.run])
        return DelayedSubmission(self)


@dataclass(frozen=True)
class SharedJob:
    """What SLURM runs where runs share a job: those of them that are left, side by side, a process each."""

    runs: tuple[Run, ...]
    sources: dict[str, str]
    changed_sources: bool
    cores: int
    """Of the job, for all runs together."""
    runs_per_gpu: int
    patience: float
    """Seconds in which runs that were told to stop can save."""

    def __call__(self) -> None:
        runs = self.left()
        if not self.changed_sources:
            _refuse_changed_sources(self.sources, runs)
        from experiments.launch.pool import LOST, Pool, failure
        from experiments.runtime.machine import share

        received: list[int] = []
        numbers = signal.SIGINT, signal.SIGTERM, signal.SIGUSR2
        before = {number: signal.signal(number, lambda number, _: received.append(number)) for number in numbers}

        def say(run: Run, retried: str | None) -> None:
            end = f"{retried}; it is tried again alone" if retried else failure(run, pool.ended[run.identity]) or "done"
            print(f"{run.name}: {end}", flush=True)

        machine = share(len(runs), None, 1, self.runs[0].device, self.runs_per_gpu, self.cores)
        print(f"{len(runs)} runs; {machine.describe()}", flush=True)
        pool = Pool(runs, machine, exclusive=True)
        pool.train(say, is_stopped=lambda: bool(received))
        pool.stop(self.patience)
        try:
            if signal.SIGUSR2 in received:
                before[signal.SIGUSR2](signal.SIGUSR2, None)  # submitit's, which puts the job back into the queue
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
            sys.exit(128 + signal.SIGKILL)  # the job's last line puts it back, for what was killed alone
        if codes - {DONE}:
            sys.exit(FAILED)

    def left(self) -> list[Run]:
        """The runs that are neither done nor have failed, nor are another job's by now."""

        def is_left(run: Run) -> bool:
            summary = read_summary(run.directory) or {}
            name = (summary.get("job") or {}).get("name")
            is_ours = name in (None, os.environ.get("SLURM_JOB_NAME"))
            return is_ours and summary.get("status") not in (Status.DONE, *ENDED_BADLY)

        return [run for run in self.runs if is_left(run)]

    def checkpoint(self) -> DelayedSubmission:
        """As `Job.checkpoint`."""
        from submitit.helpers import DelayedSubmission

        _mark_requeued(self.left())
        return DelayedSubmission(self)


def _refuse_changed_sources(sources: dict[str, str], runs: Sequence[Run]) -> None:
    """End the job if the code that trains is not what it was when these runs were launched."""
    if not (others := changed_sources(sources)):
        return
    names = f"{', '.join(others[:3])}{' and others' if len(others) > 3 else ''}"
    reason = (
        f"the sources have changed since this run was launched ({names}); launch it again to train it with "
        "them, or launch with hydra.launcher.changed_sources=true"
    )
    if is_first():
        for run in runs:
            set_status(run, Status.FAILED, reason)
        print(f"error: {reason}", file=sys.stderr)
    sys.exit(IMPOSSIBLE)


def _mark_requeued(runs: Iterable[Run]) -> None:
    for run in runs:
        set_status(run, Status.QUEUED, "goes on when SLURM has room again")


def _requeue(runs: Iterable[Run]) -> None:
    """Put this job back into the queue, for these runs of it."""
    _mark_requeued(runs)
    subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], timeout=60)


def _is_preempted() -> bool:
    """Whether SLURM has asked this job to stop and will have it back: where partitions grant a time of grace, it puts
    back itself only what has not ended by then. A job that was cancelled is no longer running."""
    if shutil.which("squeue") is None:  # on this node
        return False
    asked = ["squeue", "--noheader", f"--jobs={os.environ['SLURM_JOB_ID']}", "--format=%T"]
    return subprocess.run(asked, capture_output=True, text=True, timeout=60).stdout.strip() == "RUNNING"


def submit_study(
    study: Study,
    options: dict[str, Any],
    *,
    runs_per_job: int,
    runs_per_gpu: int,
    wait: bool,
    changed_sources: bool,
) -> int:
    """Submit what is neither done nor in the queue. Returns the exit code.

    `options` are submitit's names of sbatch's.

    Raises:
        SettingsError: if there is no SLURM here, or it refuses the jobs; then nothing of them is left.
    """
    if shutil.which("sbatch") is None:
        raise SettingsError(
            "there is no sbatch here: launch on a login node of a SLURM cluster, or without hydra/launcher=slurm"
        )
    if "%" in str(study.runs.absolute()):
        raise SettingsError(f"SLURM would replace the % in {study.runs.absolute()}; choose runs=... without one")
    study.begin()
    with locked(study.runs / "studies" / ".submitting", PATIENCE) as alone:
        if not alone:
            raise SettingsError(f"another launcher is submitting runs of {study.runs}; try again when it is through")
        todo = [run for run in study.todo if not is_done(run)]
        taken = in_queue(todo)
        todo = [run for run in todo if run.identity not in taken and not is_training(run)]
        trained_here = len(study.todo) - len(taken) - len(todo)
        ids = []
        sources, cores = training_sources(), options["cpus_per_task"]
        if runs_per_job == 1:
            jobs = [Job(run.with_cores(cores), sources, changed_sources) for run in todo]
        else:
            shares = [tuple(todo[first : first + runs_per_job]) for first in range(0, len(todo), runs_per_job)]
            patience = max(options["signal_delay_s"] - MARGIN, 1)
            jobs = [SharedJob(runs, sources, changed_sources, cores, runs_per_gpu, patience) for runs in shares]
        for first in range(0, len(jobs), LARGEST_ARRAY):
            ids.append(_submit(study, jobs[first : first + LARGEST_ARRAY], options))
    counts = {
        "submitted": len(todo),
        "in the queue already": len(taken),
        "done already": len(study.members) - len(study.todo),
        "being trained outside SLURM": trained_here,
    }
    said = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    job = f" (job {', '.join(ids)})" if ids else ""
    study.console.print(f"{len(study.members)} runs: {said}{job}", soft_wrap=True)
    if not wait:
        if todo or taken:
            study.console.print(f"follow them: python -m experiments.status {study.runs}", soft_wrap=True)
        return DONE
    try:
        _wait(study)
    except KeyboardInterrupt:
        study.console.print("the jobs go on; scancel ends them")
        raise
    return study.conclude(failed=_unfinished)


def _wait(study: Study) -> None:
    """Until no run is in the queue any more. A controller may be away for a while."""
    silent = 0
    while silent * POLL < SILENCE:
        try:
            if not in_queue(study.todo):
                return
            silent = 0
        except SettingsError:
            silent += 1
        time.sleep(POLL)
    in_queue(study.todo)  # which says what is wrong


def _unfinished(member: Run) -> str | None:
    """Why a run that has left the queue is not done; None if it is."""
    if is_done(member):
        return None
    status = (read_summary(member.directory) or {}).get("status")
    return failure(member) or f"left the queue before it was done; its record says {status}"


def _submit(study: Study, jobs: Sequence[Job | SharedJob], options: dict[str, Any]) -> str:
    """Submit an array of jobs. Returns its number."""
    from submitit.core.utils import FailedJobError
    from submitit.helpers import clean_env

    name = f"{study.name}-{secrets.token_hex(3)}"
    executor = _executor(study, name, options)
    several = len(jobs) > 1
    of_runs = [(run, index) for index, job in enumerate(jobs) for run in job.runs]
    before = [read_summary(run.directory) for run, _ in of_runs]
    for run, index in of_runs:
        set_status(run, Status.QUEUED, job={"name": name, "index": index if several else None, "id": None})
    said = io.StringIO()
    try:
        cluster = {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}
        with redirect_stderr(said), clean_env():  # the launcher may be in a job itself
            os.environ.update(cluster)
            submitted = executor.submit_array(jobs)
    except FailedJobError as error:
        for (run, _), summary in zip(of_runs, before, strict=True):
            if summary:
                set_status(run, **summary)
            else:
                remove_record(run)
        reason = str(error).strip().splitlines()[-1:] or ["no reason given"]
        raise SettingsError(f"SLURM refuses the jobs: {re.sub('^sbatch: [a-z]+: ', '', reason[0])}") from error
    for run, index in of_runs:
        with locked(run.directory / "lock", patience=0) as free:
            summary = read_summary(run.directory)
            if free and summary and summary["status"] == Status.QUEUED:  # else it has begun, and says so itself
                set_status(run, Status.QUEUED, job=summary["job"] | {"id": submitted[index].job_id})
    return submitted[0].job_id.partition("_")[0]


def _executor(study: Study, name: str, options: dict[str, Any]) -> AutoExecutor:
    from submitit import AutoExecutor

    folder = study.runs.absolute() / "studies" / "slurm" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(0o700)  # jobs are pickles, which run as whoever submitted them: nobody else may write one
    executor = AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=options["max_num_timeout"])
    given = {
        key if key in SHARED else f"slurm_{key}": value
        for key, value in options.items()
        if value not in (None, [], 0) and key not in ("max_num_timeout", "additional_parameters")
    }
    executor.update_parameters(
        name=name,
        **given,
        slurm_teardown=REQUEUE_THE_DEAD.strip().replace("{folder}", shlex.quote(str(folder))).splitlines(),
        slurm_srun_args=[
            f"--cpus-per-task={options['cpus_per_task']}",  # since 22.05 not taken over from sbatch
            "--kill-on-bad-exit=1",  # where one process fails, the others would wait for it for ever
        ],
        slurm_additional_parameters={"requeue": True} | options["additional_parameters"],
    )
    return executor


def in_queue(runs: Iterable[Run]) -> set[str]:
    """The identities of those runs that SLURM has, waiting or running.

    Raises:
        SettingsError: if a record names a job, and squeue does not say what became of it.
    """
    jobs = {}
    for run in runs:
        summary = read_summary(run.directory) or {}
        job: Row = summary.get("job") or {}
        if job.get("name") and summary["status"] in (Status.QUEUED, Status.RUNNING, Status.UNFINISHED):
            jobs[run.identity] = (job["name"], job["index"])
    if not jobs or shutil.which("squeue") is None:  # the records were brought here from elsewhere
        return set()
    names = ",".join(sorted({name for name, _ in jobs.values()}))
    asked = ["squeue", "--noheader", "--array", f"--name={names}", "--format=%K|%j"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired as error:
        raise SettingsError("squeue does not answer, so what SLURM is training already is not known") from error
    if answer.returncode:
        reason = answer.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise SettingsError(f"squeue does not answer, so what SLURM is training already is not known: {reason[0]}")
    there = set()
    for line in answer.stdout.splitlines():
        index, _, name = line.partition("|")
        there.add((name, int(index) if index.isdecimal() else None))
    return {identity for identity, job in jobs.items() if job in there}
