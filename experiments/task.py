"""What a network is trained for: its loss, how it is evaluated, and what its results are called in the run record.

The loop, the record and the log speak of a run's task and nowhere of accuracy. Torch is imported where a network is at
hand, since launchers and records need the names alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from experiments.settings import Recipe


class Classification:
    """Each image is of one class."""

    name = "classification"
    results = ("val_loss", "top1", "top5")
    """What `evaluate` finds, by the names of the record; `ema_` before one is of the averaged weights."""
    metric = "top1"
    """The result that runs are compared by: the larger, the better."""

    def objective(self, recipe: Recipe, num_classes: int) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
        """What gives the training loss of (network, images, labels)."""
        from experiments.recipe import Objective

        return Objective(recipe, num_classes)

    def evaluate(self, *arguments: Any) -> list[dict[str, float]]:
        """Of each network the results, and on how many `images`: see `experiments.evaluation.evaluate`."""
        from experiments.evaluation import evaluate

        return evaluate(*arguments)

    def describe(self, results: Mapping[str, float]) -> str:
        """The metric for a person."""
        return f"top-1 {results['top1']:.2f} %"

    def describe_epoch(self, row: Mapping[str, float]) -> str:
        """A row of epochs.jsonl as a line of log.txt."""
        average = f" ({row['ema_top1']:.2f} % the averaged weights)" if "ema_top1" in row else ""
        return (
            f"epoch {row['epoch']}: {self.describe(row)}{average}, loss {row['train_loss']:.4f} in training, "
            f"{row['val_loss']:.4f} in evaluation; {row['images_per_second']:.0f} images/s, {row['seconds']:.1f} s"
        )


CLASSIFICATION = Classification()
