"""The names and units of the numbers of a run, for all texts, tables and figures."""

from __future__ import annotations

from typing import NamedTuple


class Measure(NamedTuple):
    name: str
    """The name in a sentence, on an axis, or as a table's heading."""
    unit: str
    """The unit of a difference between two values."""
    short: str = ""
    """A name for where there is little room; empty if `name` is short."""

    @property
    def head(self) -> str:
        """A column's heading: "top-1 (%)"."""
        return f"{self.short or self.name}{self.percent}"

    @property
    def axis(self) -> str:
        """An axis label: "top-1 accuracy (%)"."""
        return f"{self.name}{self.percent}"

    @property
    def percent(self) -> str:
        return " (%)" if self.unit == POINTS else ""


POINTS = "points"
VERDICTS = ("up", "down")
"""The verdicts on changes that are shown; all others say why a change is not."""
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
    """The name and unit of a metric or another number of a run; an unknown one has its column's name."""
    return MEASURES.get(column, Measure(column, ""))
