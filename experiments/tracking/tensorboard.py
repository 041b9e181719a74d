"""Logs a run to TensorBoard (docs/tracking.md): the epochs of its record, and the loss of single steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.errors import SettingsError
from roadmap.common.bounds import Number, setting

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from experiments.config.run import Run
    from experiments.records.record import Record


@dataclass
class TensorBoard:
    """`logger=tensorboard`: event files in the run's directory. Step losses of an earlier attempt are kept up to the
    step from which this one resumes; epochs are rewritten, since the record has them all."""

    every: int = setting(bounds=Number("[1, 1_000_000]"))
    """Steps between two losses, at least."""

    def __post_init__(self) -> None:
        if find_spec("tensorboard") is None:
            raise SettingsError("logger=tensorboard needs tensorboard: pip install -e '.[tensorboard]'")

    def start(self, run: Run, record: Record, say: Callable[[str], None]) -> None:
        self.record, self.folder = record, run.directory / "tensorboard"
        for earlier in self.folder.glob("events.out.tfevents.*"):
            earlier.unlink()
        self.epochs, self.written = _writer(self.folder, purge_step=0), 0
        self.steps: SummaryWriter | None = None
        self.due = 0

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        number = (epoch - 1) * steps + step
        if self.steps is None:
            self.steps = _writer(self.folder / "steps", purge_step=number)
            self._write_epochs()
        if number >= self.due:
            self.steps.add_scalar("loss", loss, number)
            self.due = number + self.every

    def epoch(self, row: dict[str, float]) -> None:
        self._write_epochs()

    def _write_epochs(self) -> None:
        """Write those of the record that are missing: one, or at first all of an earlier attempt."""
        for row in self.record.epochs[self.written :]:
            for name, value in row.items():
                if name != "epoch":
                    self.epochs.add_scalar(name, value, row["epoch"])
            self.written += 1
        self.epochs.flush()
        if self.steps:
            self.steps.flush()

    def end(self, status: str) -> None:
        self._write_epochs()
        self.epochs.close()
        if self.steps:
            self.steps.close()


def _writer(folder: Path, purge_step: int) -> SummaryWriter:
    """`purge_step`: TensorBoard drops events of this step and of later ones that were written before."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder, purge_step=purge_step)
