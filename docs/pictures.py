"""The pictures of what was found, drawn from the studies in analysis/studies/ alone: `python -m docs.pictures`."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

import analysis

MATPLOTLIB = "3.11"
"""The version that drew them; each draws letters a little differently."""
FOLDER = Path(__file__).parent
STUDIES = Path(analysis.__file__).with_name("studies")


def pictures() -> dict[str, Figure]:
    """By file name in docs/."""
    natural, budgets, combinations = (
        analysis.comparisons(analysis.load(STUDIES / name)) for name in ("tiny_imagenet", "budget", "fashion_mnist")
    )
    speeds = analysis.latency_table(analysis.load(STUDIES / "latency"))
    values = analysis.shapley_table(combinations[0]), analysis.interaction_table(combinations[0])
    return {
        "steps.png": analysis.beside_paper_figure(natural[0]),
        "epochs.png": analysis.budgets_figure(analysis.budget_studies(budgets)[0]),
        "interactions.png": analysis.interactions_figure(*values),
        "road.png": analysis.road_figure(speeds[speeds["regime"] == "resnet50"]),
    }


if __name__ == "__main__":
    for name, figure in pictures().items():
        analysis.save(figure, FOLDER / name)
