"""A run's identity is what decides its result and nothing else; its labels say what it is."""

import copy
import io
import json
import random
import re
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, suppress
from dataclasses import Field, asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

import hydra
import pytest
from omegaconf import OmegaConf
from PIL import Image

import roadmap
from experiments.config.overrides import with_steps
from experiments.config.requested import Requested
from experiments.config.run import to_run
from experiments.config.settings import Config, EvaluationConfig, Recipe, register
from experiments.config.timm_names import RandAugment
from experiments.data.transforms import TrainingTransform
from experiments.errors import refusing
from hydra_plugins.study import LocalLauncherConf, SlurmLauncherConf
from roadmap.common.bounds import Number, bounds_of
from roadmap.conf import CONF, OURS

ROAD = roadmap.road()
DECISIVE = [
    "design.kernel_size=5",
    "design.depths=[1,2,1,1]",
    "design.head_scale=0.5",
    "step=[gelu]",
    "recipe=modern",
    "recipe.lr=0.0123",
    "recipe.epochs=17",
    "recipe.batch_size=34",
    "recipe.milestones=[1/2]",
    "recipe.weight_decay=0.01",
    "data=fashion_mnist",
    "data.subset=0.5",
    "data.holdout=0.1",
    "resolution=64",
    "model=timm:resnet18",
]
INDIFFERENT = [
    *("device=cpu", "threads=3", "workers=2", "runs=elsewhere", "data.path=elsewhere", "study_name=other"),
    *("logger=wandb", "logger=tensorboard"),
    *("data.train_images=5", "data.val_images=5"),
]


@pytest.mark.parametrize("override", DECISIVE)
def test_what_decides_the_result_is_in_the_identity_and_the_series(override: str, run_of: Callable) -> None:
    plain, changed = run_of(), run_of(override)
    assert changed.identity != plain.identity
    assert changed.series != plain.series
    assert changed.name != plain.name


@pytest.mark.parametrize("override", INDIFFERENT)
def test_where_a_run_happens_is_not(override: str, run_of: Callable) -> None:
    plain, changed = run_of(), run_of(override)
    assert (changed.identity, changed.series, changed.name) == (plain.identity, plain.series, plain.name)


def test_replicates_differ_in_seed_alone(run_of: Callable) -> None:
    plain, changed = run_of("seed=0"), run_of("seed=1")
    assert changed.identity != plain.identity
    assert changed.series == plain.series


def test_name_of_regime_and_rung_is_not_in_the_identity(run_of: Callable) -> None:
    """The same network, recipe and resolution, asked for as a departure from another regime."""
    nano = run_of("rung=resnet")
    shape = [f"design.depths={list(nano.design.depths)}".replace(" ", ""), f"design.width={nano.design.width}"]
    recipe = [f"recipe.{name}={getattr(nano.recipe, name)}" for name in ("epochs", "batch_size", "lr")]
    same = (
        *shape,
        *recipe,
        f"design.stem_stride={nano.design.stem_stride}",
        f"resolution={nano.resolution}",
        "micro_batch_size=null",
    )
    changed = run_of("regime=resnet50", *same)
    assert (nano.regime, nano.requested.rung) == ("nano", "resnet")
    assert (changed.regime, changed.requested.rung) == ("resnet50", None)
    assert changed.identity == nano.identity


def test_of_a_timm_model_only_stochastic_depth_counts_of_the_design(run_of: Callable) -> None:
    plain = run_of("model=timm:convnext_atto")
    assert run_of("model=timm:convnext_atto", "rung=patchify_stem", "recipe=original").series == plain.series
    assert run_of("model=timm:convnext_atto", "design.width=24").identity == plain.identity
    assert run_of("model=timm:convnext_atto", "design.drop_path=0.1").identity != plain.identity
    assert run_of("model=timm:convnext_femto").identity != plain.identity


@pytest.mark.parametrize("regime", OURS.options("regime"))
def test_rungs_are_labelled_as_themselves(regime: str) -> None:
    """Composed without Hydra, which test_steps.py holds to the same, but slowly."""
    data = {"data": {"name": "fashion_mnist_sample", "reader": "sample", "num_classes": 10}}
    for rung in roadmap.ladder(regime):
        config = OmegaConf.merge(OURS.compose(regime, rung.steps), data)
        del config["defaults"]
        run = to_run(OmegaConf.merge(OmegaConf.structured(Config), config, {"road": {"steps": rung.steps}}))
        assert (run.regime, run.requested.rung, run.requested.steps, run.requested.differs) == (
            regime,
            rung.name,
            rung.steps,
            {},
        )
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
    assert (run.requested.rung, run.requested.steps, run.requested.differs) == (
        "patchify_stem",
        ROAD["patchify_stem"].steps,
        {},
    )
    assert run == rung


