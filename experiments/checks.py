"""What is refused before anything expensive starts: names that nothing reads, values that no run can have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.errors import SettingsError, unknown_key
from experiments.settings import (
    READERS,
    STREAMS,
    Config,
    Data,
    EvaluationConfig,
    Logger,
    MutableDesign,
    Recipe,
    fraction_of_run,
)
from experiments.timm_names import check_timm_name
from roadmap.designs import did_you_mean
from roadmap.steps import options, regimes, rung_steps


def check_names(config: DictConfig) -> None:
    """Refuse what `+name=value` adds to the configuration and nothing reads."""
    schemas = {"": Config, "design": MutableDesign, "recipe": Recipe, "data": Data, "logger": Logger}
    for path, schema in schemas.items():
        known = {one.name for one in fields(schema)} | {"hydra"}
        for name in OmegaConf.select(config, path) if path else config:
            if name not in known:
                raise SettingsError(unknown_key(f"{path}.{name}".lstrip("."), Config))
    for group, known in {"regime": regimes(), "recipe": options("recipe")}.items():
        if (name := config[group].name) not in known:
            raise SettingsError(f"{group}.name must be one of {', '.join(known)}, not {name!r}")


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
    "recipe.erasing_mode": ("const", "rand", "pixel"),
    "recipe.mixup_mode": ("batch", "pair", "elem"),
    "precision": ("float32", "tf32", "bf16", "fp16"),
    "keep": ("last", "all"),
    "data.reader": READERS,
    "data.broken": ("stop", "skip"),
    "device": ("auto", "cpu", "cuda", "mps"),
    "logger.name": ("none", "wandb"),
    "logger.mode": ("auto", "online", "offline"),
}
POSITIVE = (
    *("recipe.epochs", "recipe.batch_size", "recipe.erasing_count", "device_batch"),
    *("resolution", "data.num_classes", "data.train_images", "data.val_images", "threads", "orders"),
)
FRACTIONS = ("data.holdout", "recipe.random_erasing", "recipe.label_smoothing", "recipe.momentum", "recipe.ema")
NOT_NEGATIVE = (
    *("recipe.lr", "recipe.min_lr", "recipe.weight_decay", "recipe.mixup", "recipe.cutmix"),
    *("workers", "seed", "order_seed", "checkpoint_minutes"),
)
FACTORS = ("recipe.layer_decay", "recipe.crop_pct", "recipe.mixup_prob", "recipe.mixup_switch_prob", "crop_pct")


def check_evaluation(config: DictConfig) -> None:
    """The same for `experiments.evaluate`."""
    for path, schema in {"": EvaluationConfig, "data": Data}.items():
        for name in OmegaConf.select(config, path) if path else config:
            if name not in {one.name for one in fields(schema)} | {"hydra"}:
                raise SettingsError(unknown_key(f"{path}.{name}".lstrip("."), EvaluationConfig))
    if OmegaConf.is_missing(config, "weights"):
        raise SettingsError("say which weights: weights=a run's directory, a file, torchvision:... or timm:...")
    for key in ("precision", "device", "data.broken"):
        _check_choice(key, OmegaConf.select(config, key))
    if config.interpolation is not None:
        _check_choice("interpolation", config.interpolation, CHOICES["recipe.interpolation"])
    if config.model is not None:
        check_timm_name(config.model)
    _check_ranges(config)


def _check_ranges(config: DictConfig) -> None:
    for keys, possible, range_ in (
        (POSITIVE, lambda value: value >= 1, "at least 1"),
        (FRACTIONS, lambda value: 0 <= value < 1, "in [0, 1)"),
        (NOT_NEGATIVE, lambda value: math.isfinite(value) and value >= 0, "a finite number, 0 or more"),
        (FACTORS, lambda value: 0 < value <= 1, "in (0, 1]"),
    ):
        for key in keys:
            value = OmegaConf.select(config, key)  # None where a configuration has no such setting
            if value is not None and not possible(value):
                raise SettingsError(f"{key} must be {range_}, not {value}")


def check_path(data: DictConfig | Data) -> None:
    if data.reader != "sample" and data.path is None:
        raise SettingsError("data.path is not set: say where the data are, like data.path=/data/imagenet")


def _check_choice(key: str, value: Any, choices: Sequence[str] = ()) -> None:
    choices = choices or CHOICES[key]
    if value not in choices:
        raise SettingsError(f"{key} must be {' or '.join(choices)}, not {value!r}{did_you_mean(value, choices)}")


def check_values(config: DictConfig) -> None:
    """Refuse what would fail, or mean nothing, once training has begun."""

    def value(key: str) -> Any:
        return OmegaConf.select(config, key)

    for key in CHOICES:
        _check_choice(key, value(key))
    check_path(config.data)
    _check_ranges(config)
    if (norm := value("recipe.clip_grad")) is not None and not norm > 0:
        raise SettingsError(f"recipe.clip_grad must be null or more than 0, not {norm}")
    if not 0 < config.data.subset <= 1:
        subset = config.data.subset
        raise SettingsError(f"data.subset is the part of the training images to use, in (0, 1], not {subset}")
    if config.data.reader in STREAMS and (config.data.subset != 1 or config.data.holdout):
        raise SettingsError(
            f"data.reader={config.data.reader} streams: data.subset and data.holdout need another reader"
        )
    if config.compile and config.gradient_checkpointing:
        raise SettingsError("compile=true can't trace gradient_checkpointing=true; take one of them")
    if config.seed >= 2**63:
        raise SettingsError(f"seed must be less than 2**63, not {config.seed}")
    if (policy := config.recipe.rand_augment) and not policy.startswith("rand-"):
        raise SettingsError(f"recipe.rand_augment must be null or like rand-m9-mstd0.5-inc1, not {policy!r}")
    if not (project := config.logger.project) or len(project) > 128 or set(project) & set("/\\#?%:"):
        raise SettingsError(f"logger.project must be 1 to 128 characters, none of / \\ # ? % :, not {project!r}")
    if len(config.recipe.betas) != 2:
        raise SettingsError(f"recipe.betas must be two numbers, not {config.recipe.betas}")
    for key, texts in {"recipe.warmup": [config.recipe.warmup], "recipe.drops": config.recipe.drops}.items():
        for text in texts:
            fraction_of_run(text, key)
    if config.model != "design":
        check_timm_name(config.model)
