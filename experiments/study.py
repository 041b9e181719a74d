"""A study: several runs side by side on this machine, a process a run, so that one that dies takes no other with it.

What is done is not trained again; what fails is named at the end, after everything else has been trained.
"""

from __future__ import annotations

import multiprocessing
import os
import shlex
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

from omegaconf import DictConfig
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from experiments.errors import DONE, FAILED, LOCKED, SettingsError
from experiments.record import is_done, read_summary
from experiments.run import Run, to_run
from experiments.split import world_size

POLL = 0.5
"""Seconds between two looks at the running runs."""


def train_study(configs: Sequence[DictConfig], jobs: int | None = None) -> int:
    """Train what is not done yet of the runs that these configurations ask for, `jobs` at a time (one a core).

    Every configuration is checked before the first run starts. Returns 0 if all runs are done at the end, else 1.

    Raises:
        SettingsError, DesignError: if one of them is impossible.
        KeyboardInterrupt: after the running runs have stopped and been recorded as unfinished.
    """
    if world_size() > 1:
        raise SettingsError("a study starts its runs itself; under torchrun or srun start one run, without -m")
    if jobs is not None and jobs < 1:
        raise SettingsError(f"hydra.launcher.jobs must be at least 1, not {jobs}")
    asked = (to_run(config, config.hydra.overrides.task) for config in configs)
    runs = list({run.identity: run for run in asked}.values())
    study = Study(runs, jobs or cores())
    study.train()
    return study.conclude()


class Study:
    """The state of a study: what waits, what runs, what is over."""

    def __init__(self, runs: Sequence[Run], jobs: int) -> None:
        self.runs, self.jobs = runs, jobs
        self.done_before = {run.identity for run in runs if is_done(run)}
        self.waiting = deque(run for run in runs if run.identity not in self.done_before)
        self.running: dict[BaseProcess, Run] = {}
        self.over: dict[str, int] = dict.fromkeys(self.done_before, DONE)
        self.threads = max(1, cores() // self.jobs)
        self.console = Console(highlight=False, markup=False)
        self.started = time.monotonic()
        self.processes = multiprocessing.get_context("forkserver")
        self.processes.set_forkserver_preload(["experiments.warm"])

    def train(self) -> None:
        left = len(self.waiting)
        there = f", {len(self.done_before)} of them done already" if self.done_before else ""
        self.console.print(f"{len(self.runs)} runs{there}; {self.jobs} side by side, {self.threads} thread(s) each")
        if not left:
            return
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        live = Live(get_renderable=self.view, console=self.console, refresh_per_second=2)
        try:
            with live if self.console.is_terminal else nullcontext():
                while self.waiting or self.running:
                    while self.waiting and len(self.running) < self.jobs:
                        self.start(self.waiting.popleft())
                    for process in [p for p in self.running if not p.is_alive()]:
                        self.end(process)
                    wait([process.sentinel for process in self.running], POLL)
        except KeyboardInterrupt:
            self.stop()
            self.console.print(f"interrupted; the same command goes on:\n  {_command()}", soft_wrap=True)
            raise

    def start(self, run: Run) -> None:
        if is_done(run):  # by another launcher, while it waited here
            self.over[run.identity] = DONE
            return
        process = self.processes.Process(target=_train, args=(run, self.threads), name=run.name)
        process.start()
        self.running[process] = run

    def end(self, process: BaseProcess) -> None:
        run = self.running.pop(process)
        if process.exitcode == LOCKED:  # another launcher trains it: see later what became of it
            self.waiting.append(run)
            time.sleep(POLL)
            return
        self.over[run.identity] = process.exitcode or DONE
        if not self.console.is_terminal:
            self.console.print(f"{len(self.over)}/{len(self.runs)}  {run.name}: {self.verdict(run)}", soft_wrap=True)

    def stop(self) -> None:
        """Ask the running runs to stop, and wait until they have recorded that they did."""
        for process in self.running:
            if process.pid and process.is_alive():
                os.kill(process.pid, signal.SIGINT)
        for process in self.running:
            process.join(timeout=30)

    def conclude(self) -> int:
        """Name what failed and why. Returns the exit code."""
        failed = [run for run in self.runs if self.over.get(run.identity) != DONE]
        spent = _clock(time.monotonic() - self.started)
        self.console.print(f"{len(self.runs) - len(failed)} of {len(self.runs)} runs are done, after {spent}")
        for run in failed:
            self.console.print(f"  {run.name}: {self.verdict(run)} ({run.directory / 'log.txt'})", soft_wrap=True)
        if failed:
            self.console.print(f"train what is missing with the same command:\n  {_command()}", soft_wrap=True)
        return FAILED if failed else DONE

    def verdict(self, run: Run) -> str:
        summary = read_summary(run.directory) or {}
        code = self.over.get(run.identity)
        if code == DONE:
            return f"top-1 {summary['top1']:.2f} % in {summary['wall_seconds']:.0f} s"
        if summary.get("status") in (None, "running", "done"):
            return f"failed: its process died ({_exit(code)})"
        return f"{summary['status']}: {summary['reason']}"

    # The live view: a row a network, a column a seed, and above it how far the study is.

    def view(self) -> Group:
        left = len(self.runs) - len(self.over)
        trained = len(self.over) - len(self.done_before)
        elapsed = time.monotonic() - self.started
        to_go = _clock(elapsed / trained * left) if trained else "?"
        counts = f"{len(self.over)} of {len(self.runs)} done, {len(self.running)} running, {len(self.waiting)} left"
        bar = Table.grid(padding=(0, 2))
        bar.add_row(ProgressBar(len(self.runs), len(self.over), width=30), Text(f"{counts}; {to_go} to go"))
        return Group(bar, self.grid())

    def grid(self) -> Table:
        seeds = sorted({run.seed for run in self.runs})
        rows: dict[str, dict[int, Run]] = {}
        for run in self.runs:
            rows.setdefault(run.series, {})[run.seed] = run
        grid = Table(box=None, padding=(0, 2, 0, 0))
        grid.add_column("top-1 (%)", max_width=50, no_wrap=True)
        for seed in seeds:
            grid.add_column(f"seed {seed}", justify="right", min_width=7)
        running = {run.identity for run in self.running.values()}
        for by_seed in list(rows.values())[: max(1, self.console.height - 4)]:
            cells = [self.cell(by_seed[seed], running) if seed in by_seed else "" for seed in seeds]
            grid.add_row(next(iter(by_seed.values())).title, *cells)
        return grid

    def cell(self, run: Run, running: set[str]) -> Text:
        if run.identity in running:
            epochs = (read_summary(run.directory) or {}).get("epochs_done", 0)
            return Text(f"{epochs}/{run.recipe.epochs}", "yellow")
        if run.identity not in self.over:
            return Text("·", "dim")
        if self.over[run.identity] != DONE:
            return Text("failed", "bold red")
        return Text(f"{(read_summary(run.directory) or {}).get('top1', float('nan')):.2f}", "green")


def _train(run: Run, threads: int) -> None:
    """In the child: the launcher itself imports no torch."""
    from experiments.worker import train_in_child

    train_in_child(run, threads)


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"


def _exit(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


def _command() -> str:
    return shlex.join(["python", "-m", "experiments.train", *sys.argv[1:]])
