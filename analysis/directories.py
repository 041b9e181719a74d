"""Run records as a training writes them: a directory a run (docs/records.md)."""

from __future__ import annotations

import os
from typing import Any

from analysis.epochs import parse
from analysis.rows import BrokenRecordError, one_line, run_row
from roadmap.files import read_bytes

CONFIG, SUMMARY = "config.json", "summary.json"


def read_run(path: str) -> dict[str, Any]:
    """The row of the run in this directory.

    Raises:
        BrokenRecordError: if it is no record.
    """
    config, summary = _read_object(path, CONFIG), _read_object(path, SUMMARY)
    return run_row(path, os.path.basename(path) or path, config, summary)


def _read_object(folder: str, name: str) -> dict[str, Any]:
    try:
        value = parse(read_bytes(f"{folder}/{name}"))
    except FileNotFoundError:
        raise BrokenRecordError(f"no {name}") from None
    except OSError as error:
        raise BrokenRecordError(f"{name} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise BrokenRecordError(f"{name} cannot be read ({one_line(error)})") from None
    if not isinstance(value, dict):
        raise BrokenRecordError(f"{name} holds no JSON object")
    return value
