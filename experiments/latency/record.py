"""What is measured, and its record: a directory like a run's (docs/records.md), with times in place of accuracies.

Imports no torch, so that a command knows at once what is left to measure.
"""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from experiments.config.run import Run
from experiments.records.record import git_state, pretty, versions
from roadmap.common.files import read_object, write
from roadmap.common.records import CONFIG, LATENCY, MODES, SUMMARY
from roadmap.common.statuses import Status

INFERENCE, TRAINING = MODES
MEMORY_FORMATS = ("channels_last", "contiguous")


class Timing(NamedTuple):
    """What is timed of a network."""

    mode: str
    """One of MODES."""
    batch: int
    """Images per pass."""

    def __str__(self) -> str:
        return f"{self.mode}, batch {self.batch}"


class Measured(NamedTuple):
    """The times of one timing."""

    started: str
    """When the call began that measured them: those of one call were measured in turns."""
    ms: list[float]
    """Milliseconds of a pass, one number per round."""
    busy: bool
    """Whether other processes kept the machine busy when that call began, or continued."""


@dataclass(frozen=True, eq=False)
class Case:
    """A network in one setting, of which a record is kept. There is one object of each identity."""

    run: Run
    """Its network, recipe, resolution, precision, and whether it is compiled."""
    classes: int
    memory_format: str
    """One of MEMORY_FORMATS."""
    device: str
    """`cpu`, or the GPU's name."""
    processor: str
    """The CPU's name."""
    threads: int

    @cached_property
    def identity(self) -> str:
        """What decides the speed. Of the recipe, what decides the work of a step."""
        run = self.run
        recipe = replace(run.recipe, name="", epochs=1, lr=0.0, min_lr=0.0, warmup="0", milestones=[])
        decisive: dict[str, Any] = {
            **{"model": run.model, "design": run.design.to_json(), "code": run.code, "recipe": asdict(recipe)},
            **{"resolution": run.resolution, "classes": self.classes, "precision": run.precision},
            **{"compile": run.compile, "gradient_checkpointing": run.gradient_checkpointing},
            **{"memory_format": self.memory_format, "device": self.device, "processor": self.processor},
            **{"threads": self.threads, "torch": versions()["torch"]},
        }
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    @property
    def directory(self) -> Path:
        name = f"{LATENCY}-{self.run.regime}-{self.run.label_in_names}-{self.identity[:12]}"
        return self.run.runs / name

    def to_json(self) -> dict[str, Any]:
        """config.json: a run's, and the setting."""
        setting = {"memory_format": self.memory_format, "compile": self.run.compile}
        return self.run.to_json() | setting | {"gradient_checkpointing": self.run.gradient_checkpointing}


class Recorded(NamedTuple):
    """What a case's record has. While something is measured again, it has both."""

    complete: dict[Timing, Measured]
    partial: dict[Timing, Measured]
    """The rounds of a call that has not ended, or was interrupted."""

    def to_json(self) -> list[dict[str, Any]]:
        """The measurements of summary.json."""
        return [
            {**timing._asdict(), **measured[timing]._asdict(), "complete": measured is self.complete}
            for measured in self
            for timing in sorted(measured)
        ]


def recorded(case: Case) -> Recorded:
    """What was measured of a case; nothing if its record is missing, broken or another one's."""
    summary = read_object(case.directory / SUMMARY) or {}
    if summary.get("identity") != case.identity:
        return Recorded({}, {})
    is_ended = summary.get("status") in (Status.DONE, Status.FAILED)
    complete: dict[Timing, Measured] = {}
    partial: dict[Timing, Measured] = {}
    try:
        for row in summary["measurements"]:
            measured = complete if row.get("complete", is_ended) else partial
            timing = Timing(str(row["mode"]), int(row["batch"]))
            busy = bool(row.get("busy", summary.get("busy")))
            measured[timing] = Measured(str(row["started"]), [float(ms) for ms in row["ms"]], busy)
    except (AttributeError, KeyError, TypeError, ValueError):
        return Recorded({}, {})
    return Recorded(complete, partial)


def write_record(case: Case, measured: Recorded, status: str, reason: str | None = None, **facts: Any) -> None:
    """Replace a case's record.

    Raises:
        OSError: if it cannot be written.
    """
    summary = {
        "status": status,
        "reason": reason,
        "identity": case.identity,
        "task": LATENCY,
        "measurements": measured.to_json(),
        "busy": any(times.busy for part in measured for times in part.values()),
        "classes": case.classes,
        "device": case.device,
        "processor": case.processor,
        "threads": case.threads,
        "host": platform.node(),
        "versions": versions(),
        "git": git_state(),
        **facts,
    }
    case.directory.mkdir(parents=True, exist_ok=True)
    write(case.directory / CONFIG, pretty(case.to_json()))
    write(case.directory / SUMMARY, pretty(summary))
