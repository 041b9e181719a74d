"""The run whose weights are exported: found and checked without torch, then read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.config.initial_weights import Init, find_init
from experiments.config.task import CLASSIFICATION
from experiments.errors import SettingsError
from experiments.records.of_weights import run_config
from experiments.records.schema import BrokenRecordError, summary_of

WEIGHTS = "weights.pt"


@dataclass(frozen=True)
class RunToExport:
    """A run's record, and where its weights are."""

    directory: Path
    weights: Init
    averaged: bool
    """Whether the weights are the moving average."""
    config: dict[str, Any]
    summary: dict[str, Any] | None
    """None if the run has none: its results are unknown then."""


def find_run(directory: Path, averaged: bool) -> RunToExport:
    """The run of a directory, with its last weights or their moving average.

    Raises:
        SettingsError: if there are no such weights with a record beside them, or it is broken.
    """
    if not directory.is_dir():
        raise SettingsError(f"{directory} is not a run's directory; name one, like runs/nano-gelu-seed0-9787d50f")
    file = directory / ("weights_ema.pt" if averaged else WEIGHTS)
    if file.is_symlink():  # the record beside a link need not be that of its weights
        raise SettingsError(f"{file} is a link; export the run that it leads to")
    if averaged and not file.is_file():
        raise SettingsError(f"{directory} has no weights_ema.pt: its recipe keeps no moving average; leave out --ema")
    weights = find_init(str(file if averaged else directory))
    assert weights is not None
    config = run_config(str(file))
    if config is None:
        raise SettingsError(f"{directory} has no config.json, which says which network its weights are of")
    summary = _summary(directory)
    if (task := (summary or {}).get("task")) not in (None, CLASSIFICATION.name):
        raise SettingsError(f"{directory} was trained for {task}; only {CLASSIFICATION.name} can be exported")
    return RunToExport(directory, weights, averaged, config, summary)


def _summary(directory: Path) -> dict[str, Any] | None:
    if not os.path.lexists(directory / "summary.json"):
        return None
    try:
        return summary_of(directory)
    except BrokenRecordError as error:
        raise SettingsError(f"{directory}: {error}; without the file, the run is exported without results") from error
