"""The statuses of a run, as in its summary.json (docs/records.md)."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """The status of a run. A member is its own text."""

    QUEUED = "queued"
    """It is in a cluster's queue."""
    RUNNING = "running"
    """It is being trained, unless its process was killed, which its lock shows."""
    UNFINISHED = "unfinished"
    """It was interrupted, and resumes from its last checkpoint when it is launched again."""
    STOPPED = "stopped"
    """It was ended early, since its study has runs that are better at the same epoch by more than `stop_below`."""
    DIVERGED = "diverged"
    FAILED = "failed"
    DONE = "done"


ENDED_BADLY = (Status.FAILED, Status.DIVERGED)
