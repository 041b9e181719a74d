"""What is refused before anything expensive starts: names that nothing reads, values that no run can have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.errors import SettingsError, unknown_key
from experiments.settings import READERS, STREAMS, Config, Data, MutableDesign, Recipe, fraction_of_run
from experiments.timm_names import check_timm_name
from roadmap.designs import did_you_mean
from roadmap.steps import regimes, rung_steps


def check_names(config: DictConfig) -> None:
    """Refuse what `+name=value` adds to the configuration and nothing reads."""
    for path, schema in {"": Config, "design": MutableDesign, "recipe": Recipe, "data": Data}.items():
        known = {one.name for one in fields(schema)} | {"hydra"}
        for name in OmegaConf.select(config, path) if path else config:
            if name not in known:
                raise SettingsError(unknown_key(f"{path}.{name}".lstrip("."), Config))
    if (name := config.regime.name) not in regimes():
        raise SettingsError(f"regime.name must be one of {', '.join(regimes())}, not {name!r}")


def check_steps(overrides: Sequence[str]) -> None:
    """Refuse `rung` and `step` together: Hydra would silently take the latter alone."""
    given = dict(override.split("=", 1) for override in overrides if "=" in override)
    if given.get("rung", "null") != "null" and "step" in given:
        steps = ",".join(rung_steps(given["rung"]))
        raise SettingsError(f"rung={given['rung']} is step=[{steps}]: name either the rung or all the steps, not both")


CHOICES = {
    "recipe.optimizer": ("sgd", "adamw"),
    "recipe.schedule": ("step", "cosine"),
    "recipe.interpolation": ("bilinear", "bicubic"),
    "data.reader": READERS,
    "data.broken": ("stop", "skip"),
    "precision": ("float32",),
    "device": ("auto", "cpu", "cuda", "mps"),
}
POSITIVE = ("recipe.epochs", "recipe.batch_size", "resolution", "data.num_classes", "threads")
FRACTIONS = ("data.holdout", "recipe.random_erasing", "recipe.label_smoothing", "recipe.momentum")
NOT_NEGATIVE = ("recipe.lr", "recipe.min_lr", "recipe.weight_decay", "recipe.mixup", "recipe.cutmix", "workers", "seed")


def check_values(config: DictConfig) -> None:
    """Refuse what would fail, or mean nothing, once training has begun."""

    def value(key: str) -> Any:
        return OmegaConf.select(config, key)

    for key, choices in CHOICES.items():
        if value(key) not in choices:
            hint = did_you_mean(value(key), choices)
            raise SettingsError(f"{key} must be {' or '.join(choices)}, not {value(key)!r}{hint}")
    if config.data.reader != "sample" and value("data.path") is None:
        raise SettingsError("data.path is not set: say where the data are, like data.path=/data/imagenet")
    for key in POSITIVE:
        if value(key) is not None and value(key) < 1:
            raise SettingsError(f"{key} must be at least 1, not {value(key)}")
    for key in FRACTIONS:
        if not 0 <= value(key) < 1:
            raise SettingsError(f"{key} must be in [0, 1), not {value(key)}")
    for key in NOT_NEGATIVE:
        if not (math.isfinite(value(key)) and value(key) >= 0):
            raise SettingsError(f"{key} must be a finite number, 0 or more, not {value(key)}")
    if not 0 < config.data.subset <= 1:
        subset = config.data.subset
        raise SettingsError(f"data.subset is the part of the training images to use, in (0, 1], not {subset}")
    if config.data.reader in STREAMS and (config.data.subset != 1 or config.data.holdout):
        raise SettingsError(
            f"data.reader={config.data.reader} streams: data.subset and data.holdout need another reader"
        )
    if config.seed >= 2**63:
        raise SettingsError(f"seed must be less than 2**63, not {config.seed}")
    if (policy := config.recipe.rand_augment) and not policy.startswith("rand-"):
        raise SettingsError(f"recipe.rand_augment must be null or like rand-m9-mstd0.5-inc1, not {policy!r}")
    if len(config.recipe.betas) != 2:
        raise SettingsError(f"recipe.betas must be two numbers, not {config.recipe.betas}")
    for key, texts in {"recipe.warmup": [config.recipe.warmup], "recipe.drops": config.recipe.drops}.items():
        for text in texts:
            fraction_of_run(text, key)
    if config.recipe.mixup and config.recipe.batch_size % 2:
        size = config.recipe.batch_size
        raise SettingsError(f"recipe.mixup pairs images, so recipe.batch_size must be even, not {size}")
    if config.model != "design":
        check_timm_name(config.model)
