"""What a study, or a run, would cost: time, memory and disk, without training. `python -m experiments.plan`."""
