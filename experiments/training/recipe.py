"""A recipe's optimizer, learning rate at each step, and moving average, from timm's and torch's parts.

Its settings are in `experiments.config.settings.Recipe`, its loss and mixing in experiments/training/tasks/."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from timm.optim import (
    create_optimizer_v2,
    get_optimizer_info,
    param_groups_layer_decay,
    param_groups_weight_decay,
)
from timm.utils import ModelEmaV3
from torch import nn

from experiments.config.settings import Recipe, fraction_of_run
from experiments.config.timm_names import PREFIX
from experiments.errors import SettingsError


def make_optimizer(recipe: Recipe, network: nn.Module, *, scaled: bool = False) -> torch.optim.Optimizer:
    """torch's fused SGD or AdamW, or a timm optimizer, over the network's parameters (see `parameter_groups`). `scaled`
    says whether the loss is (fp16). timm passes on the settings that an optimizer takes: of momentum, betas and eps.

    Raises:
        SettingsError: if a timm optimizer refuses its settings.
    """
    groups = parameter_groups(recipe, network)
    betas: Any = tuple(recipe.betas)
    if recipe.optimizer == "sgd":
        # torch's fused SGD would use uninitialised momentum if its first step is skipped, as loss scaling does
        return torch.optim.SGD(groups, recipe.lr, momentum=recipe.momentum, fused=not scaled)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, recipe.lr, betas=betas, eps=recipe.eps, fused=True)
    name = recipe.optimizer.removeprefix(PREFIX)
    if (info := get_optimizer_info(name)).has_betas and len(betas) != info.num_betas:
        raise SettingsError(
            f"recipe.optimizer={recipe.optimizer} takes {info.num_betas} recipe.betas, not {recipe.betas}"
        )
    settings: dict[str, Any] = {"lr": recipe.lr, "momentum": recipe.momentum, "betas": betas, "eps": recipe.eps}
    try:
        return create_optimizer_v2(groups, name, weight_decay=recipe.weight_decay, **settings)
    except (ValueError, TypeError, AssertionError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SettingsError(f"recipe.optimizer={recipe.optimizer} refuses its settings: {reason}") from error


def parameter_groups(recipe: Recipe, network: nn.Module) -> list[dict]:
    """Parameters grouped by weight decay, of which one-dimensional ones have none unless `decay_norm_and_bias`; and by
    layer, whose `lr_scale` is layer_decay ** (number of layers above it) (A.2)."""
    has_undecayed = hasattr(network, "no_weight_decay") and not recipe.decay_norm_and_bias
    undecayed = cast(Any, network).no_weight_decay() if has_undecayed else ()
    if recipe.layer_decay < 1:
        return param_groups_layer_decay(
            network,
            recipe.weight_decay,
            no_weight_decay_list=undecayed,
            weight_decay_exclude_1d=not recipe.decay_norm_and_bias,
            layer_decay=recipe.layer_decay,
        )
    if recipe.decay_norm_and_bias:
        return [{"params": [p for p in network.parameters() if p.requires_grad], "weight_decay": recipe.weight_decay}]
    return param_groups_weight_decay(network, recipe.weight_decay, no_weight_decay_list=undecayed)


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """The learning rate at a step of a run of `steps` steps; warm-up and milestones are fractions of the run (2.1)."""
    if recipe.schedule == "step":
        passed = sum(step >= fraction_of_run(milestone) * steps for milestone in recipe.milestones)
        return recipe.lr * recipe.gamma**passed
    warmup = int(fraction_of_run(recipe.warmup) * steps)
    if step < warmup:
        return recipe.lr * step / max(warmup - 1, 1)
    cosine = 1 + math.cos(math.pi * (step - warmup) / (steps - warmup))
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * cosine / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def make_average(recipe: Recipe, network: nn.Module) -> ModelEmaV3 | None:
    """The moving average of the network's weights and running statistics, if the recipe keeps one (Table 5)."""
    return ModelEmaV3(network, recipe.ema_decay) if recipe.ema_decay else None
