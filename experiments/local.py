"""The launcher `local`: a study's runs side by side on this machine, a process each, or one a GPU.

A process that dies takes no other run with it. Torch is imported once, by the server that they are forked from.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from contextlib import ExitStack, nullcontext
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from tempfile import TemporaryDirectory

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from experiments.errors import DONE, INTERRUPTED, LOCKED, is_first
from experiments.locks import lock_file, locked
from experiments.machine import Machine, gpu_lock
from experiments.record import is_done, is_training, read_summary
from experiments.run import Run
from experiments.slurm import in_queue
from experiments.split import MEETING
from experiments.study import Member, Study, command
from experiments.task import CLASSIFICATION

POLL = 0.5
"""Seconds between two looks at the running runs."""
LOST = 255
"""What multiprocessing says of a process when the server that it was forked from is gone: it may live on."""


def train_study(study: Study, machine: Machine) -> int:
    """Train what is not done yet of a study. Returns 0 if nothing failed, else 1.

    Raises:
        KeyboardInterrupt: after the running runs have stopped and been recorded as unfinished.
    """
    study.begin()
    floor = Floor(study, machine)
    floor.train()
    elsewhere = f"; SLURM has {len(floor.elsewhere)} more in its queue" if floor.elsewhere else ""
    return study.conclude(f", after {_clock(time.monotonic() - floor.started)}{elsewhere}", floor.failure)


class Team:
    """The processes that train a run: one, or one a GPU."""

    def __init__(self, run: Run, gpus: tuple[str, ...], start) -> None:
        self.run, self.gpus = run, gpus
        environment = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
        world = max(1, len(gpus))
        if world > 1:
            self.meeting = TemporaryDirectory(prefix="roadmap-")  # a port that is free now may be another's by then
            environment |= {MEETING: f"file://{self.meeting.name}/store"}
            environment |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
        ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} if world > 1 else {} for rank in range(world)]
        self.processes: list[BaseProcess] = [start(run, environment | rank) for rank in ranks]

    def is_over(self) -> bool:
        """When one has died, the others, which may wait for it, are ended too."""
        alive = [process for process in self.processes if process.is_alive()]
        if alive and any(process.exitcode for process in self.processes):
            for process in alive:
                process.join(timeout=10)
                process.kill()
        return not any(process.is_alive() for process in self.processes)

    @property
    def code(self) -> int:
        """The first process's exit code, or that of another if it alone failed."""
        return next((process.exitcode for process in self.processes if process.exitcode), DONE)


