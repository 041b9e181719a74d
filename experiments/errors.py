"""Errors that end a command, its exit codes, and what Hydra and OmegaConf raise in one line for a person."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, NoReturn, get_type_hints

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, InterpolationResolutionError, OmegaConfBaseException
from yaml import YAMLError

from roadmap.common.files import in_words, printable
from roadmap.conf import OURS
from roadmap.designs import DesignError, did_you_mean

DONE, FAILED, IMPOSSIBLE, HOST_FAILED, DEVICE_FAILED, LOCKED, INTERRUPTED = 0, 1, 2, 70, 71, 75, 130
"""Exit codes of a process that trains a run. HOST_FAILED: the machine's memory ran out, or a loader worker died;
DEVICE_FAILED: a GPU's memory ran out, or it failed. Either may be the fault of another run."""


class SettingsError(ValueError):
    """A setting that no run can have. The message is one line: what is wrong, where, what to do."""

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


def is_first() -> bool:
    """Whether this process is the first of those that train a run together: the one that writes and prints."""
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0) == 0


class StoppedError(Exception):
    """The run was told to stop, and has saved a checkpoint."""


class HopelessError(Exception):
    """The run is so far below its study's finished runs that it ends early. It has saved a checkpoint."""


class DataError(RuntimeError):
    """An image that can't be read, or a stream that ends too soon. The message is one line and names it."""

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


CONFIGURATION_ERRORS = (SettingsError, DesignError, HydraException, OmegaConfBaseException, YAMLError, OSError)
"""What ends a command with one line: `refuse`. OSError is among them: a folder of runs that cannot be written, for
example, is a mistake on the command line, too."""


@contextmanager
def refusing(schema: type) -> Iterator[None]:
    """Refuse in one line whatever is wrong with a configuration: our own errors, and whatever is raised inside Hydra
    and OmegaConf, which do not wrap all of it. `schema` is the configuration's root dataclass."""
    try:
        yield
    except CONFIGURATION_ERRORS as error:
        refuse(error, schema)
    except Exception as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__", "").split(".")[0] not in ("hydra", "omegaconf"):
            raise
        refuse(error, schema)


def refuse(error: Exception, schema: type) -> NoReturn:
    """Print one line and exit. `schema` is the configuration's root dataclass."""
    if is_first():  # one of a run's processes prints for all
        print(f"error: {printable(in_one_line(error, schema))}", file=sys.stderr)
    sys.exit(IMPOSSIBLE)


def in_one_line(error: BaseException, schema: type) -> str:
    """What is wrong, where, and the nearest right word. `schema` is the configuration's root dataclass."""
    text = str(error)
    if isinstance(error, YAMLError):
        return f"not YAML: {' '.join(text.split())}"
    if isinstance(error, OSError) and not isinstance(error, HydraException):
        return in_words(error)
    if isinstance(error, OmegaConfBaseException):
        return f"{error.full_key}: {_reason(error)}" if error.full_key else _reason(error)
    if isinstance(error, MissingConfigException) and "/" in (file := error.missing_cfg_file or ""):
        group, _, option = file.rpartition("/")
        known = error.options or OURS.options(group)
        hint = f"; to name your own runs: study_name={option}" if group == "study" else ""
        return f"unknown {group} {option!r}{did_you_mean(option, known)}{_listed(known)}{hint}"
    if isinstance(error, OverrideParseException):
        return f"cannot read the override {error.override!r}: {_first_line(error.message)}"
    # Of its other errors Hydra gives the key, the override and the file in the text alone.
    if match := re.search(r"Could not override '([^']+)'", text):
        return unknown_key(match[1], schema)
    if match := re.search(r"Ambiguous value for argument '(.+)'|Sweep parameters '(.+)' requires", text):
        return f"{match[1] or match[2]} asks for several runs; add -m, or take one value (a list is [a,b])"
    if match := re.search(r"Multiple values for (\S+?)\.? To override", text):
        return f"{match[1]} is chosen twice; name it once"
    cause = error.__cause__ or error.__context__
    if isinstance(cause, OmegaConfBaseException):
        if match := re.match(r"Error merging override (.+)", text):
            return f"{match[1]}: {_reason(cause)}"
        if match := re.match(r"In '(.+)': \w+ raised while composing config:", text):
            return f"conf file {match[1]}: {_in_file(cause, schema)}"
    return _first_line(text)


def _in_file(error: OmegaConfBaseException, schema: type) -> str:
    key = error.full_key or ""
    if key == "study":
        return "a study is named by 'study_name: NAME', not by 'study:'; and its first line is '# @package _global_'"
    if isinstance(error, ConfigKeyError | ConfigAttributeError):
        return unknown_key(key, schema)
    return f"{key}: {_reason(error)}"


def _reason(error: BaseException) -> str:
    """The first line of its text; of what a resolver raised, without what OmegaConf puts before it."""
    while type(error) is InterpolationResolutionError and error.__context__:
        error = error.__context__
    return _first_line(str(error))


def unknown_key(key: str, schema: type) -> str:
    """The message for a key that is neither a setting nor a group of conf/."""
    *path, name = key.split("@")[0].replace("/", ".").split(".")
    if (new := getattr(schema, "renamed", {}).get(key)) is not None:
        return f"the setting {key!r} is called {new!r} now"
    parent: Any = schema
    for part in path:
        types = get_type_hints(parent) if is_dataclass(parent) else {}
        if part not in types:
            return f"there is no setting {key!r}{'' if part == 'hydra' else did_you_mean(part, types)}"
        parent = types[part]
    known = [field.name for field in fields(parent)] if is_dataclass(parent) else []
    if path:
        return f"there is no setting {name!r} in {'.'.join(path)!r}{did_you_mean(name, known)}{_listed(known)}"
    known = sorted({*known, *getattr(schema, "groups", ())})
    if name in known:
        return f"{key!r} can't be overridden like this"
    parts = {part: kind for part, kind in get_type_hints(schema).items() if is_dataclass(kind)}
    inside = [f"{part}.{name}" for part, kind in parts.items() if name in get_type_hints(kind)]
    near = did_you_mean(name, getattr(schema, "groups", ()))
    hint = near or (f"; did you mean {inside[0]!r}?" if inside else did_you_mean(name, known))
    return f"there is no setting {name!r}{hint}{_listed(known)}"


def _listed(known: Sequence[str]) -> str:
    return f" (known: {', '.join(known)})" if known else ""


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")
