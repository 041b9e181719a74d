"""Settings of a study as a whole: its modes, such as `budgets=`, which make several runs of each of its networks, its
name, and its limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from omegaconf import DictConfig

from experiments.config.overrides import Overrides, refuse_set, without_seed
from experiments.errors import SettingsError

MODES = ("budgets", "subsets", "tune", "looks")
LIMITS = ("fail_fast", "max_hours", "stop_below")
OF_STUDY = (*MODES, *LIMITS, "tuning_setting", "tuning_seeds", "tuning_holdout", "study_name", "runs")
"""Settings that have one value in a study."""


def refuse_without_study(config: DictConfig) -> None:
    """Refuse what makes no sense for a single run.

    Raises:
        SettingsError: naming the first.
    """
    if modes := [name for name in MODES if config.get(name)]:
        raise SettingsError(f"{modes[0]}={list(config[modes[0]])} asks for several runs; add -m")
    if limits := [name for name in LIMITS if config.get(name) is not None]:
        raise SettingsError(f"{limits[0]}={config[limits[0]]:g} is a limit of a study, also of one run; add -m")


def refuse_swept(swept: Iterable[str]) -> None:
    """Refuse to sweep over what has one value in a study: Hydra would silently ignore it.

    Raises:
        SettingsError: naming the first.
    """
    if wrong := [key for key in swept if key in OF_STUDY]:
        raise SettingsError(f"{wrong[0]} has one value in a study; start one study for each (a list is [a,b])")


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
        configs = {network: compose(network) for network in dict.fromkeys(map(without_seed, jobs))}
        return [
            [*job, f"data.subset={subset}", f"recipe.epochs={_epochs(configs[without_seed(job)], subset)}"]
            for subset in sorted({*config.subsets})
            for job in jobs
        ]
    return [*jobs]


def _epochs(config: DictConfig, subset: float) -> int:
    """So many that the number of updates is that of the recipe's epochs on all images, within 2 %."""
    epochs, images, batch = config.recipe.epochs, config.data.train_images, config.recipe.batch_size
    ratio = 1 / subset
    if images and images * subset >= batch:  # the last images that fill no batch are left out
        ratio = (images // batch) / (round(images * subset) // batch)
    count = round(epochs * ratio)
    if abs(count / (epochs * ratio) - 1) > 0.02:
        raise SettingsError(
            f"subsets: {epochs} epochs on all images are {epochs * ratio:.3g} on {subset:g} of them, which is no "
            "whole number; take parts like 0.5 and 0.25"
        )
    return count
