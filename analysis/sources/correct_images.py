"""Which of the evaluation images a run gets right (docs/records.md, correct.json)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from analysis.sources.epochs import Skip
from analysis.sources.rows import TOP1
from roadmap.common.records import BrokenRecordError

FIELDS = ("images", "count", "unread", "correct")

CorrectReader = Callable[[list[str], Skip], Iterable[tuple[str, Any]]]
"""Reads correct.json of the runs at these paths: each path that has one, with its value."""


class Correct(NamedTuple):
    """One bit per image, so that those of ten thousand runs fit in memory."""

    images: str
    """A digest of which images, in which order: equal for runs that were evaluated on the same images."""
    count: int  # type: ignore[assignment]  # hides tuple.count
    unread: tuple[int, ...]
    """The indices of images that could not be read."""
    packed: bytes

    def right(self) -> np.ndarray:
        """(count,), bool: whether the top-1 prediction is right; False for images that could not be read."""
        return np.unpackbits(np.frombuffer(self.packed, np.uint8), count=self.count).astype(bool)


def correct_of(value: Any, run: Mapping[str, Any]) -> Correct:
    """The value of correct.json, checked by itself and against the row of its run.

    Raises:
        BrokenRecordError: if it is malformed, or does not belong to this run's result.
    """
    if not isinstance(value, dict):
        raise BrokenRecordError("is not a JSON object")
    fields: Iterable[Any] = map(value.get, FIELDS)
    images, count, unread, text = fields
    if not isinstance(images, str) or not isinstance(text, str):
        raise BrokenRecordError("'images' or 'correct' is no text")
    if not _are_integers([count]) or not isinstance(unread, list) or not _are_integers(unread):
        raise BrokenRecordError("'count' is no integer, or 'unread' no list of integers")
    read = count - len({index for index in unread if 0 <= index < count})
    if not read or read != run["evaluation_images"] or len(text) != 2 * -(-count // 8):
        raise BrokenRecordError(f"is not of {run['evaluation_images']:.0f} evaluation images")
    try:
        correct = Correct(images, count, tuple(unread), bytes.fromhex(text))
    except ValueError:
        raise BrokenRecordError("'correct' is not in hexadecimal") from None
    top1 = 100 * correct.right().sum() / read
    if not math.isclose(top1, run[TOP1], abs_tol=1e-6):
        raise BrokenRecordError(f"has {top1:.2f} % of the images right, and top1 is {run[TOP1]:.2f}")
    return correct


def _are_integers(values: list[Any]) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)
