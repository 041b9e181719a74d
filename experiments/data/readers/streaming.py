"""What streams have in common."""

from __future__ import annotations

from typing import Any

from experiments.errors import SettingsError

BUFFER = 4096
"""Images, still encoded, from which the next one is drawn in training."""


def label_of(value: Any, classes: int, name: str) -> int:
    """The label of an image called `name`.

    Raises:
        SettingsError: if it is none of the classes.
    """
    try:
        label = int(value)
    except (TypeError, ValueError):
        label = -1
    if not 0 <= label < classes:
        raise SettingsError(f"the label of {name} is {value!r}: not a class from 0 to {classes - 1}")
    return label
