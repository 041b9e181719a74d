"""What the runs are doing, according to their records alone: `python -m experiments.status`. Imports no torch."""
