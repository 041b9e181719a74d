"""What a network is trained for: a module per task, found by the name that `run.task` has (experiments/config/task.py).

A task's module has `Objective(recipe, num_classes)`, which gives the training loss of (network, images, labels), and
`evaluate(networks, ...)`, which gives the results that the record is to hold.
"""

from experiments.training.tasks import classification

TASKS = {"classification": classification}
