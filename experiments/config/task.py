"""The task that a network is trained for, as its record describes it: the names of its results, and how they are read.

The loss and the evaluation of each task are in experiments/training/tasks/, which needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping


class Classification:
    """Each image is of one class."""

    name = "classification"
    results = ("val_loss", "top1", "top5")
    """Names of the results of an evaluation in the record; with the prefix `ema_`, of the averaged weights."""
    metric = "top1"
    """The result by which runs are compared: the larger, the better."""

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
