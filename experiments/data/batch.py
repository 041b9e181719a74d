"""A batch of images, as a dataset gives it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

Sample = tuple[int, int]
"""(epoch, index of the image in its collection)."""


class Failure(NamedTuple):
    """An error in a loader worker: torch would pass on the exception, but lose its message."""

    reason: str
    """One line."""
    trace: str


class Erased(NamedTuple):
    """What random erasing replaces in a batch of N x H x W pixels."""

    positions: Tensor
    """(P,), int64: which pixels."""
    values: Tensor
    """(P, 3), float32: their new values, after normalisation."""


class Batch(NamedTuple):
    images: Tensor
    """(N, 3, H, W), uint8."""
    labels: Tensor
    """(N,), int64."""
    samples: list[Sample]
    """Which images these are."""
    broken: list[str] = []  # noqa: RUF012 - a NamedTuple's default, never changed
    """Images that could not be read, and why. In training each is replaced by another; in evaluation it is missing."""
    failure: Failure | None = None
    """Why there is no batch."""
    erased: Erased | None = None
