"""The statuses of a run, as its summary.json says (docs/records.md): for those that train, and those that read."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """What has become of a run. A member is its own text."""

    QUEUED = "queued"
    """A cluster has it in its queue."""
    RUNNING = "running"
    """It is being trained, unless its process was killed: its lock tells."""
    UNFINISHED = "unfinished"
    """It was stopped, and resumes from its last checkpoint when it is launched again."""
    DIVERGED = "diverged"
    FAILED = "failed"
    DONE = "done"


ENDED_BADLY = (Status.FAILED, Status.DIVERGED)
