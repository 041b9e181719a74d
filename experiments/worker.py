"""A run in a process: in this one with a progress bar, or in a child of a study, quietly. Both write log.txt."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from experiments.errors import SettingsError
from experiments.record import LockedError, Record, is_done
from experiments.settings import Run

INTERRUPTED = 130


class Quiet:
    """Tells a log file what each epoch gave."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self.log = log

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        pass

    def epoch(self, row: dict[str, float]) -> None:
        self.log(
            f"epoch {row['epoch']}: top-1 {row['top1']:.2f} %, loss {row['train_loss']:.4f} (training) "
            f"{row['val_loss']:.4f} (evaluation), {row['images_per_second']:.0f} images/s, {row['seconds']:.1f} s"
        )


class Bar(Quiet):
    """The same, with a bar over the steps of the epoch on a terminal."""

    def __init__(self, log: Callable[[str], None], bar: Progress) -> None:
        super().__init__(log)
        self.bar, self.task = bar, bar.add_task("", total=None)

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        self.bar.update(self.task, description=f"epoch {epoch}  loss {loss:.3f}", completed=step, total=steps)


def train_here(run: Run) -> None:
    """Train a run in this process. Exits with 1 if it fails, 130 if it is interrupted."""
    console = Console(highlight=False)
    if is_done(run):
        console.print(f"{run.name} is done already: {run.directory}")
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:

        def tell(line: str) -> None:
            console.print(line)

        status = train_recorded(run, lambda log: Bar(lambda line: (log(line), tell(line)), bar), tell)
    if status:
        sys.exit(status)


def train_quietly(run: Run, threads: int | None) -> None:
    """Train a run in a child process; its exit code says how it went."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    sys.exit(train_recorded(run, Quiet, lambda line: None))


def train_recorded(run: Run, make_progress: Callable, tell: Callable[[str], None]) -> int:
    """Train a run and record how it ended, whatever happens to it. Returns the exit code; `tell` gets what a person
    should know at once."""
    try:
        record = Record(run)
    except LockedError as error:
        tell(str(error))
        return 1
    log = _log_file(run)
    log(f"{run.name}")
    tell(f"{run.name} -> {run.directory}")
    try:
        from experiments.loop import DivergedError, train

        if run.threads:
            import torch

            torch.set_num_threads(run.threads)
        train(run, record, make_progress(log))
    except KeyboardInterrupt:
        record.finish("unfinished", "interrupted")
        tell("interrupted")
        return INTERRUPTED
    except SettingsError as error:
        record.finish("failed", str(error))
        tell(f"error: {error}")
        return 2
    except DivergedError as error:
        record.finish("diverged", str(error))
        log(str(error))
        tell(f"diverged: {error}")
        return 1
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        log(traceback.format_exc())
        record.finish("failed", reason)
        tell(f"failed: {reason} (all of it in {run.directory / 'log.txt'})")
        return 1
    log("done")
    tell(f"done: top-1 {record.summary['top1']:.2f} % in {record.summary['wall_seconds']:.0f} s -> {run.directory}")
    return 0


def _log_file(run: Run) -> Callable[[str], None]:
    handler = logging.FileHandler(run.directory / "log.txt", mode="a", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logger = logging.Logger(run.name)
    logger.addHandler(handler)
    return logger.info
