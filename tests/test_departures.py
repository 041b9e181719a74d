"""A setting departs from the paper if, and only if, runs that differ in it alone come to other results."""

from __future__ import annotations

import random
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from records import write_run
from torch import nn

import analysis
from analysis.statistics.context import published_recipe
from analysis.statistics.departures import departures
from experiments.config.settings import Recipe
from experiments.data.transforms import Erasing, Preprocess, TrainingTransform, evaluation_transform
from experiments.runtime.randomness import seed_all
from experiments.training.recipe import learning_rate, make_average, make_optimizer, set_learning_rate
from experiments.training.tasks.classification import Objective

OTHER = {  # than the paper's, and than what is off
    **{"epochs": 3, "batch_size": 6, "lr": 0.02, "min_lr": 1e-3, "momentum": 0.7, "betas": [0.8, 0.9], "eps": 1e-2},
    **{"optimizer": "timm:nadamw", "weight_decay": 0.3, "layer_decay": 0.6, "clip_grad": 0.01, "ema_decay": 0.9},
    **{"warmup": "1/3", "milestones": ["1/3"], "gamma": 0.5, "crop_pct": 0.7, "rand_augment": "rand-m5-inc1"},
    **{"random_erasing": 0.9, "erasing_mode": "const", "erasing_count": 3, "label_smoothing": 0.3},
    **{"mixup": 0.3, "cutmix": 0.4, "mixup_prob": 0.3, "mixup_switch_prob": 0.9, "mixup_mode": "elem"},
}
OFF = {"weight_decay": 0.0, "rand_augment": None, "random_erasing": 0.0, "mixup": 0.0, "cutmix": 0.0, "milestones": []}


def other(recipe: Recipe, setting: str) -> object:
    """Another value of a setting."""
    pairs = {
        "decay_norm_and_bias": (True, False),
        "schedule": ("step", "cosine"),
        "interpolation": ("bilinear", "bicubic"),
    }
    return OTHER[setting] if setting in OTHER else next(x for x in pairs[setting] if x != getattr(recipe, setting))


class Small(nn.Sequential):
    """Enough of a network for its recipe: layers, and weights of one dimension."""

    def __init__(self) -> None:
        head = nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 5)
        super().__init__(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), *head)

    def group_matcher(self, coarse: bool = False) -> dict:
        """timm's, for `layer_decay`."""
        return {"stem": "^0", "blocks": r"^(\d+)"}


def result(recipe: Recipe, resolution: int) -> bytes:
    """A short run, all that it comes to: weights, their average, and what is evaluated."""
    noise = np.random.default_rng(0).integers(0, 255, (12, 9, 9, 3)).astype(np.uint8)
    images = [Image.fromarray(one).resize((resolution + 8, resolution + 20)) for one in noise]
    seed_all(0)
    network = Small()
    optimizer, average = make_optimizer(recipe, network), make_average(recipe, network)
    objective, preprocess = Objective(recipe, 5), Preprocess(torch.device("cpu"))
    erasing = Erasing(recipe, resolution, 0)
    transform = TrainingTransform(recipe, resolution)
    steps = recipe.epochs * 12 // recipe.batch_size
    for step in range(steps):
        set_learning_rate(optimizer, learning_rate(recipe, step, steps))
        seed_all(step)
        random.seed(step)
        own = [(step * recipe.batch_size + place) % 12 for place in range(recipe.batch_size)]
        batch = torch.stack([torch.as_tensor(transform(images[one], step * 12 + one)) for one in own])
        batch = preprocess(batch, erasing([(step, one) for one in own]))
        optimizer.zero_grad()
        objective(network, batch, torch.tensor(own) % 5).backward()
        if recipe.clip_grad:
            nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_grad)
        optimizer.step()
        if average:
            average.update(network)
    evaluated = evaluation_transform(resolution, recipe.interpolation, recipe.crop_pct)(images[0])
    tensors = [*network.state_dict().values(), *(average.state_dict().values() if average else ()), evaluated]
    return b"".join(tensor.numpy().tobytes() for tensor in tensors)


def departing(folder: Path, rung: str, recipe: Recipe, **config: int) -> list[str]:
    """The settings in which a run of this recipe is said to depart from the paper."""
    write_run(folder, rung, config={"recipe": asdict(recipe), **config})
    (comparison,) = analysis.comparisons(analysis.load(folder))
    return [one.setting.removeprefix("recipe.") for one in departures(comparison)[recipe.name]]


@pytest.mark.parametrize(("off", "resolution"), [({}, 64), (OFF, 32)], ids=["all of it", "much of it off"])
@pytest.mark.parametrize(("rung", "name"), [("resnet", "original"), ("modern_recipe", "modern")])
def test_what_makes_no_difference_is_no_departure_and_all_else_is(tmp_path, rung, name, off, resolution):
    """Setting by setting, from a short recipe that is the paper's but for what is off."""
    base = replace(Recipe(**published_recipe(name)), epochs=2, batch_size=4, **off)
    expected, wrong = result(base, resolution), {}
    for setting in [field.name for field in fields(Recipe) if field.name not in {"name", *off}]:
        changed = replace(base, **{setting: other(base, setting)})
        named = setting in departing(tmp_path / setting, rung, changed, resolution=resolution)
        if named != (result(changed, resolution) != expected):
            wrong[setting] = named
    assert wrong == {}


@pytest.mark.parametrize("name", ["original", "modern", "convnext", "finetune", "finetune_in1k", "pretrain_in22k"])
def test_the_papers_own_recipes_depart_in_nothing(tmp_path, name):
    """Those that build on another one, too."""
    settings = departing(tmp_path, "separate_downsampling", Recipe(**published_recipe(name)), resolution=224)
    of_nano = ("depths", "width", "stem_stride", "layer_scale", "drop_path")
    assert settings == ["data", *(f"design.{name}" for name in of_nano)]
