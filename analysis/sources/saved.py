"""Runs as CSV files, small enough to be kept beside the text that cites them: runs.csv, epochs.csv and correct.csv; and
measured speeds: latency.csv.

Lists and mappings are written as JSON. A study's runs share their road: roads.json contains it once, under a name that
the cells refer to. Nothing that identifies a machine is written: paths of runs are relative to their common folder,
other absolute paths are cut to their last part, and hosts are numbered.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd

from analysis.sources.correct_images import FIELDS, Correct
from analysis.sources.epochs import EPOCH_COLUMNS, Skip, number, ordered
from analysis.sources.latency import LATENCY_COLUMNS
from analysis.sources.latency import checked as checked_latency
from analysis.sources.rows import (
    COLUMNS,
    FLAG,
    INTEGER,
    LIST,
    MAPPING,
    ROAD,
    checked,
    one_line,
)
from analysis.text import from_cell, to_cell
from roadmap.common.files import opened, read_object, replacing
from roadmap.common.records import BrokenRecordError
from roadmap.roads import Road

RUNS_CSV, EPOCHS_CSV, CORRECT_CSV, ROADS_JSON = "runs.csv", "epochs.csv", "correct.csv", "roads.json"
LATENCY_CSV = "latency.csv"
_JSON = (FLAG, INTEGER, LIST, MAPPING)
_ENCODING: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape"}  # a path may be any bytes
_ABSOLUTE = re.compile(r"(?<![\w.~/:-])~?/[^\s'\",;:()<>|]*|(?<!\w)[A-Za-z]:\\[^\s'\",;:()<>|]*")


def write(
    runs: pd.DataFrame, epochs: pd.DataFrame, correct: Mapping[str, Correct], latency: pd.DataFrame, folder: str
) -> None:
    """Write the files into a folder, which is created if necessary. Those that it has of an earlier study are removed.

    Raises:
        OSError: if they cannot be written.
    """
    short = _relative(runs["path"].tolist())
    hosts = {name: f"host {index}" for index, name in enumerate(_distinct("host", runs, latency), 1)}
    roads = {road: f"road {number}" for number, road in enumerate(_distinct("road", runs, latency), 1)}
    table = epochs.assign(path=epochs["path"].cat.rename_categories(short))
    os.makedirs(folder, exist_ok=True)
    if roads:
        values = {
            name: _each_text(road.to_json(), lambda text: _anonymous(text, hosts)) for road, name in roads.items()
        }
        with replacing(f"{folder}/{ROADS_JSON}") as file:
            json.dump(values, file, indent=1)
    has_runs = len(runs) > 0 or latency.empty
    of_images = [
        (short[path], images, count, json.dumps(unread), packed.hex())
        for path, (images, count, unread, packed) in correct.items()
    ]
    _write_csv(folder, RUNS_CSV, _cells(runs, COLUMNS, hosts, roads) if has_runs else [])
    _write_csv(folder, LATENCY_CSV, _cells(latency, LATENCY_COLUMNS, hosts, roads) if len(latency) else [])
    _write_csv(folder, CORRECT_CSV, [("path", *FIELDS), *of_images] if correct else [])
    if not has_runs:
        Path(folder, EPOCHS_CSV).unlink(missing_ok=True)
        return
    with replacing(f"{folder}/{EPOCHS_CSV}", newline="", **_ENCODING) as file:
        table.to_csv(file, index=False, lineterminator="\n")


def _write_csv(folder: str, name: str, rows: Sequence[Iterable[Any]]) -> None:
    """Write a file; if there are no rows, remove that of an earlier study."""
    if not rows:
        Path(folder, name).unlink(missing_ok=True)
        return
    with replacing(f"{folder}/{name}", newline="", **_ENCODING) as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def _distinct(column: str, *frames: pd.DataFrame) -> list[Any]:
    return pd.concat([frame[column] for frame in frames]).dropna().unique().tolist()


def _cells(
    frame: pd.DataFrame, columns: Iterable[str], hosts: Mapping[str, str], roads: Mapping[Road, str]
) -> list[Iterable[str]]:
    """The header and the rows of a CSV file."""
    short = _relative(frame["path"].tolist())
    frame = frame.assign(road=[roads.get(road) for road in frame["road"]])
    cells = [
        map(partial(_cell, hosts=hosts) if column != "path" else short.__getitem__, frame[column].tolist())
        for column in columns
    ]
    return [[*columns], *zip(*cells, strict=True)]


def read(folder: str, skip: Skip) -> list[dict[str, Any]]:
    """The rows of the runs that were written into a folder."""
    required = ("path", "status", "seed", "series")
    return _read(folder, RUNS_CSV, required, lambda cells, roads: checked(_row(folder, cells, roads, COLUMNS)), skip)


def read_latency(folder: str, skip: Skip) -> list[dict[str, Any]]:
    """The rows of the measured speeds that were written into a folder."""
    required = ("path", "mode", "batch", "ms_of_rounds")
    return _read(
        *(folder, LATENCY_CSV, required),
        lambda cells, roads: checked_latency(_row(folder, cells, roads, LATENCY_COLUMNS)),
        skip,
    )


def _read(
    folder: str,
    name: str,
    required: Iterable[str],
    to_row: Callable[[Mapping[str, str | None], Mapping[str, Any]], dict[str, Any]],
    skip: Skip,
) -> list[dict[str, Any]]:
    """The rows of a CSV file of a folder, if it has one."""
    file, rows = f"{folder}/{name}", []
    if not os.path.lexists(file):
        return []
    roads = read_object(f"{folder}/{ROADS_JSON}") or {}
    with _skipping(file, skip, "the rows before that are kept"), _opened(file) as text:
        table = csv.DictReader(text, strict=True)
        if lacking := {*required} - {*(table.fieldnames or ())}:
            skip(file, f"not written by Runs.save: no column {min(lacking)!r}")
            return []
        for cells in table:
            try:
                rows.append(to_row(cells, roads))
            except BrokenRecordError as error:
                skip(f"{file}, line {table.line_num}", str(error))
    return rows


def read_epochs(folder: str, paths: Iterable[str], skip: Skip) -> Iterator[tuple[str, np.ndarray]]:
    """The epochs of these runs of a folder."""
    file = f"{folder}/{EPOCHS_CSV}"
    rows: dict[str, list[list[float]]] = {path: [] for path in paths}
    with _skipping(file, skip, "the epochs before that are kept"), _opened(file) as text:
        table = csv.reader(text, strict=True)
        names = next(table, [])
        if "path" not in names or "epoch" not in names:
            skip(file, "not written by Runs.save: no column 'path' or no column 'epoch'")
            return
        columns = [names.index(name) if name in names else len(names) for name in EPOCH_COLUMNS]
        for cells in table:
            cells += [""] * (len(names) + 1 - len(cells))
            path = os.path.join(folder, cells[names.index("path")])
            if path in rows:
                rows[path].append([number(cells[column]) for column in columns])
    for path, values in rows.items():
        epochs, complaint = ordered(np.array(values, float).reshape(len(values), len(EPOCH_COLUMNS)).T)
        if complaint:
            skip(file, f"{os.path.relpath(path, folder)}: {complaint}")
        if epochs.size:
            yield path, epochs


def read_correct(folder: str, paths: Iterable[str], skip: Skip) -> Iterator[tuple[str, dict[str, Any]]]:
    """Which evaluation images these runs of a folder get right, if that was written."""
    file, wanted = f"{folder}/{CORRECT_CSV}", {*paths}
    if not os.path.lexists(file):
        return
    with _skipping(file, skip, "the runs before that are kept"), _opened(file) as text:
        for cells in csv.DictReader(text, strict=True):
            if (path := os.path.join(folder, cells.get("path") or "")) in wanted:
                yield path, cells | {name: _value(cells.get(name)) for name in ("count", "unread")}


def _opened(file: str) -> TextIO:
    return TextIOWrapper(opened(file), newline="", **_ENCODING)


@contextmanager
def _skipping(file: str, skip: Skip, kept: str) -> Iterator[None]:
    """Ends the reading of a CSV file where it cannot be read further."""
    try:
        yield
    except OSError as error:
        skip(file, f"cannot be read ({error.strerror})")
    except csv.Error as error:
        skip(file, f"no CSV ({one_line(error)}); {kept}")


def _value(cell: str | None) -> Any:
    """The value of a JSON cell; None if it is not JSON."""
    try:
        return json.loads(cell or "null")
    except (ValueError, RecursionError):
        return None


def _row(
    folder: str, cells: Mapping[str, str | None], roads: Mapping[str, Any], columns: Mapping[str, str]
) -> dict[str, Any]:
    """The values of a row's cells."""
    row: dict[str, Any] = {}
    for column, kind in columns.items():
        row[column] = from_cell(cells.get(column) or "") or None
        try:
            if kind in _JSON and row[column]:
                row[column] = json.loads(row[column])
        except (ValueError, RecursionError):
            raise BrokenRecordError(f"{column!r} is not JSON") from None
        if kind == ROAD and row[column]:
            if row[column] not in roads:
                raise BrokenRecordError(f"{row[column]!r} is not in {ROADS_JSON}")
            row[column] = roads[row[column]]
    return row | {"path": os.path.join(folder, row["path"] or "")}


