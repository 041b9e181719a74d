"""Run records as a training writes them: one directory per run (docs/records.md)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from analysis.sources.epochs import READERS, Skip, parse
from analysis.sources.rows import run_row
from roadmap.common.records import CONFIG, SUMMARY, BrokenRecordError, read_record_file

CORRECT = "correct.json"


def read_runs(paths: list[str], skip: Skip) -> list[dict[str, Any]]:
    """The rows of the runs in these directories."""

    def read(path: str) -> dict[str, Any] | BrokenRecordError:
        try:
            config, summary = (read_record_file(path, name, parse) for name in (CONFIG, SUMMARY))
            return run_row(path, os.path.basename(path) or path, config, summary)
        except BrokenRecordError as error:
            return error

    rows = []
    with ThreadPoolExecutor(READERS) as pool:
        for path, row in zip(paths, pool.map(read, paths), strict=True):
            skip(path, str(row)) if isinstance(row, BrokenRecordError) else rows.append(row)
    return rows


def read_correct(paths: Iterable[str], skip: Skip) -> Iterator[tuple[str, dict[str, Any]]]:
    """The correct.json of the runs in these directories, where there is one: which images a run gets right."""

    def read(path: str) -> dict[str, Any] | BrokenRecordError | None:
        try:
            return read_record_file(path, CORRECT, parse) if os.path.lexists(f"{path}/{CORRECT}") else None
        except BrokenRecordError as error:
            return error

    paths = list(paths)
    with ThreadPoolExecutor(READERS) as pool:
        for path, value in zip(paths, pool.map(read, paths), strict=True):
            if isinstance(value, BrokenRecordError):
                skip(path, str(value))
            elif value is not None:
                yield path, value
