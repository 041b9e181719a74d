"""The run that a weights file belongs to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from experiments.errors import SettingsError
from experiments.records.schema import BrokenRecordError, config_of


def run_config(file: str) -> dict[str, Any] | None:
    """config.json of the run whose weights or checkpoint a file is; None if it belongs to no run.

    Raises:
        SettingsError: if there is a config.json that is broken, or not a run's: the network would be a guess.
    """
    folder = Path(file).resolve().parent
    folder = folder.parent if folder.name == "checkpoints" else folder
    if not os.path.lexists(folder / "config.json"):
        return None
    try:
        return config_of(folder)
    except BrokenRecordError as error:
        raise SettingsError(
            f"beside these weights, in {folder}: {error}; move the weights elsewhere, or set design=... or "
            "model=timm:NAME, and data=..."
        ) from error
