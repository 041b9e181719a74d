"""Regimes for small budgets: their networks keep what makes a step mean what it means, and their recipe is the paper's
as far as their number of epochs calls for it (docs/proxies.md)."""

from collections.abc import Callable
from pathlib import Path

import pytest
from records import write_run

import analysis
import roadmap
from experiments.config.run import Run
from roadmap.conf import OURS

ADOPTED_KERNEL = 7
FULL = {"modern": 300, "convnext": 300, "pretrain_in22k": 90, "finetune": 30, "finetune_in1k": 30}
"""Epochs of the paper's recipes (facts/README.md, "The recipes")."""
DROP_PATHS = {"modern": 0.5, "convnext": 0.5, "pretrain_in22k": 0.1, "finetune": 0.3, "finetune_in1k": 0.95}
"""Of a ConvNeXt-L, from the same table."""


def recipe(regime: str, name: str = "modern", epochs: int | None = None) -> dict:
    """Settings of the recipe with which a regime trains a network as large as ConvNeXt-L."""
    composed = OURS.compose(regime, (), recipe=name)
    composed.design.depths, composed.design.width = [3, 3, 27, 3], 192
    if epochs:
        composed.recipe.epochs = epochs
    return {**composed.recipe, "layer_scale": composed.design.layer_scale, "drop_path": composed.design.drop_path}


@pytest.mark.parametrize("regime", ["nano", "small"])
def test_no_map_of_the_first_two_stages_is_smaller_than_the_adopted_kernel(regime: str) -> None:
    resolution = OURS.whole("regime", regime).resolution
    for rung in roadmap.ladder(regime):
        first, second = (resolution // (rung.design.stem_stride * 2**stage) for stage in range(2))
        assert min(first, second) >= ADOPTED_KERNEL


@pytest.mark.parametrize("regime", ["nano", "small", "imagenet_short"])
@pytest.mark.parametrize("name", FULL)
@pytest.mark.parametrize("part", [0.1, 1, 2])
def test_regularization_is_in_proportion_to_the_recipes_own_epochs_up_to_the_papers(
    regime: str, name: str, part: float
) -> None:
    here, strength = recipe(regime, name, round(part * FULL[name])), min(1, part)
    published = {"mixup_prob": 1, "random_erasing": 0.25, "label_smoothing": 0.1, "drop_path": DROP_PATHS[name]}
    assert {key: here[key] for key in published} == pytest.approx(
        {key: strength * value for key, value in published.items()}, rel=0.005
    )
    assert here["layer_scale"] == pytest.approx(1e-6**strength, rel=0.005)
    assert (here["mixup"], here["cutmix"]) == ((0, 0) if name.startswith("finetune") else (0.8, 1.0))


def test_rand_augment_is_applied_less_often() -> None:
    assert recipe("imagenet_short")["rand_augment"] == "rand-m9-mstd0.5-inc1-p0.05"
    for name, epochs in FULL.items():
        assert recipe("imagenet_short", name, epochs)["rand_augment"] == "rand-m9-mstd0.5-inc1"


@pytest.mark.parametrize("name", FULL)
@pytest.mark.parametrize("regime", ["resnet50", "resnet200"])
def test_the_papers_regimes_keep_all_of_it_whatever_their_epochs(regime: str, name: str) -> None:
    assert {**recipe(regime, name, 10), "epochs": FULL[name]} == recipe(regime, name)


@pytest.mark.parametrize("rung", ["resnet", "separate_downsampling"])
def test_runs_of_different_budgets_differ_in_their_epochs_alone(rung: str, run_of: Callable[..., Run]) -> None:
    """Otherwise no study of budgets would be found in them, and each network would be called by its layer scale."""
    longer = run_of(f"rung={rung}", "recipe.epochs=64").requested
    assert (longer.network, longer.rung, longer.differs) == (rung, rung, {"recipe.epochs": 64})


def test_a_rung_composed_by_hand_is_that_rung_with_every_budget(run_of: Callable[..., Run]) -> None:
    by_hand = run_of("rung=move_up_depthwise", "design.kernel_size=7", "recipe.epochs=64")
    assert by_hand.requested.rung == "kernel_7"
    assert by_hand.identity == run_of("rung=kernel_7", "recipe.epochs=64").identity


def test_a_named_design_keeps_its_stem_in_a_small_regime(run_of: Callable[..., Run]) -> None:
    assert run_of("design=convnext_tiny", "recipe=modern").design.stem_stride == 4


def test_in_a_shorter_regime_with_the_papers_batches_the_two_recipes_are_compared(tmp_path: Path) -> None:
    """Batches of 256 and of 4,096 images, each the paper's; and the report does not take them for the paper's runs."""
    data = {"data": {"name": "imagenet"}, "resolution": 128}
    for rung, batch in {"resnet": 256, "modern_recipe": 4096}.items():
        recipe = {"epochs": 30, "batch_size": batch}
        write_run(tmp_path, rung, regime="imagenet_short", config={"recipe": recipe, **data})
    (comparison,) = analysis.comparisons(analysis.load(tmp_path))
    assert comparison.context.title == "imagenet_short on ImageNet-1K, 128 px, 30 epochs"
    assert "not the paper's ImageNet results" in comparison.context.scale
