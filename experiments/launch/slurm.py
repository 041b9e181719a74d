"""The launcher `slurm`: submits a study's runs as an array of jobs, each of which trains a run, or several.

It keeps no state but the run records, into which a job's name is written before the job is submitted: a run's record
and squeue tell whether the run is in the queue, whatever has become of the launcher.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.config.code_digest import training_sources
from experiments.config.run import Run
from experiments.errors import DONE, SettingsError
from experiments.launch.limits import Limits, was_kept
from experiments.launch.slurm_job import Job, NextPhase, QueuedRuns, SharedJob
from experiments.launch.study import Study, failure
from experiments.records.record import is_training, read_summary, remove_record, set_status
from experiments.runtime.locks import locked
from roadmap.common.statuses import Status
from roadmap.common.words import counted

if TYPE_CHECKING:
    from submitit import AutoExecutor

SHARED = ("nodes", "tasks_per_node", "gpus_per_node", "cpus_per_task", "mem_gb", "timeout_min")
"""Options that submitit knows for any cluster; it calls the others slurm_..."""
LARGEST_ARRAY = 1000
"""Jobs submitted together: SLURM takes 1,000 unless its MaxArraySize says otherwise."""
POLL = 5.0
"""Seconds between two calls of squeue, with wait=true."""
SILENCE = 600.0
"""Seconds for which squeue may fail meanwhile."""
MARGIN = 10.0
"""Seconds before the end of a job by which runs that share it have saved, or are killed, so that it is requeued."""
PATIENCE = 60.0
"""Seconds to wait for another launcher that is submitting runs of the same folder."""

REQUEUE_KILLED = r"""
code=$?
# A process that was killed by SIGKILL (128 + 9: out of memory, say) resumes from its checkpoint; three times at most,
# since it may be killed again for the same reason. A run that failed, or was stopped (130), has recorded so and ends;
# if it failed, srun has killed the other processes, so that the exit code tells nothing.
if [ ! -e {folder}/$SLURM_JOB_ID.failed ] && [ $code -gt 128 ] && [ $code -lt 160 ] && [ $code -ne 130 ]; then
    echo $code >> {folder}/$SLURM_JOB_ID.deaths
    if [ $(wc -l < {folder}/$SLURM_JOB_ID.deaths) -le 3 ]; then scontrol requeue $SLURM_JOB_ID; fi
fi
exit $code
"""


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

    `options` are those of sbatch by submitit's names.

    Raises:
        SettingsError: if there is no SLURM here, or it refuses the jobs; then no trace of them is left.
    """
    if shutil.which("sbatch") is None:
        raise SettingsError(
            "there is no sbatch here: launch on a login node of a SLURM cluster, or without hydra/launcher=slurm"
        )
    if "%" in str(study.runs.absolute()):
        raise SettingsError(f"SLURM would replace the % in {study.runs.absolute()}; choose runs=... without one")
    study.begin()
    with locked(study.runs / "studies" / ".submitting", PATIENCE) as is_locked:
        if not is_locked:
            raise SettingsError(f"another launcher is submitting runs of {study.runs}; try again when it has finished")
        counts = study.counts()
        left = [run for run in study.todo if not study.has_ended(run)]
        queued = in_queue(left)
        todo = [run for run in left if run.identity not in queued and not is_training(run)]
        outside = len(left) - len(queued) - len(todo)
        spent = study.is_spent() if todo else None
        kept, todo = (len(todo), []) if spent else (0, todo)
        jobs = _jobs(todo, options, runs_per_job, runs_per_gpu, changed_sources, study.limits)
        arrays = [jobs[first : first + LARGEST_ARRAY] for first in range(0, len(jobs), LARGEST_ARRAY)]
        ids = [_submit(study, array, options) for array in arrays]
    numbers = {
        "submitted": len(todo),
        "in the queue already": len(queued),
        "done already": counts["done"],
        "stopped early": counts["stopped"],
        "diverged": counts["diverged"],
        "being trained outside SLURM": outside,
        "not submitted": kept,
    }
    parts = ", ".join(f"{number} {what}" for what, number in numbers.items() if number)
    job = f" (job {', '.join(ids)})" if ids else ""
    study.console.print(f"{counted(len(study.members), 'run')}: {parts}{job}", soft_wrap=True)
    if spent and not wait:
        how = "to train them: the same command with a larger max_hours, or without it"
        study.console.print(f"{spent}, so no more runs are submitted; {how}", soft_wrap=True)
    if not wait:
        if todo or queued:
            study.console.print(f"follow them: python -m experiments.status {study.runs}", soft_wrap=True)
        return DONE
    try:
        _wait(study)
    except KeyboardInterrupt:
        study.console.print("the jobs continue; scancel ends them")
        raise
    return study.conclude(failed=partial(_failure, queued=queued | {run.identity for run in todo}))