class Floor:
    """The state of a study on this machine: what waits, what runs, what is over."""

    def __init__(self, study: Study, machine: Machine) -> None:
        self.study, self.machine = study, machine
        self.members, self.console = study.members, study.console
        todo = {run.identity for run in study.todo}
        self.done_before = {member.identity for member in self.members if member.identity not in todo}
        self.elsewhere = in_queue(study.todo)
        self.waiting = deque(run for run in study.todo if run.identity not in self.elsewhere)
        self.running: dict[str, Team] = {}
        self.over: dict[str, int] = dict.fromkeys(self.done_before, DONE)
        self.free = deque(machine.gpus or [()] * machine.side_by_side)
        self.started = time.monotonic()
        self.processes = multiprocessing.get_context("forkserver")
        self.processes.set_forkserver_preload(["experiments.warm"])

    def train(self) -> None:
        there = f", {len(self.done_before)} of them done already" if self.done_before else ""
        there += f", {len(self.elsewhere)} queued or running in SLURM" if self.elsewhere else ""
        each = f"{len(self.machine.gpus[0])} GPU(s)" if self.machine.gpus else f"{self.machine.threads} thread(s)"
        self.console.print(f"{len(self.members)} runs{there}; {self.machine.side_by_side} side by side, {each} each")
        if not self.waiting:
            return
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        live = Live(get_renderable=self.view, console=self.console, refresh_per_second=2)
        try:
            with live if self.console.is_terminal else nullcontext():
                while self.waiting or self.running:
                    self.start_some()
                    for team in [team for team in self.running.values() if team.is_over()]:
                        self.end(team)
                    wait([process.sentinel for team in self.running.values() for process in team.processes], POLL)
        except KeyboardInterrupt:
            self.stop()
            self.console.print(f"interrupted; the same command goes on:\n  {command()}", soft_wrap=True)
            raise
        except BaseException:
            self.stop()
            raise

    def start_some(self) -> None:
        """As many runs as there are free places; those that another process trains go on waiting."""
        for run in [*self.waiting]:
            if (place := self.free_place()) is None:
                return
            if not is_training(run):
                self.waiting.remove(run)
                self.start(run, place)

    def free_place(self) -> tuple[str, ...] | None:
        """The GPUs of a place where nothing runs, not even what another launcher started; () on a CPU."""
        for gpus in self.free:
            with ExitStack() as locks:
                if all(locks.enter_context(locked(gpu_lock(gpu), patience=0)) for gpu in gpus):
                    return gpus
        return None

    def start(self, run: Run, place: tuple[str, ...]) -> None:
        if is_done(run):  # by another launcher, while it waited here
            self.over[run.identity] = DONE
            return
        self.free.remove(place)
        self.running[run.identity] = Team(run.with_cores(self.machine.threads), place, self.fork)

    def fork(self, run: Run, environment: dict[str, str]) -> BaseProcess:
        process = self.processes.Process(target=_train, args=(run, environment), name=run.name)
        process.start()
        return process

    def end(self, team: Team) -> None:
        run = team.run
        del self.running[run.identity]
        self.free.append(team.gpus)
        if team.code == LOCKED or (team.code == LOST and is_training(run)):  # by another launcher, or all the same
            self.waiting.append(run)
            return
        self.over[run.identity] = team.code
        if not self.console.is_terminal:
            self.console.print(f"{len(self.over)}/{len(self.members)}  {run.name}: {self.verdict(run)}", soft_wrap=True)

    def stop(self) -> None:
        """Ask the running runs to stop, and wait until they have recorded that they did."""
        processes = [process for team in self.running.values() for process in team.processes]
        for process in processes:
            process.terminate()  # not SIGINT, which a shell's background jobs ignore
        for process in processes:
            process.join(timeout=30)
            process.kill()  # it goes on from its last checkpoint

    def verdict(self, run: Run | Member) -> str:
        if why := self.failure(run):
            return why
        summary = read_summary(run.directory) or {}
        return f"{CLASSIFICATION.describe(summary)} in {summary['wall_seconds']:.0f} s"

    def failure(self, run: Run | Member) -> str | None:
        """Why a run failed, in one line; None if it didn't. A process that was killed could record nothing."""
        code, summary = self.over.get(run.identity, DONE), read_summary(run.directory) or {}
        if code == DONE:
            return None
        if summary.get("status") in (None, "queued", "running", "done"):
            return f"its process died ({_exit(code)})"
        return f"{summary['status']}: {summary['reason']}"

    # The live view: a row a network, a column a seed, and above it how far the study is.

    def view(self) -> Group:
        left = len(self.members) - len(self.over) - len(self.elsewhere)
        trained = len(self.over) - len(self.done_before)
        elapsed = time.monotonic() - self.started
        to_go = _clock(elapsed / trained * left) if trained else "?"
        counts = f"{len(self.over)} of {len(self.members)} done, {len(self.running)} running, {len(self.waiting)} left"
        bar = Table.grid(padding=(0, 2))
        bar.add_row(ProgressBar(len(self.members), len(self.over), width=30), Text(f"{counts}; {to_go} to go"))
        return Group(bar, self.grid())

    def grid(self) -> Table:
        seeds = sorted({member.seed for member in self.members})
        rows: dict[str, dict[int, Member]] = {}
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

    def cell(self, member: Member) -> Text:
        if member.identity in self.running:
            summary = read_summary(member.directory) or {}
            return Text(f"{summary.get('epochs_done', 0)}/{summary.get('epochs', '?')}", "yellow")
        if member.identity not in self.over:
            return Text("SLURM" if member.identity in self.elsewhere else "·", "dim")
        if self.over[member.identity] != DONE:
            return Text("stopped" if self.over[member.identity] == INTERRUPTED else "failed", "bold red")
        summary = read_summary(member.directory) or {}
        return Text(f"{summary.get(summary.get('metric')) or float('nan'):.2f}", "green")


def _train(run: Run, environment: dict[str, str]) -> None:
    """In the child: the launcher itself imports no torch."""
    os.environ.update(environment)
    gpus = environment["CUDA_VISIBLE_DEVICES"].split(",") if is_first() and environment else []
    held = [lock_file(gpu_lock(gpu)) for gpu in gpus]  # as long as this process lives
    if None in held:
        sys.exit(LOCKED)
    from experiments.worker import train_in_child

    train_in_child(run)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"


def _exit(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
