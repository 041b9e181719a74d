"""The launcher `local`: trains a study's runs side by side on this machine, and shows their progress."""

from __future__ import annotations

import signal
import time
from contextlib import nullcontext

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from experiments.config.run import Run
from experiments.config.task import CLASSIFICATION
from experiments.errors import DONE, INTERRUPTED
from experiments.launch.pool import Pool, failure
from experiments.launch.slurm import in_queue
from experiments.launch.study import Study, command, without_result
from experiments.records.record import read_summary
from experiments.runtime.machine import Machine
from roadmap.common.statuses import Status
from roadmap.common.words import counted, duration


def train_study(study: Study, machine: Machine) -> int:
    """Train what is not done yet of a study. Returns 0 if nothing failed, else 1.

    Raises:
        KeyboardInterrupt: after the running runs have stopped and been recorded as unfinished.
    """
    study.begin()
    local = LocalStudy(study, machine)
    local.train()
    queued = f"; SLURM has {len(local.queued)} more in its queue" if local.queued else ""
    return study.conclude(f", after {duration(time.monotonic() - local.started)}{queued}", local.failure)


class LocalStudy:
    """A study on this machine: the pool that trains it, and the view of what waits, runs, and has ended."""

    def __init__(self, study: Study, machine: Machine) -> None:
        self.study, self.machine = study, machine
        self.members, self.console = study.members, study.console
        todo = {run.identity for run in study.todo}
        self.done_before = {member.identity for member in self.members if member.identity not in todo}
        self.queued = in_queue(study.todo)
        self.pool = Pool([run for run in study.todo if run.identity not in self.queued], machine)
        self.pool.ended |= dict.fromkeys(self.done_before, DONE)
        self.started = time.monotonic()

    def train(self) -> None:
        counts = self.study.counts()
        before = f", {counts['done']} of them done already{without_result(counts)}" if self.done_before else ""
        before += f", {len(self.queued)} queued or running in SLURM" if self.queued else ""
        self.console.print(f"{counted(len(self.members), 'run')}{before}; {self.machine.describe()}", soft_wrap=True)
        if not self.pool.waiting:
            return
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        live = Live(get_renderable=self.view, console=self.console, refresh_per_second=2)
        try:
            with live if self.console.is_terminal else nullcontext():
                self.pool.train(self.report, self.failed_too_often, self.study.is_spent)
            if reason := self.failed_too_often():
                self.stop_after_failures(reason)
        except KeyboardInterrupt:
            self.pool.stop()
            self.console.print(f"interrupted; to resume:\n  {command()}", soft_wrap=True)
            raise
        except BaseException:
            self.pool.stop()
            raise

    def failed_too_often(self) -> str | None:
        """Why the study stops, if as many runs have failed as `fail_fast` allows."""
        ended = self.pool.ended
        return self.study.limits.failed(
            run.name
            for run in self.members
            if ended.get(run.identity, DONE) not in (DONE, INTERRUPTED) and not self.study.has_ended(run)
        )

    def stop_after_failures(self, reason: str) -> None:
        running, waiting = len(self.pool.running), len(self.pool.waiting)
        if not running and not waiting:
            return
        self.pool.stop()
        what = f"{counted(running, 'run')} interrupted, {waiting} not started"
        self.console.print(f"{reason}, so the study stops: {what}", soft_wrap=True)

    def report(self, run: Run, retried: str | None) -> None:
        if retried:
            self.console.print(f"{run.name}: {retried}; it is tried again alone, after the others", soft_wrap=True)
        elif not self.console.is_terminal:
            count = f"{len(self.pool.ended)}/{len(self.members)}"
            self.console.print(f"{count}  {run.name}: {self.verdict(run)}", soft_wrap=True)

    def verdict(self, run: Run) -> str:
        if why := self.failure(run):
            return why
        summary = read_summary(run.directory) or {}
        if summary.get("status") == Status.STOPPED:
            return f"stopped: {summary['reason']}"
        return f"{CLASSIFICATION.describe(summary)} in {summary['wall_seconds']:.0f} s"

    def failure(self, run: Run) -> str | None:
        """Why a run failed, in one line; None if it didn't."""
        return failure(run, self.pool.ended.get(run.identity, DONE))

    # The live view: one row per network, one column per seed, and above it the study's progress.

    def view(self) -> Group:
        left = len(self.members) - len(self.pool.ended) - len(self.queued)
        trained = len(self.pool.ended) - len(self.done_before)
        elapsed = time.monotonic() - self.started
        to_go = duration(elapsed / trained * left) if trained else "?"
        ended, running, waiting = len(self.pool.ended), len(self.pool.running), len(self.pool.waiting)
        counts = f"{ended} of {len(self.members)} done, {running} running, {waiting} left"
        bar = Table.grid(padding=(0, 2))
        bar.add_row(ProgressBar(len(self.members), ended, width=30), Text(f"{counts}; {to_go} to go"))
        return Group(bar, self.grid())

    def grid(self) -> Table:
        seeds = sorted({member.seed for member in self.members})
        rows: dict[str, dict[int, Run]] = {}
        for member in self.members:
            rows.setdefault(member.series, {})[member.seed] = member
        grid = Table(box=None, padding=(0, 2, 0, 0))
        grid.add_column("network", max_width=50, no_wrap=True)
        for seed in seeds:
            grid.add_column(f"seed {seed}", justify="right", min_width=7)
        for by_seed in list(rows.values())[: max(1, self.console.height - 4)]:
            cells = [self.cell(by_seed[seed]) if seed in by_seed else "" for seed in seeds]
            grid.add_row(next(iter(by_seed.values())).title, *cells)
        return grid

    def cell(self, member: Run) -> Text:
        if member.identity in self.pool.running:
            summary = read_summary(member.directory) or {}
            return Text(f"{summary.get('epochs_done', 0)}/{summary.get('epochs', '?')}", "yellow")
        if member.identity not in self.pool.ended:
            return Text("SLURM" if member.identity in self.queued else "·", "dim")
        if self.pool.ended[member.identity] != DONE:
            return Text("saved" if self.pool.ended[member.identity] == INTERRUPTED else "failed", "bold red")
        summary = read_summary(member.directory) or {}
        if (status := summary.get("status")) in (Status.STOPPED, Status.DIVERGED):
            return Text(status, "yellow")
        return Text(f"{summary.get(summary.get('metric') or '') or float('nan'):.2f}", "green")