@pytest.mark.parametrize("left_out", ROAD.adopted)
def test_leave_one_out_is_a_set_of_steps(left_out: str, run_of: Callable) -> None:
    """In the regime where two steps change the width."""
    steps = tuple(step for step in ROAD.adopted if step != left_out)
    run = run_of("regime=resnet200", f"step=[{','.join(steps)}]")
    is_rung = left_out == "separate_downsampling"
    assert (run.requested.steps, run.requested.differs) == (steps, {})
    assert run.requested.rung == ("layer_norm" if is_rung else None)
    assert run.label == ("layer_norm" if is_rung else f"separate_downsampling -{left_out}")


DIRECTORIES = {  # of networks whose names are not their directories': those can be typed unquoted
    "gelu +layer_norm": "gelu+layer_norm",
    "modern_recipe +depthwise_conv": "modern_recipe+depthwise_conv",
    "patchify_stem -stage_ratio": "patchify_stem-stage_ratio",
    "resnet +gelu": "resnet+gelu",
    "kernel_9 width=20": "kernel_9+width.20",
    "gelu drop_path=0.3": "gelu+drop_path.0.3",
    "resnet depths=[2,2,2,2]": "resnet+depths.2.2.2.2",
    "convnext_tiny width=32": "convnext_tiny+width.32",
    "separate_downsampling +remove_layer_scale": "separate_downsampling+remove_layer_scale",
}


@pytest.mark.parametrize(
    ("overrides", "label"),
    [
        (["rung=gelu", "step=[layer_norm]"], "gelu +layer_norm"),
        (["rung=gelu", "step=[layer_norm,kernel_7]"], "gelu +layer_norm"),
        (["step=[depthwise_conv,modern_recipe]"], "modern_recipe +depthwise_conv"),
        (["step=[modern_recipe,patchify_stem]"], "patchify_stem -stage_ratio"),
        (["step=[gelu]"], "resnet +gelu"),
        (["rung=kernel_9", "design.width=20"], "kernel_9 width=20"),
        (["rung=gelu", "design.drop_path=0.3"], "gelu drop_path=0.3"),
        (["design.depths=[2,2,2,2]"], "resnet depths=[2,2,2,2]"),
        (["design=convnext_tiny"], "convnext_tiny"),
        (["design=convnext_tiny", "design.width=32"], "convnext_tiny width=32"),
        (["design=convnext_tiny", "recipe=modern", "regime=resnet50"], "separate_downsampling"),
        (["rung=separate_downsampling", "step=[remove_layer_scale]"], "separate_downsampling +remove_layer_scale"),
        (["rung=remove_layer_scale", "road=convnext_v2"], "remove_layer_scale"),
    ],
)
def test_network_is_called_by_its_nearest_rung_and_what_differs(overrides: list, label: str, run_of: Callable) -> None:
    run = run_of(*overrides)
    assert run.label == label
    assert run.name == f"{run.regime}-{DIRECTORIES.get(label, label)}-seed0-{run.identity[:8]}"
    assert (run.requested.rung == label) == (label in run.requested.road.names)


def test_network_asked_for_in_two_ways_lies_in_one_directory(run_of: Callable, tmp_path: Path) -> None:
    first = run_of("rung=separate_downsampling", "design.activation=relu", f"runs={tmp_path}")
    steps = ",".join(step for step in ROAD.adopted if step != "gelu")
    second = run_of(f"step=[{steps}]", f"runs={tmp_path}")
    assert (first.label, second.label) == ("separate_downsampling activation=relu", "separate_downsampling -gelu")
    assert first.identity == second.identity
    first.directory.mkdir()
    assert second.directory == first.directory
    assert replace(second, seed=1).directory != first.directory


@pytest.mark.parametrize(
    ("overrides", "differs"),
    [
        (["recipe.lr=0.0123"], {"recipe.lr": 0.0123}),
        (["recipe.milestones=[1/2]", "recipe.epochs=17"], {"recipe.milestones": ["1/2"], "recipe.epochs": 17}),
        (["rung=gelu", "regime=resnet50", "recipe.rand_augment=null"], {"recipe.rand_augment": None}),
        (["rung=gelu", "resolution=64"], {"resolution": 64}),
        (["rung=gelu", "regime=resnet200", "recipe.batch_size=1024"], {"recipe.batch_size": 1024}),
        (["rung=gelu", "seed=3", "threads=2", "device=cpu"], {}),
    ],
)
def test_differs_names_what_was_overridden(overrides: list[str], differs: dict, run_of: Callable) -> None:
    assert run_of(*overrides).requested.differs == differs


def test_config_is_plain_json(run_of: Callable) -> None:
    run = run_of("rung=gelu", "recipe.lr=0.01", "model=timm:convnext_atto")
    config = run.to_json()
    assert json.loads(json.dumps(config)) == config
    assert config["design"] == run.design.to_json()
    assert config["recipe"] == asdict(run.recipe)


