"""What do the runs mean? From run records to tables, figures and a report.

    records -> frames -> tables -> figures -> report

    >>> import analysis
    >>> ladder = analysis.ladder_table(analysis.comparisons(analysis.load("runs"))[0])
    >>> analysis.save(analysis.ladder_figure(ladder), "ladder.pdf")

Nothing here imports torch or `experiments`: a record is plain files, so a report opens in a second on a laptop.
`analysis/ladder.ipynb` is a tour; docs/analysis.md says what the numbers are.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

EXPORTS = {
    "Runs": "records",
    "RecordsError": "records",
    "load": "records",
    "load_wandb": "tracked",
    "Comparison": "comparison",
    "comparisons": "comparison",
    "network_table": "comparison",
    "contrast": "contrasts",
    "ladder_table": "ladder",
    "published_ladder": "ladder",
    "image_noise": "images",
    "paper_table": "paper",
    "agreement": "paper",
    "agreement_table": "paper",
    "agreement_sentence": "story",
    "headline": "story",
    "effect_table": "effects",
    "noise_concerns": "diagnostics",
    "shapley_table": "shapley",
    "interaction_table": "shapley",
    "shapley_from_orders": "shapley",
    "cost_table": "costs",
    "pareto_front": "costs",
    **dict.fromkeys(
        [
            *(
                "ladder_figure",
                "paper_figure",
                "effects_figure",
                "besides_figure",
                "shapley_figure",
                "interactions_figure",
            ),
            *("pareto_figure", "speed_figure", "learning_curves_figure"),
        ],
        "figures",
    ),
    "save": "style",
}
"""By name: the module that has it, which is imported when the name is first asked for."""
__all__ = list(EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in EXPORTS:
        raise AttributeError(f"analysis has no {name!r}; it has {', '.join(EXPORTS)}")
    return getattr(import_module(f"analysis.{EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *EXPORTS])
