"""A recipe in action: optimizer, learning rate at each step, mixing, loss and moving average; of timm's and torch's
parts. Its settings: `settings.Recipe`."""

from __future__ import annotations

import math

import torch
from timm.data import Mixup
from timm.optim import (
    create_optimizer_v2,
    get_optimizer_info,
    param_groups_layer_decay,
    param_groups_weight_decay,
)
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.errors import SettingsError
from experiments.settings import Recipe, fraction_of_run
from experiments.timm_names import PREFIX


def make_optimizer(recipe: Recipe, network: nn.Module, *, scaled: bool = False) -> torch.optim.Optimizer:
    """torch's SGD or AdamW, fused, or one of timm's, over the network's parameters; see `parameter_groups`. `scaled`:
    the loss is (fp16). timm gives an optimizer what it takes of momentum, betas and eps.

    Raises:
        SettingsError: if timm's optimizer refuses one of these.
    """
    groups, betas = parameter_groups(recipe, network), tuple(recipe.betas)
    if recipe.optimizer == "sgd":
        # torch's fused SGD goes on from uninitialised memory if its first step is skipped, as it is in scaling's search
        return torch.optim.SGD(groups, recipe.lr, momentum=recipe.momentum, fused=not scaled)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, recipe.lr, betas=betas, eps=recipe.eps, fused=True)
    name = recipe.optimizer.removeprefix(PREFIX)
    if (info := get_optimizer_info(name)).has_betas and len(betas) != info.num_betas:
        raise SettingsError(
            f"recipe.optimizer={recipe.optimizer} takes {info.num_betas} recipe.betas, not {recipe.betas}"
        )
    given = {"lr": recipe.lr, "momentum": recipe.momentum, "betas": betas, "eps": recipe.eps}
    try:
        return create_optimizer_v2(groups, name, weight_decay=recipe.weight_decay, **given)
    except (ValueError, TypeError, AssertionError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SettingsError(f"recipe.optimizer={recipe.optimizer} refuses its settings: {reason}") from error


def parameter_groups(recipe: Recipe, network: nn.Module) -> list[dict]:
    """Parameters by weight decay, from which those of one dimension are spared unless `decay_1d`; and by layer, whose
    `lr_scale` is layer_decay ** (layers above it) (A.2)."""
    spared = network.no_weight_decay() if hasattr(network, "no_weight_decay") and not recipe.decay_1d else ()
    if recipe.layer_decay < 1:
        return param_groups_layer_decay(
            network,
            recipe.weight_decay,
            no_weight_decay_list=spared,
            weight_decay_exclude_1d=not recipe.decay_1d,
            layer_decay=recipe.layer_decay,
        )
    if recipe.decay_1d:
        return [{"params": [p for p in network.parameters() if p.requires_grad], "weight_decay": recipe.weight_decay}]
    return param_groups_weight_decay(network, recipe.weight_decay, no_weight_decay_list=spared)


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """The learning rate at a step of a run of `steps` steps; warm-up and drops stand at fractions of the run (2.1)."""
    if recipe.schedule == "step":
        drops = sum(step >= fraction_of_run(drop) * steps for drop in recipe.drops)
        return recipe.lr * recipe.drop_factor**drops
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
    return ModelEmaV3(network, recipe.ema) if recipe.ema else None


class Objective:
    """The training loss of a batch, after mixup or cutmix if the recipe mixes. Mixing draws from numpy's generator."""

    def __init__(self, recipe: Recipe, num_classes: int) -> None:
        self.smoothing = recipe.label_smoothing
        self.mixup = None
        if recipe.mixup or recipe.cutmix:
            self.mixup = Mixup(
                recipe.mixup,
                recipe.cutmix,
                prob=recipe.mixup_prob,
                switch_prob=recipe.mixup_switch_prob,
                mode=recipe.mixup_mode,
                label_smoothing=recipe.label_smoothing,
                num_classes=num_classes,
            )

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        if self.mixup is None:
            return F.cross_entropy(network(images), labels, label_smoothing=self.smoothing)
        images, targets = self.mixup(images, labels)  # targets: (N, classes), smoothed and mixed
        return F.cross_entropy(network(images), targets)
