"""Refuses, before anything expensive starts, settings that do not exist, values out of their bounds, and settings that
contradict each other. The bounds are beside each setting, in settings.py."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf

from experiments.config.settings import (
    IN_MEMORY,
    READERS,
    SMALL,
    STREAMS,
    Config,
    Data,
    EvaluationConfig,
    Recipe,
    fraction_of_run,
)
from experiments.config.timm_names import check_timm_name
from experiments.errors import SettingsError, unknown_key
from roadmap.common.bounds import bounds_of
from roadmap.conf import Conf, flat


def check_settings(config: DictConfig, root: type) -> None:
    """Refuse settings that are not in the schema `root`, which `+name=value` can add, and values out of its bounds.

    Raises:
        SettingsError: naming the setting, its value, and what is possible.
    """
    check_names(config, root)
    if "data" in config and not OmegaConf.is_missing(config.data, "reader") and config.data.reader in READERS:
        check_path(config.data)  # before data.name, which may be derived from the path
    _check_bounds(config, root)


def check_names(config: DictConfig, root: type, schema: type | None = None, path: str = "") -> None:
    """Refuse settings that are not in the schema `root`; `schema` is the part of it at `path`."""
    types = _types(schema or root)
    known = {*types} | (set() if path else {"hydra"})
    for name in map(str, config):
        if name not in known:
            raise SettingsError(unknown_key(f"{path}{name}", root))
        if is_dataclass(types.get(name)) and isinstance(inner := config._get_node(name), DictConfig):
            check_names(inner, root, types[name], f"{path}{name}.")


@cache
def _types(schema: type) -> dict[str, Any]:
    hints = get_type_hints(schema)
    return {field.name: hints[field.name] for field in fields(schema)}


def _check_bounds(config: DictConfig, schema: type, path: str = "") -> None:
    types = _types(schema)
    for field in fields(schema):
        if OmegaConf.is_missing(config, field.name):
            continue  # refused where it is needed
        value, bounds = config[field.name], bounds_of(field)
        if is_dataclass(types[field.name]) and value is not None:
            _check_bounds(value, types[field.name], f"{path}{field.name}.")
        elif bounds and value is not None and (problem := bounds.problem(value)):
            raise SettingsError(f"{path}{field.name} {problem}")


def check_run(config: DictConfig, conf: Conf) -> None:
    """Refuse settings that no run can have. `conf` are the folders that the configuration was composed from.

    Raises:
        SettingsError: in one line.
    """
    check_settings(config, Config)
    if config.rung is not None:  # on the command line and in sweeps it became steps before Hydra composed
        raise SettingsError(f"rung={config.rung} in a file is not read; give it on the command line or to a sweeper")
    for group in ("regime", "recipe"):
        if (name := config[group].name) not in (known := conf.options(group)):
            raise SettingsError(f"{group}.name must be one of {', '.join(known)}, not {name!r}: the name of its file")
    for old, new in Config.renamed.items():  # a regime's settings are open: Hydra would take the old one, too
        if old.startswith("regime.") and old.removeprefix("regime.") in config.regime:
            raise SettingsError(f"regime={config.regime.name}: the setting {old!r} is called {new!r} now")
    _check_files(config, conf)
    if config.model != "design":
        check_timm_name(config.model)
    if config.compile and config.gradient_checkpointing:
        raise SettingsError("compile=true can't trace gradient_checkpointing=true; take one of them")
    _check_recipe(OmegaConf.to_object(config.recipe))  # type: ignore[arg-type]
    _check_data(config.data, config.resolution, config.recipe.rand_augment)


def _check_files(config: DictConfig, conf: Conf) -> None:
    """Refuse settings of a regime, or a recipe's `full_epochs`, that are not those of its file, by which the rungs of
    the run's road are composed: its network would be none of them."""
    regime, recipe = conf.whole("regime", config.regime.name), conf.whole("recipe", config.recipe.name)
    in_files = flat({"regime": regime.regime, "full_epochs": recipe.get("full_epochs")})
    given = flat({"regime": config.regime, "full_epochs": config.full_epochs})
    for key in in_files | given:
        if given.get(key) != in_files.get(key):
            group = "recipe" if key == "full_epochs" else "regime"
            raise SettingsError(
                f"{key} can't be set for single runs, since the rungs that they are compared with would not have it: "
                f"set it in a {group} of your own, DIR/{group}/NAME.yaml, and add --config-dir DIR (docs/own-step.md)"
            )


def check_evaluation(config: DictConfig) -> None:
    """The same for `experiments.evaluate`."""
    if OmegaConf.is_missing(config, "weights"):
        raise SettingsError("weights is not set: weights=a run's directory, a file, torchvision:... or timm:...")
    check_settings(config, EvaluationConfig)
    if config.model is not None:
        check_timm_name(config.model)


