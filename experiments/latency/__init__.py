"""How fast networks are, without training them: `python -m experiments.latency`."""
