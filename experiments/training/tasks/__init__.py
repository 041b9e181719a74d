"""What a network is trained for: one module per task, by the name of `run.task` (experiments/config/task.py).

A task's module has `Objective(recipe, num_classes)`, the training loss as a function of (network, images, labels), and
`evaluate(networks, ...)`, which returns the results that are recorded.
"""

from typing import Any

from experiments.training.tasks import classification

TASKS: dict[str, Any] = {"classification": classification}
