"""Runs in two files: `runs.csv`, a row a run with nested values as JSON, and `epochs.csv`, a row an epoch."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.epochs import EPOCH_COLUMNS, MEASURES, Histories, history_frame
from analysis.jsons import BrokenRecordError, one_line, parse

if TYPE_CHECKING:
    from analysis.records import Runs, Skipped

EPOCHS_TABLE = "epochs.csv"
BOOLEANS = ("sync_batch_norm",)
LOCAL = ("host", "gpus", "left_out")
"""Columns that say where a run was rather than what it is, or that follow from the others."""


def write(runs: Runs, folder: Path) -> None:
    """Write both files. Of `path` only the directory's name is kept: a reader has them elsewhere.

    Raises:
        ValueError: if two of the runs have the same name, so that their epochs could not be told apart.
    """
    from analysis.records import NESTED, TABLE

    frame = runs.runs.drop(columns=[*LOCAL, "path"])
    if not frame["name"].is_unique:
        twice = frame["name"][frame["name"].duplicated()].iloc[0]
        raise ValueError(f"two runs are named {twice}; save the runs of one folder, or the counted ones")
    frame["data"] = [data | {"path": None} if "path" in data else data for data in frame["data"]]
    for name in (*NESTED, *BOOLEANS):
        frame[name] = [None if value is None else json.dumps(value) for value in frame[name]]
    epochs = runs.epochs.rename(columns={"path": "name"})
    epochs["name"] = epochs["name"].cat.rename_categories(frame["name"].tolist())
    folder.mkdir(parents=True, exist_ok=True)
    frame.sort_values("name").to_csv(folder / TABLE, index=False)
    epochs.dropna(axis="columns", how="all").sort_values(["name", "epoch"]).to_csv(folder / EPOCHS_TABLE, index=False)


def read(tables: list[str], skipped: Skipped) -> tuple[list[dict[str, Any]], Histories]:
    """The rows of the `runs.csv` given, and how their epochs are read from the `epochs.csv` beside each."""
    from analysis.records import run_row

    rows = []
    for table in tables:
        try:
            with open(table, encoding="utf-8", newline="") as file:
                lines = list(csv.DictReader(file, strict=True))
        except (OSError, ValueError, csv.Error) as error:
            skipped.append((table, f"cannot be read ({one_line(error)})"))
            continue
        if not lines or "name" not in lines[0] or "recipe" not in lines[0]:
            skipped.append((table, "is no table of runs that analysis wrote"))
            continue
        for number, line in enumerate(lines, 2):
            place = os.path.join(os.path.dirname(table), line["name"] or "")
            try:
                values = {key: _value(key, text) for key, text in line.items()}
                rows.append(run_row(place, line["name"], values, values))
            except (BrokenRecordError, ValueError, TypeError) as error:
                skipped.append((table, f"line {number}: {one_line(error)}"))
    return rows, _histories


def _value(key: str | None, text: str | None) -> Any:
    from analysis.records import NESTED, NUMBERS

    if not text or key is None:
        return None
    return parse(text) if key in (*NESTED, *BOOLEANS, *NUMBERS) else text


def _histories(paths: list[str], skipped: Skipped) -> pd.DataFrame:
    frames = []
    for folder in dict.fromkeys(map(os.path.dirname, paths)):
        file = os.path.join(folder, EPOCHS_TABLE)
        try:
            frame = pd.read_csv(file, dtype={"name": str}, float_precision="round_trip")
            frame["path"] = [os.path.join(folder, name) for name in frame.pop("name")]
            frames.append(frame.reindex(columns=EPOCH_COLUMNS).astype(dict.fromkeys(("epoch", *MEASURES), float)))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError) as error:
            skipped.append((file, f"is no table of epochs ({one_line(error)})"))
    groups = dict(iter(pd.concat(frames).groupby("path", sort=False))) if frames else {}
    empty = pd.DataFrame(columns=EPOCH_COLUMNS)
    arrays = [groups.get(path, empty).drop(columns="path").to_numpy(float) for path in paths]
    return history_frame(paths, arrays)
