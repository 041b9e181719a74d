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

SCALED = ("mixup_prob", "random_erasing", "label_smoothing")
"""Settings of the recipe that are proportional to the strength of the regularization."""
ADOPTED_KERNEL = 7
FULL = 300
"""Epochs of the paper's modern recipe."""


def recipe(regime: str, epochs: int | None = None) -> dict:
    composed = OURS.compose(regime, ["modern_recipe"])
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
@pytest.mark.parametrize("epochs", [1, 3, 30, 300, 600])
def test_regularization_is_in_proportion_to_the_epochs_up_to_the_papers(regime: str, epochs: int) -> None:
    paper, here, part = recipe("resnet50"), recipe(regime, epochs), min(1, epochs / FULL)
    for name in (*SCALED, "drop_path"):
        assert here[name] == pytest.approx(part * paper[name], rel=0.005), name
    assert here["layer_scale"] == pytest.approx(paper["layer_scale"] ** part, rel=0.005)
    assert (here["mixup"], here["cutmix"]) == (paper["mixup"], paper["cutmix"])


def test_rand_augment_is_applied_less_often() -> None:
    assert recipe("imagenet_short")["rand_augment"] == "rand-m9-mstd0.5-inc1-p0.05"
    assert recipe("imagenet_short", FULL)["rand_augment"] == recipe("resnet50")["rand_augment"]


def test_the_papers_regimes_keep_all_of_it_whatever_their_epochs() -> None:
    for regime in ("resnet50", "resnet200"):
        assert {**recipe(regime, 30), "epochs": 300} == recipe(regime)


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
