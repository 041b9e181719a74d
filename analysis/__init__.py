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
    "Runs": "sources.runs",
    "RecordsError": "sources.runs",
    "load": "sources.load",
    "load_wandb": "sources.wandb",
    "Comparison": "statistics.comparison",
    "comparisons": "statistics.comparison",
    "network_table": "statistics.comparison",
    "contrast": "statistics.contrasts",
    "ladder_table": "statistics.ladder",
    "published_ladder": "statistics.ladder",
    "image_noise": "statistics.image_noise",
    "paper_table": "statistics.paper",
    "agreement": "statistics.paper",
    "agreement_table": "statistics.paper",
    "agreement_sentence": "report.findings",
    "headline": "report.findings",
    "effect_table": "statistics.effects",
    "factors": "statistics.factors",
    "join_crossed": "statistics.crossing",
    "across_datasets": "statistics.datasets",
    "noise_concerns": "statistics.diagnostics",
    "shapley_table": "statistics.shapley",
    "interaction_table": "statistics.shapley",
    "shapley_from_orders": "statistics.shapley",
    "tunings": "statistics.tuning",
    "tuned_table": "statistics.tuning",
    "tuned_networks": "statistics.tuning",
    "budget_studies": "statistics.budgets",
    "budget_table": "statistics.budgets",
    "slope_table": "statistics.budgets",
    "scaling_table": "statistics.budgets",
    "cost_table": "statistics.costs",
    "pareto_front": "statistics.costs",
    "latency_table": "statistics.latency",
    **dict.fromkeys(
        [
            *(
                "ladder_figure",
                "paper_figure",
                "beside_paper_figure",
                "effects_figure",
                "besides_figure",
                "factor_figure",
                "datasets_figure",
                "shapley_figure",
                "interactions_figure",
                "tuned_figure",
            ),
            *("pareto_figure", "speed_figure", "road_figure", "learning_curves_figure"),
            *("budgets_figure", "scaling_figure"),
        ],
        "figures",
    ),
    "save": "figures.style",
}
"""By name: the module that has it, which is imported when the name is first asked for."""
__all__ = list(EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in EXPORTS:
        raise AttributeError(f"analysis has no {name!r}; it has {', '.join(EXPORTS)}")
    return getattr(import_module(f"analysis.{EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *EXPORTS])
