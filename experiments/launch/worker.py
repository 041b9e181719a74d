"""Trains a run in a process: in this one with a progress bar, or in a child of a study, quietly. Both write log.txt."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from experiments import errors
from experiments.config.run import Run
from experiments.data.workers import end_workers, waited
from experiments.errors import DataError, HopelessError, SettingsError, is_first
from experiments.records.record import DoneError, LockedError, Record, is_done, is_ended, is_training, set_status
from experiments.runtime.devices import keep_memory, pick_device
from experiments.runtime.environment import world_size
from experiments.runtime.processes import is_lost_connection, joined
from experiments.runtime.terminal import Terminal
from experiments.tracking.logger import LoggerThread
from experiments.training.loop import DivergedError, StoppedError, train
from roadmap.common.files import in_words, printable
from roadmap.common.statuses import Status

STUCK = 20.0
"""Seconds for which a run that is to stop waits for its loader workers."""


class Reporter:
    """Reports a run's progress: lines in log.txt, and on a terminal the same lines and a bar. Of a run's several
    processes, only the first has a log and a terminal."""

    def __init__(self, run: Run, console: Console | None = None) -> None:
        self.run, self.console = run, console if is_first() else None
        self.log = _log_file(run) if is_first() else lambda line: None
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        hidden = self.console is None or not self.console.is_terminal
        self.bar = Bar(*columns, console=self.console, transient=True, disable=hidden)
        self.task = self.bar.add_task("", total=None)
        self.logger: LoggerThread | None = None

    def follow(self, record: Record) -> None:
        """Start the run's logger, if it has one."""
        if self.run.logger and is_first():
            self.logger = LoggerThread(self.run, record, self.say)

    def end(self, status: str) -> None:
        """Tell the logger that the record is finished."""
        if self.logger:
            self.logger.end(status)

    def say(self, line: str) -> None:
        line = printable(line)
        self.log(line)
        if self.console:
            with suppress(OSError):  # a closed terminal, say, or a full disk: no reason to end the run
                self.console.print(line, soft_wrap=True)

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        if self.logger:
            self.logger.step(epoch, step, steps, loss)
        self.bar.update(self.task, description=f"epoch {epoch}  loss {loss:.3f}", completed=step, total=steps)

    def epoch(self, row: dict[str, float]) -> None:
        self.say(self.run.task.describe_epoch(row))
        if self.logger:
            self.logger.epoch(row)


def train_here(run: Run) -> None:
    """Train a run in this process, with a progress bar, and exit with its code."""
    console = Terminal()
    if is_done(run):
        if is_first():
            console.print(f"done already: {run.directory}", soft_wrap=True)
        return
    code = train_recorded(run, console)
    of_host = code in (errors.HOST_FAILED, errors.DEVICE_FAILED)  # which only a launcher distinguishes
    sys.exit(errors.FAILED if of_host else code)


def train_in_child(run: Run, refusal: str | None = None) -> None:
    """Train a run of a study, quietly, and exit with its code. `refusal`: why it is not to be trained now after all,
    of which the first of its processes tells the others."""
    sys.exit(train_recorded(run, refusal=refusal))


def train_recorded(run: Run, console: Console | None = None, refusal: str | None = None) -> int:
    """Train a run and record how it ended, whatever happens to it. Returns the exit code."""
    keep_memory()
    if run.threads:
        torch.set_num_threads(run.threads)
    stop = StopFlag()
    if is_ended(run) or is_training(run):  # by another process, meanwhile: its record must not change
        refusal = None
    opened = _refuse(run, refusal) if refusal else _open(run, console)
    if isinstance(opened, int):  # in the first process alone
        if world_size() > 1:
            with joined(pick_device(run.device, run.precision)) as processes:
                processes.broadcast_from_first(opened)
        return opened
    record, reporter = opened
    have_joined = False
    try:
        with joined(pick_device(run.device, run.precision)) as processes:
            if (refused := processes.broadcast_from_first(None)) is not None:
                return refused
            have_joined = True
            reporter.say(f"training {run.directory}")
            reporter.follow(record)
            with reporter.bar:
                try:
                    train(run, record, reporter, processes, stop.is_set)
                finally:
                    end_workers()
    except BaseException as error:
        status, reason, code = _outcome(error)
        if world_size() > 1 and status == Status.FAILED:
            if is_lost_connection(error, joined=have_joined):
                reason = f"another process of the run ended, as its standard error explains ({reason})"
            elif not is_first():
                reason = f"process {os.environ.get('RANK') or os.environ.get('SLURM_PROCID')}: {reason}"
                print(f"error: {reason}", file=sys.stderr)
                with suppress(OSError):  # the first may wait for this process until srun kills it
                    set_status(run, status, reason)
        try:
            record.finish(status, reason)
            reporter.say(f"{status}: {reason}")
            is_of_loader_worker = hasattr(error, "__notes__")
            if status == Status.FAILED and (code != errors.IMPOSSIBLE or is_of_loader_worker):
                reporter.log(traceback.format_exc())
        except OSError as unrecorded:  # a full disk, say
            print(f"error: {reason}; and it could not be recorded: {in_words(unrecorded)}", file=sys.stderr)
        try:
            stop.hand_over()
        finally:
            reporter.end(status)
        return errors.DONE if status == Status.DIVERGED and not is_first() else code  # all diverge at once
    reporter.say(f"done: {run.task.describe(record.summary)} in {record.summary['wall_seconds']:.0f} s")
    reporter.end(Status.DONE)
    return errors.DONE