def check_launcher(config: DictConfig, schema: type) -> None:
    """The same for `hydra.launcher`; `schema` is its launcher's.

    Raises:
        SettingsError: in one line.
    """
    _check_bounds(config, schema, "hydra.launcher.")
    gpus, tasks = config.get("gpus_per_node"), config.get("tasks_per_node")
    if gpus and tasks and tasks > gpus:
        raise SettingsError(
            f"hydra.launcher.tasks_per_node={tasks} are more than hydra.launcher.gpus_per_node={gpus}: each process of "
            "a run trains on a GPU of its own"
        )
    if config.get("runs_per_gpu", 1) > 1 and config.get("gpus_per_run", 1) > 1:
        raise SettingsError(
            f"hydra.launcher.runs_per_gpu={config.runs_per_gpu} and hydra.launcher.gpus_per_run={config.gpus_per_run}: "
            "runs share a GPU, or a run has several; take one of them"
        )
    if (runs := config.get("runs_per_job", 1)) > 1 and (config.nodes > 1 or (tasks or 1) > 1):
        raise SettingsError(
            f"hydra.launcher.runs_per_job={runs}: each of a job's runs is trained by one process; leave out "
            "hydra.launcher.nodes and hydra.launcher.tasks_per_node"
        )
    if "runs_per_job" in config and config.runs_per_gpu > 1 and (runs == 1 or not gpus):
        raise SettingsError(
            f"hydra.launcher.runs_per_gpu={config.runs_per_gpu}: the runs of a job share its GPUs; give it several "
            "runs and a GPU, with hydra.launcher.runs_per_job and hydra.launcher.gpus_per_node"
        )
    if "timeout_min" in config and config.signal_delay_s >= 60 * config.timeout_min:
        raise SettingsError(
            f"hydra.launcher.signal_delay_s={config.signal_delay_s} is no less than the whole of "
            f"hydra.launcher.timeout_min={config.timeout_min}"
        )


def _check_recipe(recipe: Recipe) -> None:
    if recipe.min_lr > recipe.lr:
        raise SettingsError(f"recipe.min_lr={recipe.min_lr} is more than recipe.lr={recipe.lr}")
    if fraction_of_run(recipe.warmup) == 1:
        raise SettingsError(f"recipe.warmup={recipe.warmup} is the whole run; take a smaller part")
    milestones = [fraction_of_run(drop) for drop in recipe.milestones]
    if milestones != sorted(milestones):
        raise SettingsError(f"recipe.milestones must rise, like [30/90, 60/90], not {recipe.milestones}")
    if recipe.mixup_switch_prob != Recipe().mixup_switch_prob and not (recipe.mixup and recipe.cutmix):
        raise SettingsError(
            f"recipe.mixup_switch_prob={recipe.mixup_switch_prob} chooses between mixup and cutmix, and "
            f"{'cutmix' if recipe.mixup else 'mixup'} is off; leave it at {Recipe().mixup_switch_prob}"
        )
    if len(recipe.betas) != 2 and not recipe.optimizer.startswith("timm:"):
        raise SettingsError(f"recipe.betas must be two numbers, not {recipe.betas}")


def check_path(data: DictConfig | Data) -> None:
    missing = isinstance(data, DictConfig) and OmegaConf.is_missing(data, "path")
    if data.reader != "sample" and (missing or data.path is None):
        raise SettingsError("data.path is not set: where are the data? For example data.path=/data/imagenet")


def _check_data(data: DictConfig, resolution: int, rand_augment: str | None) -> None:
    if data.reader in STREAMS and (data.subset != 1 or data.holdout):
        raise SettingsError(f"data.reader={data.reader} streams: data.subset and data.holdout need another reader")
    if data.cache and (data.reader in STREAMS or data.reduced_decoding):
        why = f"data.reader={data.reader} streams" if data.reader in STREAMS else "data.reduced_decoding decodes anew"
        raise SettingsError(f"data.cache={data.cache} keeps the images in memory, but {why}; leave out one of them")
    if data.cache == "device" and rand_augment:
        raise SettingsError("data.cache=device: recipe.rand_augment needs images on the CPU; take data.cache=memory")
    if data.reduced_decoding and (data.reader in IN_MEMORY or resolution <= SMALL):
        why = f"data.reader={data.reader}" if data.reader in IN_MEMORY else f"resolution={resolution}"
        raise SettingsError(
            f"data.reduced_decoding=true is for JPEG files at more than {SMALL} px; with {why} it would change nothing"
        )
