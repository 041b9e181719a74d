"""What the runs are doing, told from their records alone: `python -m experiments.status`. No torch, nothing of ours."""