def submit_next_phase(study_name: str, runs: Sequence[Run], options: dict[str, Any]) -> int:
    """Submit a job that launches the next phase of a study when the jobs of these runs have ended, unless one waits for
    that already, or none of them is in the queue. Returns the exit code.

    Raises:
        SettingsError: if SLURM refuses it.
    """
    from submitit.core.utils import FailedJobError

    study = Study(study_name, runs[0].runs, ())
    name = f"{study.name}-next-{hashlib.sha256(repr((study.runs.absolute(), sys.argv[1:])).encode()).hexdigest()[:6]}"
    if _squeue("--noheader", "--states=PENDING", f"--name={name}", "--format=%i").strip():
        study.console.print("its second phase waits in the queue already")
        return DONE
    queued = in_queue(runs)
    jobs = {
        ((read_summary(run.directory) or {}).get("job") or {}).get("name") for run in runs if run.identity in queued
    }
    names = f"--name={','.join(sorted(filter(None, jobs)))}"
    if not (jobs and (arrays := sorted({*_squeue("--noheader", names, "--format=%F").split()}))):
        study.console.print(
            "the second phase is not submitted: its search has not ended, and none of its runs is in the queue; give "
            "the same command again when they can train",
            soft_wrap=True,
        )
        return DONE
    small = {"nodes": 1, "gpus_per_node": 0, "tasks_per_node": 1, "cpus_per_task": 1, "timeout_min": 60}
    more = options["additional_parameters"] | {"dependency": f"afterany:{':'.join(arrays)}"}
    executor = _executor(name, study.runs, options | small | {"additional_parameters": more})
    try:
        with _outside_of_jobs():
            job = executor.submit(NextPhase(tuple(sys.argv[1:]), os.getcwd()))
    except FailedJobError as error:
        raise SettingsError(f"SLURM refuses the job of the second phase: {_reason(error)}") from error
    study.console.print(f"the second phase starts when these have ended (job {job.job_id})", soft_wrap=True)
    return DONE


def _jobs(
    runs: Sequence[Run],
    options: dict[str, Any],
    runs_per_job: int,
    runs_per_gpu: int,
    changed_sources: bool,
    limits: Limits,
) -> Sequence[QueuedRuns]:
    sources, cores = training_sources(), options["cpus_per_task"]
    if runs_per_job == 1:
        return [Job((run.with_cores(cores),), sources, changed_sources, limits=limits) for run in runs]
    groups = [tuple(runs[first : first + runs_per_job]) for first in range(0, len(runs), runs_per_job)]
    patience = max(options["signal_delay_s"] - MARGIN, 1)
    return [
        SharedJob(group, sources, changed_sources, cores, runs_per_gpu, patience, limits=limits) for group in groups
    ]


def _wait(study: Study) -> None:
    """Until no run is in the queue any more. A controller may be away for a while."""
    failures = 0
    while failures * POLL < SILENCE:
        try:
            if not in_queue(study.todo):
                return
            failures = 0
        except SettingsError:
            failures += 1
        time.sleep(POLL)
    in_queue(study.todo)  # which raises what is wrong


def _failure(member: Run, queued: Collection[str]) -> str | None:
    """Why a run that has not ended has failed; None if it hasn't, since it was not in the queue, whose runs have these
    identities, or a limit of the study kept it from starting."""
    if member.identity not in queued or was_kept(member):
        return None
    summary = read_summary(member.directory) or {}
    status, reason = summary.get("status"), summary.get("reason")
    why = f"{status} ({reason})" if reason else status
    return failure(member) or f"left the queue before it was done; its record says {why}"


