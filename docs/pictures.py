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
    study = analysis.comparisons(analysis.load(STUDIES / "fashion_mnist"))[0]
    return {
        "steps.png": analysis.beside_paper_figure(study),
        "interactions.png": analysis.interactions_figure(
            analysis.shapley_table(study), analysis.interaction_table(study)
        ),
    }


if __name__ == "__main__":
    for name, figure in pictures().items():
        analysis.save(figure, FOLDER / name)
