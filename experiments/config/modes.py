"""Modes of a study, which make several runs of each of its networks: `budgets=` and `subsets=`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from omegaconf import DictConfig

from experiments.config.overrides import Overrides, refuse_set, without_seed
from experiments.errors import SettingsError


def in_budgets(
    jobs: Sequence[Overrides], config: DictConfig, compose: Callable[[Overrides], DictConfig]
) -> list[Overrides]:
    """The jobs, each with every budget of `config`: the cheapest first. Without budgets, the same.

    `config` is the multirun's own, of which the jobs are variations.

    Raises:
        SettingsError: if the budgets contradict other settings, or are no whole number of epochs.
    """
    if config.budgets and config.subsets:
        raise SettingsError("budgets and subsets are two ways to vary the training; take one of them")
    if config.budgets:
        refuse_set(jobs, "budgets", ("recipe.epochs",))
        return [[*job, f"recipe.epochs={epochs}"] for epochs in sorted({*config.budgets}) for job in jobs]
    if config.subsets:
        refuse_set(jobs, "subsets", ("data.subset",))
        epochs_of: dict[Overrides, int] = {}
        for job in jobs:
            if (network := without_seed(job)) not in epochs_of:
                epochs_of[network] = compose(network).recipe.epochs
        subsets = sorted({*config.subsets})
        return [
            [*job, f"data.subset={subset}", f"recipe.epochs={_epochs(epochs_of[without_seed(job)], subset)}"]
            for subset in subsets
            for job in jobs
        ]
    return [*jobs]


def _epochs(epochs: int, subset: float) -> int:
    """So many that the number of updates is about that of `epochs` on all images."""
    count = round(epochs / subset)
    if abs(count * subset / epochs - 1) > 0.01:
        raise SettingsError(
            f"subsets: {epochs} epochs on all images are {epochs / subset:.3g} on {subset:g} of them, which is no "
            "whole number; take parts like 0.5 and 0.25"
        )
    return count