# Bounds.

SCHEMAS = [Config, EvaluationConfig, LocalLauncherConf, SlurmLauncherConf, roadmap.Design]


def settings_of(schema: type, path: str = "") -> Iterator[tuple[str, Any, Field]]:
    """(key, type, field) of every setting of a schema and of those in it."""
    for field in fields(schema):
        kind = get_type_hints(schema)[field.name]
        if is_dataclass(kind):
            yield from settings_of(kind, f"{path}{field.name}.")
        else:
            yield f"{path}{field.name}", kind, field


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_number_and_text_has_bounds(schema: type) -> None:
    """A switch of the design has its own in `Design`, which is among the schemas."""
    unbounded = [
        key
        for key, kind, field in settings_of(schema)
        if re.search(r"\b(int|float|str)\b", str(kind))
        and not bounds_of(field)
        and not key.startswith(("design.", "_"))
    ]
    literals = {"groups"} if schema is roadmap.Design else {"additional_parameters"}
    assert {*unbounded} <= literals


HOSTILE = (-1, 0, float("nan"), float("inf"), 1e30, 2**63, 10**400, "", None, [], ["nan"], "text", "\x1b[31m", "a/b")


def test_hostile_value_makes_a_run_or_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each setting with some of them; all took minutes, and were looked at by hand."""
    register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        plain = hydra.compose("config", [])
    monkeypatch.setattr("experiments.config.run.requested", lambda *_: Requested(ROAD, (), "resnet", {}))
    rng = random.Random(0)
    for key in [key for key, _, _ in settings_of(Config)]:
        for value in rng.sample(HOSTILE, 3):
            config, err = copy.deepcopy(plain), io.StringIO()
            with redirect_stderr(err), suppress(SystemExit), refusing(Config):
                OmegaConf.update(config, key, value)
                to_run(config)
                err.write("error: none\n")
            assert re.fullmatch("error: [^\n]+\n", err.getvalue()), (key, value)


@pytest.mark.parametrize(
    ("policy", "is_one"),
    [
        *[
            (policy, True)
            for policy in ("rand-m9-mstd0.5-inc1", "rand", "rand-m10-n3-p0.5-tweights", "rand-m5-mmax8-mstd101")
        ],
        *[(policy, False) for policy in ("rand-m9999", "rand-foo", "rand-m9-m9", "rand-", "rand-mstdinf", "rand-n0")],
        *[
            (policy, False)
            for policy in ("augmix-m3", "rand-p1.5", "rand-inc2", "rand-tfoo", "rand-m9.5", "", "rand-m1e1")
        ],
    ],
)
def test_policy_of_randaugment_is_one_that_timm_reads_whole(policy: str, is_one: bool) -> None:
    assert (RandAugment().problem(policy) is None) == is_one
    if is_one:
        transform = TrainingTransform(Recipe(name="mine", rand_augment=policy), 32)
        assert all(
            transform(Image.new("RGB", (32, 32)), key).shape == (3, 32, 32) for key in range(50)
        )  # whatever it draws


def test_number_is_in_its_interval() -> None:
    within = {"[0, 1)": (0, 0.5), "(0, 1]": (1, 1e-9), "[0, 2^63)": (0, 2**63 - 1), "[1, 1_000]": (1, 1000)}
    beyond = {"[0, 1)": (-1e-9, 1, float("nan")), "(0, 1]": (0, 1.1), "[0, 2^63)": (2**63, float("inf"), True, "1")}
    assert all(Number(interval).problem(value) is None for interval, values in within.items() for value in values)
    assert all(Number(interval).problem(value) for interval, values in beyond.items() for value in values)


# Batches.


@pytest.mark.parametrize(
    ("regime", "rung"), [("resnet50", "resnet"), ("resnet50", "gelu"), ("resnet200", "layer_norm")]
)
def test_published_regimes_are_the_same_run_on_any_number_of_gpus(regime: str, rung: str) -> None:
    """On up to eight; with batches of 4,096 on 32. A larger number splits what BatchNorm sees further."""
    register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        words = [f"regime={regime}", f"rung={rung}", "data=imagenet", "data.path=/x"]
        config = hydra.compose("config", with_steps(words, OURS))
    identities = {}
    for processes in (1, 2, 4, 8, 16, 32):
        run = to_run(config, processes=processes)
        assert run.split.processes * run.split.accumulation * run.split.micro_batch_size == run.recipe.batch_size
        identities[processes] = run.identity
    assert len({identities[processes] for processes in (1, 2, 4, 8)}) == 1
    assert len({*identities.values()}) == (3 if rung == "resnet" else 1)
