"""Records as they are written: one directory per run, or per network whose speed was measured (docs/records.md)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from analysis.sources.epochs import READERS, Skip, parse
from analysis.sources.latency import latency_rows
from analysis.sources.rows import run_row
from roadmap.common.records import CONFIG, LATENCY, SUMMARY, BrokenRecordError, read_record_file

Row = dict[str, Any]
CORRECT = "correct.json"


def read_records(paths: list[str], skip: Skip) -> tuple[list[Row], list[Row]]:
    """The rows of the runs in these directories, and those of measured speeds."""

    def read(path: str) -> Row | list[Row] | BrokenRecordError:
        name = os.path.basename(path) or path
        try:
            config, summary = (read_record_file(path, file, parse) for file in (CONFIG, SUMMARY))
            of_kind = latency_rows if summary.get("task") == LATENCY else run_row
            return of_kind(path, name, config, summary)
        except BrokenRecordError as error:
            return error

    runs: list[Row] = []
    latency: list[Row] = []
    with ThreadPoolExecutor(READERS) as pool:
        for path, read_from in zip(paths, pool.map(read, paths), strict=True):
            if isinstance(read_from, BrokenRecordError):
                skip(path, str(read_from))
            elif isinstance(read_from, list):
                latency += read_from
            else:
                runs.append(read_from)
    return runs, latency


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
