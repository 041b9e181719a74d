"""Figures: each function takes a frame and returns a figure, which Jupyter shows and `analysis.save` writes.

Captions come from the frame's `attrs`, where there are any. No pyplot, no global state.
"""

from analysis.figures.beside_paper import beside_paper_figure
from analysis.figures.budgets import budgets_figure, scaling_figure
from analysis.figures.costs import COSTS, pareto_figure, speed_figure
from analysis.figures.curves import has_curves, learning_curves_figure
from analysis.figures.datasets import datasets_figure
from analysis.figures.effects import besides_figure, effects_figure, shapley_figure
from analysis.figures.factors import factor_figure
from analysis.figures.interactions import interactions_figure
from analysis.figures.ladder import ladder_figure
from analysis.figures.paper import paper_figure
from analysis.figures.road import accuracy_source, road_figure
from analysis.figures.tuning import tuned_figure

__all__ = [
    "COSTS",
    "accuracy_source",
    "beside_paper_figure",
    "besides_figure",
    "budgets_figure",
    "datasets_figure",
    "effects_figure",
    "factor_figure",
    "has_curves",
    "interactions_figure",
    "ladder_figure",
    "learning_curves_figure",
    "paper_figure",
    "pareto_figure",
    "road_figure",
    "scaling_figure",
    "shapley_figure",
    "speed_figure",
    "tuned_figure",
]
