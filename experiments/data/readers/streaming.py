"""What the streaming readers have in common."""

from __future__ import annotations

from typing import Any

from experiments.errors import SettingsError

BUFFER = 4096
"""The number of images, still encoded, from which the next one is drawn in training."""


def label_of(value: Any, classes: int, name: str) -> int:
    """The label of the image `name`.

    Raises:
        SettingsError: if it is not one of the classes.
    """
    try:
        label = int(value)
    except (TypeError, ValueError):
        label = -1
    if not 0 <= label < classes:
        raise SettingsError(f"the label of {name} is {value!r}: not a class from 0 to {classes - 1}")
    return label
