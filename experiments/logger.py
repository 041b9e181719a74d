"""What follows a run besides its record: a class that the configuration names, in a thread of its own.

`conf/logger/NAME.yaml`, or a file of the user's own, holds `_target_: module.Class` and the settings that the class
takes. It is looked at before anything starts, and made again in the process that trains. Imports no torch.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from importlib import import_module
from inspect import signature
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from experiments.errors import SettingsError
from roadmap.bounds import did_you_mean, problems

if TYPE_CHECKING:
    from experiments.record import Record
    from experiments.run import Run

PATIENCE = 40
"""Seconds that a run which has ended waits for its logger. W&B needs up to 30 of them."""


class Logger:
    """What a logger of one's own inherits from, to leave out what it doesn't need; or it has all four methods.

    `__init__` takes the settings, refuses them with a ValueError of one line, and does nothing else: it is also called
    to check a configuration. All else is called in a thread beside the training, one call after the other, and may
    take its time; what it raises is a line of the log, and then it is not called again. It draws no numbers from the
    global generators of random, numpy and torch, which are the run's.
    """

    def start(self, run: Run, record: Record, say: Callable[[str], None]) -> None:
        """The run is about to be trained, from its beginning or from a checkpoint. `run.directory` is the place for
        files; `record.epochs` are the rows of all finished epochs, `record.summary` is what summary.json says; `say`
        writes a line to the log."""

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        """About twice a second: step `step` of the `steps` of an epoch, both from 1, has been taken. Left out while the
        logger is busy."""

    def epoch(self, row: dict[str, float]) -> None:
        """An epoch has been trained and evaluated: its row of epochs.jsonl (docs/records.md)."""

    def end(self, status: str) -> None:
        """The record is finished: `done`, `unfinished`, `diverged` or `failed`. The run waits for this, up to PATIENCE
        seconds."""


METHODS = ("start", "step", "epoch", "end")


# What the configuration says.


def check_logger(config: Any) -> dict[str, Any]:
    """`logger` of a composed configuration as plain data: `_target_` and its settings; nothing for none.

    Raises:
        SettingsError: if there is no such class, or it doesn't take these settings.
    """
    if not isinstance(config, DictConfig):
        raise SettingsError(f"logger takes a name, like logger=wandb, or a class and its settings, not {config!r}")
    given = {name: value for name, value in OmegaConf.to_container(config, resolve=True).items() if value != "???"}
    target = given.pop("_target_", None)
    if target is None:
        if given:
            raise SettingsError(
                f"there is no setting {next(iter(given))!r} in 'logger' before one is chosen: logger=NAME"
            )
        return {}
    logger_class = _class_at(target)
    _check_names(target, logger_class, given)
    if is_dataclass(logger_class):  # the types of its fields, too
        given = OmegaConf.to_container(OmegaConf.merge({"logger": logger_class}, {"logger": given}).logger)
    checked = {"_target_": target, **given}
    logger = make_logger(checked)
    for name, problem in problems(logger) if is_dataclass(logger) else ():
        raise SettingsError(f"logger.{name} {problem}")
    return checked


def _check_names(target: str, logger_class: type, given: Mapping[str, Any]) -> None:
    """Refuse settings that the class's `__init__` does not take, and the lack of one that it needs."""
    parameters = signature(logger_class).parameters
    known = {name: one for name, one in parameters.items() if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)}
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    for name in given:
        if name not in known and not takes_any:
            hint = did_you_mean(name, known) + (f" (known: {', '.join(known)})" if known else "")
            raise SettingsError(f"there is no setting {name!r} in 'logger'{hint}")
    for name, one in known.items():
        if name not in given and one.default is one.empty:
            raise SettingsError(f"logger.{name} is not set, and {target} needs it")


def make_logger(settings: Mapping[str, Any]) -> Logger:
    """The logger of what `check_logger` has found."""
    target = settings["_target_"]
    try:
        return _class_at(target)(**{name: value for name, value in settings.items() if name != "_target_"})
    except SettingsError:
        raise
    except (Exception, SystemExit) as error:  # whatever somebody's code may raise
        raise SettingsError(f"logger: {target} refuses its settings: {_in_words(error)}") from error


def _class_at(target: Any) -> type:
    """The class of a logger that a dotted path names.

    Raises:
        SettingsError: if there is none, or it is no logger's.
    """
    what, (module, _, name) = f"logger._target_={target}", str(target).rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        where = "the folder of the command, PYTHONPATH, what is installed"
        raise SettingsError(
            f"{what} needs the module {error.name}, which is not where Python looks: {where}"
        ) from error
    except (Exception, SystemExit) as error:  # whatever somebody's code may raise
        raise SettingsError(f"{what} cannot be imported: {_in_words(error)}") from error
    if not isinstance(found, type):
        raise SettingsError(f"{what} is no class")
    if lacking := [name for name in METHODS if not callable(getattr(found, name, None))]:
        raise SettingsError(f"{what} is no logger: it has no method {lacking[0]!r} (docs/tracking.md)")
    return found


def _in_words(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")


# While a run is trained.


class LoggerThread:
    """A logger in a thread of its own, which can neither stop a run nor keep it waiting."""

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
            self.say(f"the logger {self.name} has not ended within {PATIENCE} s: the run waits no longer for it")

    def _call(self, run: Run, record: Record) -> None:
        method = "start"
        try:
            logger = make_logger(run.logger)
            logger.start(run, record, self.say)
            while method != "end":
                method, arguments = self.events.get()
                getattr(logger, method)(*arguments)
        except (Exception, SystemExit) as error:  # whatever somebody's code may raise
            *_, (frame, line) = traceback.walk_tb(error.__traceback__)
            raised = f"{method} raised {_in_words(error)} ({frame.f_code.co_filename}, line {line})"
            self.say(f"the logger {self.name} has failed, and is not called again: {raised}")
