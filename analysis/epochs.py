"""Epochs as a frame: millions of rows in seconds, without a Python object a row that outlives its file."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd

from analysis.jsons import one_line, parse

EPOCHS = "epochs.jsonl"
MEASURES = (
    *("lr", "train_loss", "val_loss", "top1", "top5", "images_per_second", "seconds"),
    *("ema_val_loss", "ema_top1", "ema_top5"),
)
EPOCH_COLUMNS = ("path", "epoch", *MEASURES)
ALWAYS = ("epoch", "lr", "train_loss", "val_loss", "top1", "top5", "images_per_second", "seconds")
"""That every epoch has. The others are those of recipes that keep an average of the weights."""

Histories = Callable[[list[str], list[tuple[str, str]]], pd.DataFrame]
"""From the paths of runs to the frame of their epochs; what is broken is added to the list."""


def read_histories(paths: list[str], skipped: list[tuple[str, str]]) -> pd.DataFrame:
    """The epochs of run directories. Of a file that breaks off, the epochs before are kept, and the file is named."""
    return history_frame(paths, [_read(os.path.join(path, EPOCHS), skipped) for path in paths])


def history_frame(paths: list[str], histories: Sequence[np.ndarray]) -> pd.DataFrame:
    """A frame from an array a run, a row an epoch and a column each of `epoch` and MEASURES.

    `path` is categorical over all runs: three million references to ten thousand texts fit a laptop.
    """
    width = 1 + len(MEASURES)
    values = np.concatenate([np.empty((0, width)), *histories])
    codes = np.repeat(np.arange(len(paths), dtype=np.int32), [len(one) for one in histories])
    frame = pd.DataFrame(values, columns=["epoch", *MEASURES], copy=False)
    frame.insert(0, "path", pd.Categorical.from_codes(codes, categories=pd.Index(paths, dtype=object)))
    frame["epoch"] = frame["epoch"].astype(int)
    return frame


def history(rows: list[dict[str, Any]]) -> np.ndarray:
    """An array of a run's epochs in their order; of an epoch that is there twice, the later.

    Raises:
        ValueError, TypeError, AttributeError: if a row is no epoch.
    """
    out = np.full((len(rows), 1 + len(MEASURES)), np.nan)
    try:
        values = chain.from_iterable(map(itemgetter(*ALWAYS), rows))
        out[:, : len(ALWAYS)] = np.fromiter(values, float, len(rows) * len(ALWAYS)).reshape(-1, len(ALWAYS))
    except (KeyError, TypeError, ValueError):  # a measure is missing or null: slower, a row at a time
        out[:, : len(ALWAYS)] = [[_number(row.get(name)) for name in ALWAYS] for row in rows]
    if rows and "ema_top1" in rows[-1]:
        names = MEASURES[len(ALWAYS) - 1 :]
        out[:, len(ALWAYS) :] = [[_number(row.get(name)) for name in names] for row in rows]
    if np.isnan(out[:, 0]).any():
        raise ValueError("a line without an epoch")
    if (np.diff(out[:, 0]) <= 0).any():
        _, last = np.unique(out[::-1, 0], return_index=True)
        out = out[len(out) - 1 - last]
    return out


def epoch_frame(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The epochs of several frames, over the runs of all of them."""
    paths = [path for frame in frames for path in frame["path"].cat.categories]
    values = [frame.drop(columns="path").to_numpy(float) for frame in frames]
    counts = [frame["path"].value_counts(sort=False).to_numpy() for frame in frames]
    return history_frame(paths, np.split(np.concatenate(values), np.cumsum(np.concatenate(counts))[:-1]))


def _read(path: str, skipped: list[tuple[str, str]]) -> np.ndarray:
    try:
        with open(path, "rb") as file:
            text = file.read()
    except FileNotFoundError:
        text = b""
    except OSError as error:
        skipped.append((path, f"cannot be read ({one_line(error)})"))
        text = b""
    try:
        return history(parse(b"[" + text.rstrip().replace(b"\n", b",") + b"]"))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return _sound(path, text, skipped)


def _sound(path: str, text: bytes, skipped: list[tuple[str, str]]) -> np.ndarray:
    """The epochs before the first line that is none."""
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(filter(None, text.split(b"\n")), 1):
        try:
            row = parse(line)
            history([row])
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            kept = f"; the {len(rows)} before it are kept" if rows else ""
            skipped.append((path, f"line {number} is no epoch ({one_line(error)}){kept}"))
            break
        rows.append(row)
    return history(rows)


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)