def _submit(study: Study, jobs: Sequence[QueuedRuns], options: dict[str, Any]) -> str:
    """Submit an array of jobs. Returns its number."""
    from submitit.core.utils import FailedJobError

    name = f"{study.name}-{secrets.token_hex(3)}"
    executor = _executor(name, study.runs, options)
    runs = [(run, index) for index, job in enumerate(jobs) for run in job.runs]
    summaries = [read_summary(run.directory) for run, _ in runs]
    for run, index in runs:
        set_status(run, Status.QUEUED, job={"name": name, "index": index if len(jobs) > 1 else None, "id": None})
    try:
        with _outside_of_jobs():
            submitted = executor.submit_array(jobs)
    except FailedJobError as error:
        for (run, _), summary in zip(runs, summaries, strict=True):
            if summary:
                set_status(run, **summary)
            else:
                remove_record(run)
        raise SettingsError(f"SLURM refuses the jobs: {_reason(error)}") from error
    for run, index in runs:
        with locked(run.directory / "lock", patience=0) as is_free:
            summary = read_summary(run.directory)
            if is_free and summary and summary["status"] == Status.QUEUED:  # else it has started, and records its id
                set_status(run, Status.QUEUED, job=summary["job"] | {"id": submitted[index].job_id})
    return submitted[0].job_id.partition("_")[0]


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Without the variables of a job, in which the launcher may be itself; and without submitit's messages."""
    from submitit.helpers import clean_env

    cluster = {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}
    with redirect_stderr(io.StringIO()), clean_env():
        os.environ.update(cluster)
        yield


def _reason(error: Exception) -> str:
    return re.sub("^sbatch: [a-z]+: ", "", _last_line(str(error)))


def _executor(name: str, runs: Path, options: dict[str, Any]) -> AutoExecutor:
    from submitit import AutoExecutor

    folder = runs.absolute() / "studies" / "slurm" / f"{name}-{secrets.token_hex(3)}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(0o700)  # jobs are pickles, which run with the rights of the user: nobody else may write one
    executor = AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=options["max_num_timeout"])
    parameters = {
        key if key in SHARED else f"slurm_{key}": value
        for key, value in options.items()
        if value not in (None, [], 0) and key not in ("max_num_timeout", "additional_parameters")
    }
    executor.update_parameters(
        name=name,
        **parameters,
        slurm_teardown=REQUEUE_KILLED.strip().replace("{folder}", shlex.quote(str(folder))).splitlines(),
        slurm_srun_args=[
            f"--cpus-per-task={options['cpus_per_task']}",  # which srun no longer takes over from sbatch since 22.05
            "--kill-on-bad-exit=1",  # if one process fails, the others would wait for it for ever
        ],
        slurm_additional_parameters={"requeue": True} | options["additional_parameters"],
    )
    return executor


def in_queue(runs: Iterable[Run]) -> set[str]:
    """The identities of those runs that wait in SLURM's queue, or run.

    Raises:
        SettingsError: if a record names a job, and squeue does not answer.
    """
    jobs = {}
    for run in runs:
        summary = read_summary(run.directory) or {}
        job = summary.get("job") or {}
        if job.get("name") and summary["status"] in (Status.QUEUED, Status.RUNNING, Status.UNFINISHED):
            jobs[run.identity] = (job["name"], job["index"])
    if not jobs or shutil.which("squeue") is None:  # the records were copied from a cluster
        return set()
    names = ",".join(sorted({name for name, _ in jobs.values()}))
    answer = _squeue("--noheader", "--array", f"--name={names}", "--format=%K|%j")
    queued = set()
    for line in answer.splitlines():
        index, _, name = line.partition("|")
        queued.add((name, int(index) if index.isdecimal() else None))
    return {identity for identity, job in jobs.items() if job in queued}


def _squeue(*arguments: str) -> str:
    """What squeue prints.

    Raises:
        SettingsError: if it does not answer.
    """
    problem = "squeue does not answer, so what SLURM is training already is not known"
    try:
        answer = subprocess.run(["squeue", *arguments], capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired as error:
        raise SettingsError(problem) from error
    if answer.returncode:
        raise SettingsError(f"{problem}: {_last_line(answer.stderr)}")
    return answer.stdout


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]
