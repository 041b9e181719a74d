"""Runs as frames: one row per run and one row per epoch, the same wherever they were loaded from."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.sources import saved
from analysis.sources.correct_images import Correct, CorrectReader, correct_of
from analysis.sources.epochs import Skip
from analysis.sources.latency import latency_frame
from analysis.sources.rows import epoch_frame
from roadmap.common.files import printable
from roadmap.common.records import BrokenRecordError
from roadmap.common.statuses import Status

EpochReader = Callable[[list[str], Skip], Iterable[tuple[str, np.ndarray]]]
"""Reads the epochs of the runs at these paths: each path with its values, as in `epochs.Epochs`."""


class RecordsError(ValueError):
    """There is nothing to analyse. The message is one line: what, where, and what to do."""


@dataclass(eq=False)
class Runs:
    """Runs as frames, the same wherever they were loaded from."""

    runs: pd.DataFrame
    """One row per run, finished or not; docs/analysis.md has the columns.

    `path` is its key: the directory, or "entity/project/id" at W&B. `left_out` is "" for a run that counts in means,
    else why it does not: "queued", "running", "unfinished", "stopped", "diverged", "failed", or "copy" (of a run with
    the same series and seed: `rows.left_out`). Numbers are int64 or float64, texts str or None; `steps`, `differs`,
    `design`, `recipe`, `data`, `init`, `versions`, `git`, `look` and `tuning` are the record's own lists and mappings,
    not to be changed.
    """
    latency: pd.DataFrame = field(default_factory=latency_frame)
    """One row per network, setting, mode and batch size whose speed was measured; docs/latency.md has the columns."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """What could not be read: where, and why in one line."""
    readers: dict[str, EpochReader] = field(default_factory=dict, repr=False)
    """By path, the reader of a run's epochs."""
    correct_readers: dict[str, CorrectReader] = field(default_factory=dict, repr=False)
    """By path, the reader of which evaluation images a run gets right."""

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """One row per epoch, in the order of `runs`, read when first used. What is broken is added to `skipped`.

        `path` (categorical, of the paths in `runs`) and `epoch` (from 1) are its key; `lr`, `train_loss`, `val_loss`,
        `top1`, `top5` (percent), `ema_val_loss`, `ema_top1`, `ema_top5`, `images_per_second`, `seconds`.
        """
        paths = self.runs["path"].tolist()
        epochs: dict[str, np.ndarray] = {}
        for read in dict.fromkeys(self.readers.values()):
            epochs |= read([path for path in paths if self.readers.get(path) == read], noting(self.skipped))
        return epoch_frame({path: epochs[path] for path in paths if path in epochs})

    @cached_property
    def correct(self) -> dict[str, Correct]:
        """By path, which evaluation images a run that is done gets right, if its record says so; read when first used.
        What is broken is added to `skipped`."""
        skip, correct = noting(self.skipped), {}
        done = self.runs[self.runs["status"] == "done"].set_index("path")[["evaluation_images", "top1"]]
        rows = done.to_dict("index")
        for read in dict.fromkeys(self.correct_readers.values()):
            for path, value in read([path for path in rows if self.correct_readers.get(path) == read], skip):
                try:
                    correct[path] = correct_of(value, rows[path])
                except BrokenRecordError as error:
                    skip(path, f"which images it gets right is unknown: that record {error}")
        return correct

    @property
    def counted(self) -> pd.DataFrame:
        """The rows of `runs` that count in means."""
        return self.runs[self.runs["left_out"] == ""]

    @property
    def left_out_note(self) -> str:
        """Such as "12 of 63 runs are left out: 7 unfinished, 3 diverged, 2 copies of others"; empty if none is."""
        counts = Counter(self.runs["left_out"])
        total = len(self.runs) - counts.pop("", 0)
        if not total:
            return ""
        parts = [f"{counts[status]} {status}" for status in Status if counts[status]]
        if copies := counts["copy"]:
            parts.append("1 copy of another" if copies == 1 else f"{copies} copies of others")
        return f"{total} of {len(self.runs)} runs {'is' if total == 1 else 'are'} left out: {', '.join(parts)}"

    def save(self, folder: str | Path) -> None:
        """Write runs.csv, epochs.csv, roads.json and, if any record has it, correct.csv; measured speeds: latency.csv.
        `load` reads them to the same frames except for `path` and `host`: no machine's name and no paths are written.

        Raises:
            OSError: if the folder cannot be written.
        """
        saved.write(self.runs, self.epochs, self.correct, self.latency, os.fspath(folder))


def noting(skipped: list[tuple[str, str]]) -> Skip:
    """A function that adds to `Runs.skipped`, as text without control characters."""
    return lambda path, why: skipped.append((printable(path), printable(why)))
