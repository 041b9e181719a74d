"""A run's identity is what decides its result and nothing else; its labels say what it is."""

import json
from collections.abc import Callable
from dataclasses import asdict

import pytest
from omegaconf import OmegaConf

import roadmap
from experiments.run import to_run
from experiments.settings import Config
from roadmap.steps import compose, options, rung_steps

DECISIVE = [
    "design.kernel_size=5",
    "design.depths=[1,2,1,1]",
    "design.head_scale=0.5",
    "step=[gelu]",
    "recipe=modern",
    "recipe.lr=0.0123",
    "recipe.epochs=17",
    "recipe.batch_size=34",
    "recipe.drops=[1/2]",
    "recipe.weight_decay=0.01",
    "data=fashion_mnist",
    "data.subset=0.5",
    "data.holdout=0.1",
    "resolution=64",
    "model=timm:resnet18",
]
INDIFFERENT = [
    *("device=cpu", "threads=3", "workers=2", "runs=elsewhere", "data.path=elsewhere", "study_name=other"),
    *("logger=wandb", "logger.mode=offline", "logger.project=other", "logger.entity=me"),
    *("data.train_images=5", "data.val_images=5"),
]


@pytest.mark.parametrize("override", DECISIVE)
def test_what_decides_the_result_is_in_the_identity_and_the_series(override: str, run_of: Callable) -> None:
    plain, other = run_of(), run_of(override)
    assert other.identity != plain.identity
    assert other.series != plain.series
    assert other.name != plain.name


@pytest.mark.parametrize("override", INDIFFERENT)
def test_where_a_run_happens_is_not(override: str, run_of: Callable) -> None:
    plain, other = run_of(), run_of(override)
    assert (other.identity, other.series, other.name) == (plain.identity, plain.series, plain.name)


def test_replicates_differ_in_seed_alone(run_of: Callable) -> None:
    plain, other = run_of("seed=0"), run_of("seed=1")
    assert other.identity != plain.identity
    assert other.series == plain.series


def test_name_of_regime_and_rung_is_not_in_the_identity(run_of: Callable) -> None:
    """The same network, recipe and resolution, asked for as a departure from another regime."""
    nano = run_of("rung=resnet")
    shape = [f"design.depths={list(nano.design.depths)}".replace(" ", ""), f"design.width={nano.design.width}"]
    recipe = [f"recipe.{name}={getattr(nano.recipe, name)}" for name in ("epochs", "batch_size", "lr")]
    same = (*shape, *recipe, f"resolution={nano.resolution}", "micro_batch_size=null")
    other = run_of("regime=resnet50", *same)
    assert (nano.regime, nano.place.rung) == ("nano", "resnet")
    assert (other.regime, other.place.rung) == ("resnet50", None)
    assert other.identity == nano.identity


def test_of_a_timm_model_only_stochastic_depth_counts_of_the_design(run_of: Callable) -> None:
    plain = run_of("model=timm:convnext_atto")
    assert run_of("model=timm:convnext_atto", "rung=patchify_stem", "recipe=original").series == plain.series
    assert run_of("model=timm:convnext_atto", "design.width=24").identity == plain.identity
    assert run_of("model=timm:convnext_atto", "design.drop_path=0.1").identity != plain.identity
    assert run_of("model=timm:convnext_femto").identity != plain.identity


@pytest.mark.parametrize("regime", options("regime"))
def test_rungs_are_labelled_as_themselves(regime: str) -> None:
    """Composed without Hydra, which test_steps.py holds to the same, but slowly."""
    data = {"data": {"name": "fashion_mnist_sample", "reader": "sample", "num_classes": 10}}
    for rung in roadmap.ladder(regime):
        config = OmegaConf.merge(compose(regime, rung.steps), data)
        del config["defaults"]
        run = to_run(OmegaConf.merge(OmegaConf.structured(Config), config))
        assert (run.regime, run.place.rung, run.place.steps, run.place.differs) == (regime, rung.name, rung.steps, {})
        assert run.design == rung.design


@pytest.mark.parametrize(
    "overrides",
    [
        ["step=[patchify_stem,modern_recipe,stage_ratio]"],
        ["step=[modern_recipe,stage_ratio]", "design.stem=patchify"],
        ["recipe=modern", "design.stem=patchify", "design.depths=[1,1,3,1]"],
        ["rung=stage_ratio", "design.stem=patchify"],
    ],
)
def test_rung_reached_on_foot_is_that_rung(overrides: list[str], run_of: Callable) -> None:
    run, rung = run_of(*overrides), run_of("rung=patchify_stem")
    assert (run.place.rung, run.place.steps, run.place.differs) == ("patchify_stem", rung_steps("patchify_stem"), {})
    assert run == rung


@pytest.mark.parametrize("left_out", rung_steps("separate_downsampling"))
def test_leave_one_out_is_a_set_of_steps(left_out: str, run_of: Callable) -> None:
    """In the regime where two steps change the width."""
    steps = tuple(step for step in rung_steps("separate_downsampling") if step != left_out)
    run = run_of("regime=resnet200", f"step=[{','.join(steps)}]")
    assert run.place.steps == steps
    assert run.place.rung == ("layer_norm" if left_out == "separate_downsampling" else None)
    assert run.place.differs == {}


@pytest.mark.parametrize(
    "overrides",
    [["design.width=20"], ["rung=gelu", "design.drop_path=0.3"], ["design.depths=[2,2,2,2]"], ["design=convnext_tiny"]],
)
def test_any_other_design_is_no_set_of_steps(overrides: list[str], run_of: Callable) -> None:
    run = run_of(*overrides)
    assert (run.place.rung, run.place.steps) == (None, None)
    assert run.label == "design"


@pytest.mark.parametrize(
    ("overrides", "differs"),
    [
        (["recipe.lr=0.0123"], {"recipe.lr": 0.0123}),
        (["recipe.drops=[1/2]", "recipe.epochs=17"], {"recipe.drops": ["1/2"], "recipe.epochs": 17}),
        (["rung=gelu", "regime=resnet50", "recipe.rand_augment=null"], {"recipe.rand_augment": None}),
        (["rung=gelu", "resolution=64"], {"resolution": 64}),
        (["rung=gelu", "regime=resnet200", "recipe.batch_size=1024"], {"recipe.batch_size": 1024}),
        (["rung=gelu", "seed=3", "threads=2", "device=cpu"], {}),
    ],
)
def test_differs_names_what_was_overridden(overrides: list[str], differs: dict, run_of: Callable) -> None:
    assert run_of(*overrides).place.differs == differs


def test_config_is_plain_json(run_of: Callable) -> None:
    run = run_of("rung=gelu", "recipe.lr=0.01", "model=timm:convnext_atto")
    config = run.to_json()
    assert json.loads(json.dumps(config)) == config
    assert config["design"] == json.loads(json.dumps(asdict(run.design)))
    assert config["recipe"] == asdict(run.recipe)
