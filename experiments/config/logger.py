"""`logger=`: the class that follows a run, as the configuration names it, and whether it takes its settings.

`conf/logger/NAME.yaml`, or a file of the user's own, holds `_target_: module.Class` and the settings of that class. It
is checked before anything starts. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from importlib import import_module
from inspect import signature
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.errors import SettingsError
from roadmap.common.bounds import did_you_mean, problems

METHODS = ("start", "step", "epoch", "end")
"""Of every logger: see `experiments.tracking.logger.Logger`."""


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


def make_logger(settings: Mapping[str, Any]) -> Any:
    """The logger of what `check_logger` has found."""
    target = settings["_target_"]
    try:
        return _class_at(target)(**{name: value for name, value in settings.items() if name != "_target_"})
    except SettingsError:
        raise
    except (Exception, SystemExit) as error:  # whatever somebody's code may raise
        raise SettingsError(f"logger: {target} refuses its settings: {in_words(error)}") from error


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
        raise SettingsError(f"{what} cannot be imported: {in_words(error)}") from error
    if not isinstance(found, type):
        raise SettingsError(f"{what} is no class")
    if lacking := [name for name in METHODS if not callable(getattr(found, name, None))]:
        raise SettingsError(f"{what} is no logger: it has no method {lacking[0]!r} (docs/tracking.md)")
    return found


def in_words(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
