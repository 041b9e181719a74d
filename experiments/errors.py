"""Mistakes in a configuration, what the system refuses, and Hydra's account of both, as one line for a person."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, NoReturn, get_type_hints

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException
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
    """Whether this process is, of those that train a run together, the one that writes and speaks."""
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0) == 0


class StoppedError(Exception):
    """The run was asked to stop, and has saved where it is."""


class DataError(RuntimeError):
    """An image that can't be read, or a stream that ends too soon. The message is one line and names it."""

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


CONFIGURATION_ERRORS = (SettingsError, DesignError, HydraException, OmegaConfBaseException, YAMLError, OSError)
"""What ends a command with one line: `refuse`. The system's own are among them, since a folder of runs that cannot be
written, say, is as much a matter of how the command was given."""


@contextmanager
def refusing(schema: type) -> Iterator[None]:
    """Refuse in one line whatever is wrong with a configuration: what we raise, and what Hydra and OmegaConf do while
    they compose it, of which not all is an error of theirs. `schema` is the configuration's root dataclass."""
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
    if is_first():  # of a run's several processes one speaks for all
        print(f"error: {printable(in_one_line(error, schema))}", file=sys.stderr)
    sys.exit(IMPOSSIBLE)


def in_one_line(error: BaseException, schema: type) -> str:
    """What is wrong, where, and the nearest right word. `schema` is the configuration's root dataclass."""
    text = str(error)
    if isinstance(error, YAMLError):
        return f"not YAML: {' '.join(text.split())}"
    if isinstance(error, MissingConfigException) and "/" in (error.missing_cfg_file or ""):
        group, _, option = error.missing_cfg_file.rpartition("/")
        known = error.options or OURS.options(group)
        own = f"; to name runs of your own: study_name={option}" if group == "study" else ""
        return f"unknown {group} {option!r}{did_you_mean(option, known)}{_listed(known)}{own}"
    if isinstance(error, OverrideParseException):
        return f"cannot read the override {error.override!r}: {_first_line(error.message)}"
    if isinstance(error, ConfigCompositionException):
        if match := re.search(r"Could not override '([^']+)'", text):
            return unknown_key(match[1], schema)
        if match := re.search(r"Ambiguous value for argument '(.+)'|Sweep parameters '(.+)' requires", text):
            return f"{match[1] or match[2]} asks for several runs; add -m, or take one value (a list is [a,b])"
        if match := re.search(r"Multiple values for (\S+?)\.? To override", text):
            return f"{match[1]} is chosen twice; name it once"
        if error.__cause__ is not None and "Error merging override" in text:
            override = text.removeprefix("Error merging override ").splitlines()[0]
            return f"{override}: {_first_line(str(error.__cause__))}"
        if match := re.match(r"In '(.+)': \w+ raised while composing config:\s+(.+)\s+full_key: (.+)", text):
            return f"conf file {match[1]}: {_in_file(match[2], match[3], schema)}"
    if isinstance(error, OSError) and not isinstance(error, HydraException):
        return in_words(error)
    if isinstance(error, OmegaConfBaseException):
        key = getattr(error, "full_key", None)
        reason = re.sub(r"^\w+ raised while resolving interpolation: ", "", _first_line(text))
        return f"{key}: {reason}" if key and not isinstance(error.__cause__, ValueError) else reason
    key = re.search(r"^\s*full_key: (.+)$", text, re.M)
    return f"{key[1]}: {_first_line(text)}" if key else _first_line(text)


def _in_file(reason: str, key: str, schema: type) -> str:
    if key == "study":
        return "its first line must be '# @package _global_'; and a study's name is 'study_name: NAME'"
    if reason.startswith("Key ") and " not in " in reason:
        return unknown_key(key, schema)
    return f"{key}: {reason}"


def unknown_key(key: str, schema: type) -> str:
    """For an override of something that is neither a setting nor a group of conf/."""
    *path, name = key.split("@")[0].replace("/", ".").split(".")
    if (new := getattr(schema, "renamed", {}).get(key)) is not None:
        return f"the setting {key!r} is called {new!r} now"
    at: Any = schema
    for part in path:
        types = get_type_hints(at) if is_dataclass(at) else {}
        if part not in types:
            return f"there is no setting {key!r}{'' if part == 'hydra' else did_you_mean(part, types)}"
        at = types[part]
    known = [one.name for one in fields(at)] if is_dataclass(at) else []
    if path:
        return f"there is no setting {name!r} in {'.'.join(path)!r}{did_you_mean(name, known)}{_listed(known)}"
    known = sorted({*known, *getattr(schema, "groups", ())})
    if name in known:
        return f"{key!r} can't be overridden so"
    groups = {group: kind for group, kind in get_type_hints(at).items() if is_dataclass(kind)}
    inside = [f"{group}.{name}" for group, kind in groups.items() if name in get_type_hints(kind)]
    near = did_you_mean(name, getattr(schema, "groups", ()))
    hint = near or (f"; did you mean {inside[0]!r}?" if inside else did_you_mean(name, known))
    return f"there is no setting {name!r}{hint}{_listed(known)}"


def _listed(known: Sequence[str]) -> str:
    return f" (known: {', '.join(known)})" if known else ""


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")
