"""A pool of processes that train runs side by side on one machine: a study's (local.py), or those of a SLURM job
(slurm_job.py).

A process that dies takes no other run with it. Torch is imported once, by the server that all are forked from.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from tempfile import TemporaryDirectory
from typing import Literal

from experiments.config.run import Run
from experiments.errors import DEVICE_FAILED, DONE, FAILED, HOST_FAILED, LOCKED, is_first
from experiments.records.record import RunReference, is_done, is_ended, is_training, read_summary, set_status
from experiments.runtime.environment import RENDEZVOUS, RUNS_PER_GPU
from experiments.runtime.locks import unlock
from experiments.runtime.machine import Machine, lock_gpu
from roadmap.common.statuses import ENDED_BADLY, Status

POLL = 0.5
"""Seconds between two checks of the running runs."""
PATIENCE = 60.0
"""Seconds in which runs that are stopped can save their state."""
LOST = 255
"""The exit code that multiprocessing reports of a process whose fork server is gone: the process may still run."""
STOPPING = (signal.SIGTERM, signal.SIGUSR2)
"""What a cluster sends to all processes of a job."""

Alone = Literal["GPU", "machine"]
"""What a run that is tried again has to itself."""


class Attempt:
    """The processes that train a run: one, or one per GPU."""

    def __init__(self, run: Run, gpus: tuple[str, ...], alone: Alone | None, runs_per_gpu: int, start) -> None:
        self.run, self.gpus, self.alone = run, gpus, alone
        environment = {"CUDA_VISIBLE_DEVICES": ",".join(gpus), RUNS_PER_GPU: str(runs_per_gpu)} if gpus else {}
        world = max(1, len(gpus))
        if world > 1:
            self.rendezvous = TemporaryDirectory(prefix="roadmap-")  # not a port, which may be taken by then
            environment |= {RENDEZVOUS: f"file://{self.rendezvous.name}/store"}
            environment |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
        ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} if world > 1 else {} for rank in range(world)]
        self.processes: list[BaseProcess] = [start(run, environment | rank) for rank in ranks]
        self.failed: int | None = None
        """The exit code of the process that ended the others."""

    def is_over(self) -> bool:
        """If one process has died, the others, which may wait for it, are killed."""
        alive = [process for process in self.processes if process.is_alive()]
        if alive and any(process.exitcode for process in self.processes):
            self.failed = self.code
            for process in alive:
                process.join(timeout=10)
                process.kill()
        if any(process.is_alive() for process in self.processes):
            return False
        return self.code != LOST or not is_training(self.run)

    @property
    def code(self) -> int:
        """The exit code of the process that failed first, or of the first one that failed."""
        if self.failed is not None:
            return self.failed
        return next((process.exitcode for process in self.processes if process.exitcode), DONE)


class Pool:
    """Trains runs, as many at a time as the machine has slots.

    If a run runs out of memory, its GPU fails, or its process is killed, other runs may be the cause: it is tried again
    alone, after them, once. `ended` has the exit code of each run that needs no further attempt.
    """

    def __init__(self, runs: Iterable[Run], machine: Machine, *, exclusive: bool = False) -> None:
        """`exclusive`: no other launcher uses the machine's GPUs, as in a SLURM job."""
        self.machine, self.exclusive = machine, exclusive
        self.waiting = deque(runs)
        self.running: dict[str, Attempt] = {}
        self.ended: dict[str, int] = {}
        self.alone: dict[str, Alone] = {}
        self.free = [*(machine.gpus or [()] * machine.runs_at_once)]
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["experiments.launch.preload"])

    def train(
        self,
        report: Callable[[Run, str | None], None],
        is_stopped: Callable[[], object] = lambda: False,
        is_spent: Callable[[], object] = lambda: False,
    ) -> None:
        """Train until every run has ended, or `is_stopped`; then the caller has to call `stop`. Once it `is_spent`, no
        more runs start, and those that run end: `waiting` then has the others.

        `report` is called with each run that ends, and None; and with each that is tried again, and why.
        """
        if self.waiting and self.exclusive:
            _start_server()
        spent = False
        while (self.running or (self.waiting and not spent)) and not is_stopped():
            spent = spent or self._start_some(is_spent)
            for attempt in [attempt for attempt in self.running.values() if attempt.is_over()]:
                self._end(attempt, report)
            processes = [process for attempt in self.running.values() for process in attempt.processes]
            wait([process.sentinel for process in processes if process.is_alive()], POLL)

    def stop(self, patience: float = PATIENCE) -> None:
        """Stop the running runs, and wait until they have saved and recorded their state."""
        processes = [process for attempt in self.running.values() for process in attempt.processes]
        for process in processes:
            process.terminate()  # not SIGINT, which a shell's background jobs ignore
        deadline = time.monotonic() + patience
        for process in processes:
            process.join(timeout=max(0.0, deadline - time.monotonic()))
            process.kill()  # the run will resume from its last checkpoint

    def _start_some(self, is_spent: Callable[[], object]) -> bool:
        """Start as many runs as there are free slots, second attempts last; not those that another process trains.
        Returns whether it `is_spent`, so that no more start."""
        for run in sorted(self.waiting, key=lambda run: run.identity in self.alone):
            if (slot := self._free_slot(self.alone.get(run.identity))) is None:
                return False
            if self.exclusive or not is_training(run):
                if is_spent():
                    return True
                self.waiting.remove(run)
                self._start(run, slot)
        return False

    def _free_slot(self, alone: Alone | None) -> tuple[str, ...] | None:
        """The GPUs of the free slot with the fewest runs on them; () on a CPU. None if no slot is free."""
        running = self.running.values()
        if any(attempt.alone == "machine" for attempt in running) or (alone == "machine" and running):
            return None
        used = Counter(gpu for attempt in running for gpu in attempt.gpus)
        reserved = {gpu for attempt in running if attempt.alone for gpu in attempt.gpus}
        for slot in sorted(self.free, key=lambda slot: sum(used[gpu] for gpu in slot)):
            is_alone = not any(used[gpu] for gpu in slot)
            if reserved.isdisjoint(slot) and (is_alone or not alone) and self._has_room(slot, alone):
                return slot
        return None

    def _has_room(self, slot: tuple[str, ...], alone: Alone | None) -> bool:
        """Whether runs of other launchers, or runs that have outlived theirs, leave room on these GPUs."""
        if self.exclusive:
            return True
        locks = [lock_gpu(gpu, self._runs_per_gpu(alone), patience=0) for gpu in slot]
        for lock in locks:
            for file in lock or ():
                unlock(file)
        return None not in locks

    def _runs_per_gpu(self, alone: Alone | None) -> int:
        return 1 if alone else self.machine.runs_per_gpu

    def _start(self, run: Run, slot: tuple[str, ...]) -> None:
        if is_ended(run):  # by another launcher, while it waited here
            self.ended[run.identity] = DONE
            return
        self.free.remove(slot)
        alone = self.alone.get(run.identity)
        run = run.with_cores(self.machine.threads)
        self.running[run.identity] = Attempt(run, slot, alone, self._runs_per_gpu(alone), self._fork)

    def _fork(self, run: Run, environment: dict[str, str]) -> BaseProcess:
        process = self.context.Process(target=_train, args=(run, environment, self.exclusive), name=run.name)
        process.start()
        return process

    def _end(self, attempt: Attempt, report: Callable[[Run, str | None], None]) -> None:
        run, code = attempt.run, attempt.code
        del self.running[run.identity]
        self.free.append(attempt.gpus)
        if code == LOCKED and not self.exclusive:  # another launcher was faster
            self.waiting.append(run)
            return
        if code != DONE and is_done(run):
            code = DONE
        if code == LOST and (read_summary(run.directory) or {}).get("status") in ENDED_BADLY:
            code = FAILED
        if alone := self._alone_next(attempt, code):
            self.alone[run.identity] = alone
            self.waiting.append(run)
            why = failure(run, code)
            with suppress(OSError):  # a full disk, say, which the next attempt will report
                set_status(run, Status.UNFINISHED, f"{why}; it is tried again alone", retried_alone=why)
            report(run, why)
        else:
            self.ended[run.identity] = code
            report(run, None)

    def _alone_next(self, attempt: Attempt, code: int) -> Alone | None:
        """What the run has to itself when it is tried again; None if it is not: because it was already, or because it
        shared nothing that failed."""
        if attempt.run.identity in self.alone:
            return None
        if code == DEVICE_FAILED and self.machine.runs_per_gpu > 1:
            return "GPU"
        killed = code < 0 or code in (LOST, HOST_FAILED)
        return "machine" if killed and self.machine.runs_at_once > 1 else None