def _relative(paths: list[str]) -> dict[str, str]:
    """The paths relative to the folder that they share."""
    comparable = len({*map(os.path.isabs, paths)}) == 1
    folder = os.path.commonpath([os.path.dirname(path) for path in paths]) if comparable else ""
    return {path: os.path.relpath(path, folder or ".") for path in paths}


def _cell(value: Any, hosts: Mapping[str, str]) -> str:
    """The text of a cell, which `_row` reads back."""
    if value is None or value != value:
        return ""
    if isinstance(value, str):
        return to_cell(_anonymous(hosts.get(value, value), hosts))
    if isinstance(value, (bool, list, dict)):
        return json.dumps(_each_text(value, lambda text: _basename(text) or _anonymous(text, hosts)))
    return str(int(value)) if float(value).is_integer() and abs(value) < 2**53 else repr(value)


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {key: _each_text(inner, change) for key, inner in value.items()}
    if isinstance(value, list):
        return [_each_text(inner, change) for inner in value]
    return change(value) if isinstance(value, str) else value


def _anonymous(text: str, hosts: Mapping[str, str]) -> str:
    """The text without absolute paths and host names."""
    text = _ABSOLUTE.sub(lambda match: _basename(match[0]) or match[0], text)
    for name, alias in hosts.items():
        if name in text and name != text:
            text = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", alias, text)
    return text


def _basename(text: str) -> str:
    """The last part of an absolute path; empty for any other text."""
    parts = [part for part in re.split(r"[/\\]", text) if part]
    return parts[-1] if parts and re.match(r"~?/|[A-Za-z]:\\", text) else ""
