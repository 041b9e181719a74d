"""Imported once by the server that a study's runs are forked from: what each run would otherwise take seconds for.

Importing torch and timm takes seconds, and so does the first count of a network. Nothing here starts a thread.
"""

import torch

import experiments.launch.worker  # noqa: F401
from experiments.data.readers.sample import load_sample
from roadmap.costs import cost
from roadmap.designs import Design

torch.set_num_threads(1)
cost(Design(width=1, depths=(1, 1, 1, 1)), resolution=32, num_classes=1)
load_sample()
