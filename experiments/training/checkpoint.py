"""Checkpoints: what a run needs to resume as if it had never stopped.

Written atomically, so that a crash leaves the previous one; loaded without unpickling.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.config.run import Run
from experiments.errors import SettingsError
from experiments.runtime.processes import Processes
from experiments.training.tensors import UnreadableError, load, save

State = dict[str, Any]
"""Tensors, numbers, strings, and lists and dicts of them."""

KEPT = 2
"""The newest, and the previous one in case the newest is damaged."""


class Checkpoints:
    """The checkpoints of a run, `checkpoints/step-00000312.pt` in its directory: the first process writes them, all
    processes read them. One is written at the end of every epoch, every `checkpoint_minutes` within one, and when a run
    is stopped. The last two are kept until the run is done; with keep=all, all are kept for good."""

    def __init__(self, run: Run, say: Callable[[str], None], processes: Processes) -> None:
        self.folder = run.directory / "checkpoints"
        self.identity, self.design = run.identity, run.to_json()["design"]
        self.seconds, self.keep = 60 * run.checkpoint_minutes, run.keep
        self.say, self.processes = say, processes
        self.written = time.monotonic()

    def due(self) -> bool:
        return self.processes.is_first and time.monotonic() - self.written >= self.seconds

    def save(self, step: int, state: State) -> None:
        """Write the checkpoint of `step` optimizer steps, and remove those that need not be kept."""
        if not self.processes.is_first:
            return
        self.folder.mkdir(exist_ok=True)
        for unfinished in self.folder.glob(".step-*"):  # left by a process that was killed
            unfinished.unlink()
        save({"identity": self.identity, "design": self.design, "step": step, **state}, self._path(step))
        for old in self._paths()[KEPT:] if self.keep == "last" else []:
            old.unlink()
        self.written = time.monotonic()

    def load(self) -> State | None:
        """The newest undamaged checkpoint, or None if there is none. Damaged ones are reported.

        Raises:
            SettingsError: if a checkpoint is another run's, or not all processes see it.
        """
        state = self._load(self._paths()) if self.processes.is_first else None
        newest = self.processes.broadcast_from_first(state and state["step"])
        if newest is None:
            return None
        if not self.processes.is_first:
            state = self._load([self._path(newest)])
        if blind := self.processes.gather_names([] if state else [str(self.processes.rank)]):
            raise SettingsError(
                f"process {', '.join(sorted(blind))} does not see {self._path(newest)}, which the first resumes from; "
                "runs=... must be a folder that all of a run's processes share"
            )
        return state

    def _load(self, paths: list[Path]) -> State | None:
        for path in paths:
            try:
                state = _checked(load(path))
            except UnreadableError as error:
                self.say(f"{path} is damaged and skipped: {error}; trying the previous one")
                continue
            if state["identity"] != self.identity:
                raise SettingsError(f"{path} is of another run{self._difference(state)}; move it away to start afresh")
            return state
        return None

    def clear(self) -> None:
        """The run is done: remove its checkpoints, unless they are to be kept."""
        if self.keep != "all" and self.processes.is_first:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.pt"

    def _paths(self) -> list[Path]:
        """Newest first."""
        return sorted((p for p in self.folder.glob("step-*.pt") if re.fullmatch(r"step-\d+", p.stem)), reverse=True)

    def _difference(self, state: State) -> str:
        design = state["design"]
        return "".join(
            f", {name} {design.get(name)} there and {value} here"
            for name, value in self.design.items()
            if design.get(name) != value
        )


def _checked(state: Any) -> State:
    """A checkpoint file's content, as far as it can be checked without the network.

    Raises:
        UnreadableError: if something is missing.
    """
    kinds = {"identity": str, "design": dict, "step": int, "images": str, "network": dict, "epochs": list}
    for name, kind in kinds.items():
        if not isinstance(state, dict) or not isinstance(state.get(name), kind):
            raise UnreadableError(f"its {name} is missing or not of type {kind.__name__}")
    return state
