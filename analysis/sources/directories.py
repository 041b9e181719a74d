"""Run records as a training writes them: a directory a run (docs/records.md)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from analysis.sources.epochs import READERS, Skip, parse
from analysis.sources.rows import BrokenRecordError, one_line, run_row
from roadmap.common.files import read_bytes

CONFIG, SUMMARY, CORRECT = "config.json", "summary.json", "correct.json"


def read_run(path: str) -> dict[str, Any]:
    """The row of the run in this directory.

    Raises:
        BrokenRecordError: if it is no record.
    """
    config, summary = _read_object(path, CONFIG), _read_object(path, SUMMARY)
    return run_row(path, os.path.basename(path) or path, config, summary)


def read_correct(paths: Iterable[str], skip: Skip) -> Iterator[tuple[str, dict[str, Any]]]:
    """Which evaluation images the runs in these directories get right, as their records say it, where they do."""

    def read(path: str) -> dict[str, Any] | BrokenRecordError | None:
        try:
            return _read_object(path, CORRECT) if os.path.lexists(f"{path}/{CORRECT}") else None
        except BrokenRecordError as error:
            return error

    paths = list(paths)
    with ThreadPoolExecutor(READERS) as pool:
        for path, found in zip(paths, pool.map(read, paths), strict=True):
            if isinstance(found, BrokenRecordError):
                skip(path, str(found))
            elif found is not None:
                yield path, found


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