def failure(run: RunReference, code: int) -> str | None:
    """Why a run that ended with this code failed, in one line; None if it didn't."""
    if code == DONE:
        return None
    summary = read_summary(run.directory) or {}
    if summary.get("status") in (None, Status.QUEUED, Status.RUNNING, Status.DONE):  # killed before it could record
        return f"its process died ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"
    return f"{summary['status']}: {summary['reason']}"


def _start_server() -> None:
    """Start the fork server and Python's resource tracker such that they ignore the signals that a cluster sends to all
    processes of a job: the runs handle them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # again: starting the tracker unblocks SIGTERM
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(FAILED)


def _train(run: Run, environment: dict[str, str], exclusive: bool) -> None:
    """In the child: the launcher itself imports no torch."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    os.environ.update(environment)
    if exclusive:  # end with the job, which may be requeued at once; elsewhere a run may outlive its launcher
        threading.Thread(target=_end_with_parent, daemon=True).start()
    gpus = environment["CUDA_VISIBLE_DEVICES"].split(",") if is_first() and environment and not exclusive else []
    locks = [lock_gpu(gpu, int(environment[RUNS_PER_GPU])) for gpu in gpus]  # as long as this process lives
    if None in locks:
        sys.exit(LOCKED)
    from experiments.launch.worker import train_in_child

    train_in_child(run)
