"""What the numbers of a run are called, and what they are counted in: the one table of words for them."""

from __future__ import annotations

from typing import NamedTuple


class Measure(NamedTuple):
    name: str
    """In a sentence, on an axis, at the head of a table's column."""
    unit: str
    """Of a difference of two."""
    short: str = ""
    """Where there is little room; `name` if it is short itself."""

    @property
    def head(self) -> str:
        """Of a column: "top-1 (%)"."""
        return f"{self.short or self.name}{self.percent}"

    @property
    def axis(self) -> str:
        """Of an axis: "top-1 accuracy (%)"."""
        return f"{self.name}{self.percent}"

    @property
    def percent(self) -> str:
        return " (%)" if self.unit == POINTS else ""


POINTS = "points"
VERDICTS = ("up", "down")
"""Of what is shown; all other verdicts say why it is not."""
MEASURES = {
    "top1": Measure("top-1 accuracy", POINTS, "top-1"),
    "top5": Measure("top-5 accuracy", POINTS, "top-5"),
    "ema_top1": Measure("top-1 accuracy of averaged weights", POINTS),
    "ema_top5": Measure("top-5 accuracy of averaged weights", POINTS),
    "box_ap": Measure("box AP", POINTS),
    "mask_ap": Measure("mask AP", POINTS),
    "val_loss": Measure("evaluation loss", ""),
    "train_loss": Measure("training loss", ""),
    "macs": Measure("multiply-adds", "multiply-adds", "MACs"),
    "params": Measure("parameters", "parameters", "params"),
    "activations": Measure("activations", "values"),
    "images_per_second": Measure("training throughput", "images/s"),
    "peak_memory_mb": Measure("peak memory", "MB"),
    "train_seconds": Measure("training time", "s"),
    "wall_seconds": Measure("wall-clock time", "s"),
}


def measure(column: str) -> Measure:
    """Of a metric, or of another number of a run, in words; a metric that we have no words for has its own name."""
    return MEASURES.get(column, Measure(column, ""))
