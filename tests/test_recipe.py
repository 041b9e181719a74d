"""Recipes are what facts/README.md says: Tables 5 and 6 of the paper, and the formulas of the authors' code."""

import io
import math
import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

import roadmap
from experiments.config.settings import Recipe
from experiments.config.timm_names import unusable
from experiments.training.recipe import learning_rate, make_optimizer, set_learning_rate
from experiments.training.tasks.classification import Objective

DOCUMENT = (Path(__file__).parent.parent / "docs" / "recipes.md").read_text("utf-8")
TABLES = {  # facts/README.md, "The recipes"
    "original": {
        "optimizer": "sgd",
        "momentum": 0.9,
        "lr": 0.1,
        "batch_size": 256,
        "weight_decay": 1e-4,
        "decay_norm_and_bias": True,
        "schedule": "step",
        "milestones": ["30/90", "60/90"],
        "gamma": 0.1,
        "epochs": 90,
        "rand_augment": None,
        "random_erasing": 0.0,
        "mixup": 0.0,
        "cutmix": 0.0,
        "label_smoothing": 0.0,
        "interpolation": "bilinear",
    },
    "modern": {
        "optimizer": "adamw",
        "betas": [0.9, 0.999],
        "eps": 1e-8,
        "lr": 4e-3,
        "min_lr": 1e-6,
        "batch_size": 4096,
        "weight_decay": 0.05,
        "decay_norm_and_bias": False,
        "schedule": "cosine",
        "warmup": "20/300",
        "epochs": 300,
        "rand_augment": "rand-m9-mstd0.5-inc1",
        "random_erasing": 0.25,
        "mixup": 0.8,
        "cutmix": 1.0,
        "label_smoothing": 0.1,
        "interpolation": "bicubic",
    },
}
TABLES["convnext"] = TABLES["modern"] | {"ema_decay": 0.9999}
TABLES["pretrain_in22k"] = TABLES["modern"] | {"epochs": 90, "warmup": "5/90", "ema_decay": 0.0}
TABLES["finetune"] = TABLES["modern"] | {
    "epochs": 30,
    "batch_size": 512,
    "lr": 5e-5,
    "weight_decay": 1e-8,
    "warmup": "0",
    "mixup": 0.0,
    "cutmix": 0.0,
    "layer_decay": 0.8,
    "ema_decay": 0.0,
}
TABLES["finetune_in1k"] = TABLES["finetune"] | {"layer_decay": 0.7}
SCHEDULES = {"modern": (4e-3, 20 / 300), "pretrain_in22k": (4e-3, 5 / 90), "finetune": (5e-5, 0)}
DROP_PATHS = {  # of T, S, B, L and XL, where the paper has them
    "modern": (0.1, 0.4, 0.5, 0.5, None),
    "convnext": (0.1, 0.4, 0.5, 0.5, None),
    "pretrain_in22k": (0.0, 0.0, 0.1, 0.1, 0.2),
    "finetune": (0.0, 0.1, 0.2, 0.3, 0.4),
    "finetune_in1k": (None, None, 0.8, 0.95, None),
}
SIZES = ("tiny", "small", "base", "large", "xlarge")
STEPS = [90, 300, 468, 1407, 7777]
pytestmark = pytest.mark.xdist_group("recipe")  # composed once


