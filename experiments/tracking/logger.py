"""Loggers, which follow a run besides its record: a class that the configuration names, in a separate thread.

`conf/logger/NAME.yaml`, or a user's file, holds `_target_: module.Class` and the settings that the class takes. It is
checked before anything starts, and instantiated again in the process that trains. Imports no torch.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from threading import Thread

from experiments.config.logger import in_words, make_logger
from experiments.config.run import Run
from experiments.records.record import Record

PATIENCE = 40
"""Seconds that a run waits for its logger at the end. W&B needs up to 30 of them."""


class Logger:
    """The base class of custom loggers, which need not define all methods; without it, they need all four.

    `__init__` takes the settings, refuses them with a ValueError of one line, and does nothing else: it is also called
    to check a configuration. The other methods are called in a thread beside the training, one after the other, and may
    be slow; an exception becomes a line of the log, and the logger is not called again. They must not draw from the
    global generators of random, numpy and torch, which are the run's.
    """

    def start(self, run: Run, record: Record, say: Callable[[str], None]) -> None:
        """The run is about to be trained, from its beginning or from a checkpoint. Files belong into `run.directory`;
        `record.epochs` has the rows of all finished epochs, `record.summary` the content of summary.json; `say` writes
        a line to the log."""

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        """About twice a second: step `step` of the `steps` of an epoch is done, both counted from 1. Skipped while the
        logger is busy."""

    def epoch(self, row: dict[str, float]) -> None:
        """An epoch has been trained and evaluated: its row in epochs.jsonl (docs/records.md)."""

    def end(self, status: str) -> None:
        """The record is finished: `done`, `stopped`, `unfinished`, `diverged` or `failed`. The run waits for this
        call, at most PATIENCE seconds."""


class LoggerThread:
    """Runs a logger in a separate thread, where it can neither stop nor delay the run."""

    def __init__(self, run: Run, record: Record, say: Callable[[str], None]) -> None:
        self.name, self.say = run.logger["_target_"], say
        self.events: SimpleQueue[tuple[str, tuple]] = SimpleQueue()
        self.thread = Thread(target=self._call, args=(run, record), daemon=True)
        self.thread.start()

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        if self.events.empty():
            self.events.put(("step", (epoch, step, steps, loss)))

    def epoch(self, row: Mapping[str, float]) -> None:
        self.events.put(("epoch", ({**row},)))

    def end(self, status: str) -> None:
        self.events.put(("end", (status,)))
        self.thread.join(PATIENCE)
        if self.thread.is_alive():
            self.say(f"the logger {self.name} has not finished within {PATIENCE} s; the run ends without it")

    def _call(self, run: Run, record: Record) -> None:
        method = "start"
        try:
            logger = make_logger(run.logger)
            logger.start(run, record, self.say)
            while method != "end":
                method, arguments = self.events.get()
                getattr(logger, method)(*arguments)
        except (Exception, SystemExit) as error:  # a user's code may raise anything
            *_, (frame, line) = traceback.walk_tb(error.__traceback__)
            raised = f"{method} raised {in_words(error)} ({frame.f_code.co_filename}, line {line})"
            self.say(f"the logger {self.name} has failed and is not called again: {raised}")
