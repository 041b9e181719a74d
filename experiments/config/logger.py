"""`logger=`: the class of a run's logger, named by the configuration, and a check that it accepts its settings.

`conf/logger/NAME.yaml`, or a user's file, holds `_target_: module.Class` and the settings of that class. Both are
checked before anything starts. Imports no torch.
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
"""Methods that every logger has: see `experiments.tracking.logger.Logger`."""


def check_logger(config: Any) -> dict[str, Any]:
    """`logger` of a composed configuration as plain data: `_target_` and its settings; empty without a logger.

    Raises:
        SettingsError: if there is no such class, or it doesn't accept these settings.
    """
    if not isinstance(config, DictConfig):
        raise SettingsError(f"logger takes a name, like logger=wandb, or a class and its settings, not {config!r}")
    settings: Any = OmegaConf.to_container(config, resolve=True)
    given = {name: value for name, value in settings.items() if value != "???"}
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
        given = OmegaConf.to_container(OmegaConf.merge({"logger": logger_class}, {"logger": given}).logger)  # type: ignore
    checked = {"_target_": target, **given}
    logger = make_logger(checked)
    for name, problem in problems(logger) if is_dataclass(logger) else ():
        raise SettingsError(f"logger.{name} {problem}")
    return checked


def _check_names(target: str, logger_class: type, given: Mapping[str, Any]) -> None:
    """Refuse settings that the class's `__init__` does not accept, and the lack of one that it requires."""
    parameters = signature(logger_class).parameters.values()
    known = {p.name: p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for name in given:
        if name not in known and not takes_any:
            hint = did_you_mean(name, known) + (f" (known: {', '.join(known)})" if known else "")
            raise SettingsError(f"there is no setting {name!r} in 'logger'{hint}")
    for name, parameter in known.items():
        if name not in given and parameter.default is parameter.empty:
            raise SettingsError(f"logger.{name} is not set, and {target} needs it")


def make_logger(settings: Mapping[str, Any]) -> Any:
    """The logger of the settings that `check_logger` returned."""
    target = settings["_target_"]
    try:
        return _class_at(target)(**{name: value for name, value in settings.items() if name != "_target_"})
    except SettingsError:
        raise
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        raise SettingsError(f"logger: {target} refuses its settings: {in_words(error)}") from error


def _class_at(target: Any) -> type:
    """The logger class at a dotted path.

    Raises:
        SettingsError: if there is none, or it is not a logger.
    """
    what, (module, _, name) = f"logger._target_={target}", str(target).rpartition(".")
    try:
        logger_class = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"{what} needs the module {error.name}, which is neither in the current folder, nor on PYTHONPATH, nor "
            "installed"
        ) from error
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        raise SettingsError(f"{what} cannot be imported: {in_words(error)}") from error
    if not isinstance(logger_class, type):
        raise SettingsError(f"{what} is not a class")
    if lacking := [name for name in METHODS if not callable(getattr(logger_class, name, None))]:
        raise SettingsError(f"{what} is not a logger: it has no method {lacking[0]!r} (docs/tracking.md)")
    return logger_class


def in_words(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