@pytest.fixture(scope="module", params=TABLES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def recipes(run_of: Callable) -> dict[str, Recipe]:
    """As the paper's scale trains with them."""
    return {name: run_of("regime=resnet50", f"recipe={name}").recipe for name in TABLES}


def test_recipe_is_the_published_table(name: str, recipes: dict[str, Recipe]) -> None:
    assert {key: getattr(recipes[name], key) for key in TABLES[name]} == TABLES[name]


@pytest.mark.parametrize(("regime", "drop_path"), [("resnet50", 0.1), ("resnet200", 0.5)])
def test_modern_recipe_sets_its_part_of_the_design(regime: str, drop_path: float, run_of: Callable) -> None:
    original, modern = (run_of(f"regime={regime}", f"recipe={name}").design for name in ("original", "modern"))
    assert (original.init, original.layer_scale, original.drop_path) == ("kaiming", 0, 0)
    assert (modern.init, modern.layer_scale, modern.drop_path) == ("truncated_normal", 1e-6, drop_path)


@pytest.mark.parametrize(
    ("recipe", "size"),
    [(recipe, size) for recipe, of in DROP_PATHS.items() for size in range(5) if of[size] is not None],
)
def test_stochastic_depth_follows_the_size(recipe: str, size: int, run_of: Callable) -> None:
    design = run_of(f"design=convnext_{SIZES[size]}", f"recipe={recipe}", "regime=resnet50").design
    assert design.drop_path == DROP_PATHS[recipe][size]
    assert design.layer_scale == 1e-6
    assert design.head_scale == (0.001 if recipe.startswith("finetune") else 1)


def test_only_the_largest_is_averaged_when_fine_tuned(run_of: Callable) -> None:
    emas = [run_of(f"design=convnext_{size}", "recipe=finetune", "regime=resnet50").recipe.ema_decay for size in SIZES]
    assert emas == [0, 0, 0, 0, 0.9999]


def test_every_setting_is_in_the_documentation() -> None:
    """And the table of the authors' settings names none that is not there."""
    named = set(re.findall(r"`recipe\.(\w+)", DOCUMENT)) | {"mixup_prob", "mixup_switch_prob", "mixup_mode", "cutmix"}
    settings = {one.name for one in fields(Recipe)} - {"name", "schedule", "milestones", "gamma"}
    assert named == settings
    assert set(re.findall(r"^\| `(\w+)` \|", DOCUMENT.split("Stochastic depth")[0], re.M)) == set(TABLES)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("recipe", SCHEDULES)
def test_learning_rate_warms_up_and_follows_the_cosine(recipe: str, steps: int, recipes: dict[str, Recipe]) -> None:
    (base, part), low = SCHEDULES[recipe], 1e-6
    warmup = int(steps * part + 1e-9)
    rising = [base * t / (warmup - 1) for t in range(warmup)]
    falling = [low + (base - low) * (1 + math.cos(math.pi * i / (steps - warmup))) / 2 for i in range(steps - warmup)]
    actual = [learning_rate(recipes[recipe], step, steps) for step in range(steps)]
    assert actual == pytest.approx(rising + falling, rel=0, abs=1e-12)
    assert (actual[0], max(actual)) == (0 if warmup else base, base)


@pytest.mark.parametrize("steps", STEPS)
def test_original_learning_rate_drops_at_a_third_and_two_thirds(steps: int, recipes: dict[str, Recipe]) -> None:
    expected = [0.1 if 3 * t < steps else 0.01 if 3 * t < 2 * steps else 0.001 for t in range(steps)]
    actual = [learning_rate(recipes["original"], step, steps) for step in range(steps)]
    assert actual == pytest.approx(expected, rel=0, abs=1e-12)


def test_warmup_of_no_or_one_step(recipes: dict[str, Recipe]) -> None:
    assert learning_rate(recipes["modern"], 0, 14) == pytest.approx(4e-3)  # 14 / 15: none
    assert [learning_rate(recipes["modern"], step, 15) for step in (0, 1)] == pytest.approx([0, 4e-3])


NETWORKS = {
    "resnet": lambda: roadmap.build(roadmap.Design(depths=(1, 1, 1, 1), width=8), 10),
    "convnext": lambda: roadmap.build(roadmap.ladder("nano")[-1].design, 10),
    "road": lambda: roadmap.build(roadmap.ladder("nano")[8].design, 10),
    "timm:test_convnext": lambda: timm.create_model("test_convnext", num_classes=10),
    "timm:test_resnet": lambda: timm.create_model("test_resnet", num_classes=10),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_weight_decay_spares_one_dimension_in_the_modern_recipe_alone(
    network: str, name: str, recipes: dict[str, Recipe]
) -> None:
    model = NETWORKS[network]()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = make_optimizer(recipes[name], model).param_groups
    decay = {names[id(parameter)]: group["weight_decay"] for group in groups for parameter in group["params"]}
    one_dimension = {name for name, p in model.named_parameters() if name.endswith(("bias", "gamma")) or p.ndim == 1}
    assert one_dimension
    assert len(decay) == sum(len(group["params"]) for group in groups) == len(names)
    if name == "original":
        assert set(decay.values()) == {1e-4}
    else:
        expected = TABLES[name]["weight_decay"]
        assert decay == {name: 0.0 if name in one_dimension else expected for name in names.values()}


def test_optimizer_has_the_recipes_settings(recipes: dict[str, Recipe]) -> None:
    network = nn.Linear(2, 2)
    sgd, adamw = (make_optimizer(recipes[name], network) for name in ("original", "modern"))
    assert type(sgd) is torch.optim.SGD
    assert (sgd.defaults["momentum"], sgd.defaults["nesterov"], sgd.defaults["dampening"]) == (0.9, False, 0)
    assert type(adamw) is torch.optim.AdamW
    assert (adamw.defaults["betas"], adamw.defaults["eps"]) == ((0.9, 0.999), 1e-8)
    set_learning_rate(adamw, 0.123)
    assert {group["lr"] for group in adamw.param_groups} == {0.123}


LOGITS = nn.Linear(12, 10)


def network(images: torch.Tensor) -> torch.Tensor:
    return LOGITS(images.flatten(1))


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 3, 2, 2, generator=generator), torch.randint(10, (8,), generator=generator)


@pytest.mark.parametrize(
    ("smoothing", "expected"), [(0.0, nn.CrossEntropyLoss()), (0.1, LabelSmoothingCrossEntropy(0.1))]
)
def test_loss_without_mixing(smoothing: float, expected: nn.Module, batch: tuple) -> None:
    images, labels = batch
    objective = Objective(Recipe(label_smoothing=smoothing), 10)
    torch.testing.assert_close(objective(network, images, labels), expected(network(images), labels))


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 1.0), (0.8, 0.0), (0.0, 1.0)])
def test_loss_with_mixing_is_timms(mixup: float, cutmix: float, batch: tuple) -> None:
    images, labels = batch
    mix = timm.data.Mixup(mixup, cutmix, prob=1.0, switch_prob=0.5, mode="batch", label_smoothing=0.1, num_classes=10)
    objective = Objective(Recipe(mixup=mixup, cutmix=cutmix, label_smoothing=0.1), 10)
    for seed in range(20):
        np.random.seed(seed)
        actual = objective(network, images.clone(), labels)
        np.random.seed(seed)
        mixed, targets = mix(images.clone(), labels)
        torch.testing.assert_close(actual, SoftTargetCrossEntropy()(network(mixed), targets))