def _refuse(run: Run, reason: str) -> int:
    set_status(run, Status.UNFINISHED, reason)
    print(reason, flush=True)
    return errors.DONE


def _open(run: Run, console: Console | None) -> tuple[Record, Reporter] | int:
    """The run's record and reporter; or the exit code, if the run is not to be trained here."""
    record = None
    try:
        record = Record(run, writes=is_first())
        return record, Reporter(run, console)
    except DoneError:
        return errors.DONE
    except LockedError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return errors.LOCKED
    except OSError as error:
        print(f"error: {in_words(error)}", file=sys.stderr)
        if record:
            with suppress(OSError):
                record.finish(Status.FAILED, in_words(error))
        return errors.IMPOSSIBLE


class StopFlag:
    """Set by Ctrl-C, SIGTERM and SIGUSR2, which clusters send before they end a job. The run stops when it next checks
    the flag; or, if loader workers keep it waiting for STUCK seconds before that, without a checkpoint."""

    def __init__(self) -> None:
        self._received: int | None = None
        self._before = {
            number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
        }
        signal.signal(signal.SIGALRM, self._check_workers)

    def _handle(self, number: int, frame: object) -> None:
        self._received = number
        signal.setitimer(signal.ITIMER_REAL, STUCK / 4, STUCK / 4)

    def _check_workers(self, number: int, frame: object) -> None:
        if waited() > STUCK:
            raise StoppedError("stopped while it waited for images; the same command resumes from its last checkpoint")

    def is_set(self) -> bool:
        return self._received is not None

    def hand_over(self) -> None:
        """Call the signal handler that was installed before, now that the run is saved. submitit's puts the job back
        into the queue."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        if self._received is None:
            return
        handler = self._before[signal.Signals(self._received)]
        if callable(handler) and handler is not signal.default_int_handler:
            handler(self._received, None)


def _outcome(error: BaseException) -> tuple[str, str, int]:
    """(status, one-line reason, exit code) of a run that ended with an exception."""
    if isinstance(error, StoppedError):
        return Status.UNFINISHED, str(error), errors.INTERRUPTED
    if isinstance(error, HopelessError):
        return Status.STOPPED, str(error), errors.DONE
    if isinstance(error, DivergedError):
        return Status.DIVERGED, str(error), errors.FAILED
    if isinstance(error, (SettingsError, DataError)):
        died = isinstance(error, DataError) and isinstance(error.__cause__, RuntimeError)  # a loader worker
        return Status.FAILED, printable(error), errors.HOST_FAILED if died else errors.IMPOSSIBLE
    if isinstance(error, OSError):
        return Status.FAILED, in_words(error), errors.FAILED
    reason = printable(f"{type(error).__name__}: {error}".splitlines()[0])
    return Status.FAILED, reason, _code_of(error)


def _code_of(error: BaseException) -> int:
    """The exit code for what failed. Errors of torch's CPU allocator and of CUDA's libraries have no specific type."""
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
        return errors.HOST_FAILED
    types = torch.OutOfMemoryError, torch.AcceleratorError
    of_device = isinstance(error, types) or str(error).startswith(("CUDA error", "cuDNN error"))
    return errors.DEVICE_FAILED if of_device else errors.FAILED


class LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """A full disk stops the run when it writes its record, not here."""


def _log_file(run: Run) -> Callable[[str], None]:
    handler = LogFile(run.directory / "log.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logger = logging.Logger(run.name)
    logger.addHandler(handler)
    return logger.info