# timm's optimizers.


def optimizer_steps(name: str, betas: list[float], *parts: int) -> dict[str, Tensor]:
    """A network's weights after as many steps, in parts between which all is saved, and goes on in another process."""
    recipe = Recipe(
        "r", 1, 4, f"timm:{name}", 0.01, momentum=0.9, betas=betas, weight_decay=0.1, decay_norm_and_bias=False
    )
    saved, step = None, 0
    for part in parts:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))
        optimizer = make_optimizer(recipe, network)
        if saved:
            states = torch.load(io.BytesIO(saved.getvalue()), weights_only=True)
            network.load_state_dict(states[0])
            optimizer.load_state_dict(states[1])
        for _ in range(part):
            torch.manual_seed(step := step + 1)
            optimizer.zero_grad()
            network(torch.randn(4, 3, 4, 4)).square().mean().backward()
            optimizer.step()
        torch.save((network.state_dict(), optimizer.state_dict()), saved := io.BytesIO())
    return network.state_dict()


@pytest.mark.parametrize(
    ("name", "betas"),
    [
        *[(name, [0.9, 0.99]) for name in ("lamb", "sgd", "nesterov", "muon", "adafactor", "lion")],
        ("adan", [0.98, 0.92, 0.99]),
    ],
)
def test_optimizer_of_timm_goes_on_as_if_undisturbed(name: str, betas: list[float]) -> None:
    whole, parts = optimizer_steps(name, betas, 4), optimizer_steps(name, betas, 2, 2)
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert not torch.equal(whole["0.weight"], optimizer_steps(name, betas, 0)["0.weight"])


def test_optimizer_of_timm_is_the_one_that_is_named_with_the_recipes_settings() -> None:
    network = nn.Linear(2, 2)
    recipe = Recipe(
        "r", 1, 4, "timm:lamb", 0.01, betas=[0.8, 0.9], eps=1e-3, weight_decay=0.1, decay_norm_and_bias=False
    )
    made = make_optimizer(recipe, network)
    assert type(made) is timm.optim.Lamb
    assert [group["weight_decay"] for group in made.param_groups] == [0, 0.1]
    assert all(group["betas"] == (0.8, 0.9) and group["eps"] == 1e-3 for group in made.param_groups)
    recipe = replace(recipe, optimizer="timm:sgdw", momentum=0.7, layer_decay=0.5)
    made = make_optimizer(recipe, timm.create_model("test_resnet"))
    assert all(group["momentum"] == 0.7 for group in made.param_groups)
    assert len({group["lr_scale"] for group in made.param_groups}) > 1


def test_optimizers_that_draw_random_numbers_are_unusable() -> None:
    reasons = {name: unusable(name) or "" for name in timm.optim.list_optimizers()}
    assert {name for name, reason in reasons.items() if "random" in reason} == {"kron", "kronc", "kronw"}
