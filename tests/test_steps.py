"""The ladder is what the paper's tables say, whoever composes it and in whatever order the steps are named."""

import csv
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import hydra
import pytest
from omegaconf import DictConfig, OmegaConf

import roadmap
from experiments.config.overrides import with_steps
from experiments.config.settings import register
from roadmap.conf import CONF, OURS, to_design

FACTS = Path(__file__).with_name("facts")
TABLES = {
    "resnet50": "resnet50_to_convnext_t.csv",
    "resnet200": "resnet200_to_convnext_b.csv",
    "nano": "resnet50_to_convnext_t.csv",
    "small": "resnet50_to_convnext_t.csv",
    "imagenet_short": "resnet50_to_convnext_t.csv",
}
PROPORTIONS = ("nano", "small")  # regimes of other networks, in the proportions of those of the table
LADDERS = {regime: {rung.name: rung for rung in roadmap.ladder(regime)} for regime in TABLES}
RUNGS = [(regime, rung) for regime, rungs in LADDERS.items() for rung in rungs]

KERNELS = {f"kernel_{k}": {"kernel_size": k} for k in (5, 7, 9, 11)}
SWITCHES = {  # what each step changes of the first rung's design: the table in facts/README.md
    "patchify_stem": {"stem": "patchify"},
    "depthwise_conv": {"groups": "depthwise"},
    "invert_dimensions": {"bottleneck": "inverted"},
    "move_up_depthwise": {"spatial_conv": "first"},
    **KERNELS,
    "gelu": {"activation": "gelu"},
    "fewer_activations": {"activation_placement": "one"},
    "fewer_norms": {"norm_placement": "one"},
    "layer_norm": {"norm": "layer"},
    "separate_downsampling": {"downsampling": "separate"},
    "remove_layer_scale": {"layer_scale": 0.0},
    "grn": {
        "layers": {"grn": {"at": "hidden", "_target_": "timm.layers.grn.GlobalResponseNorm", "channels_last": False}}
    },
}
AFTER = {"remove_layer_scale": ["modern_recipe"]}  # which has the layer scale

MODERN = {"init": "truncated_normal", "layer_scale": 1e-6}
SIZES = {
    "resnet50": {
        "modern_recipe": MODERN | {"drop_path": 0.1},
        "stage_ratio": {"depths": [3, 3, 9, 3]},
        "increase_width": {"width": 96},
    },
    "resnet200": {
        "modern_recipe": MODERN | {"drop_path": 0.5},
        "stage_ratio": {"depths": [3, 3, 27, 3], "width": 84},
        "increase_width": {"width": 128},
    },
    "nano": {
        "modern_recipe": {"init": "truncated_normal", "layer_scale": 0.912, "drop_path": 0.000667},  # 2 of 300 epochs
        "stage_ratio": {"depths": [1, 1, 3, 1]},
        "increase_width": {"width": 12},
    },
    "small": {
        "modern_recipe": {"init": "truncated_normal", "layer_scale": 0.794, "drop_path": 0.00167},  # 5
        "stage_ratio": {"depths": [1, 1, 3, 1]},
        "increase_width": {"width": 24},
    },
    "imagenet_short": {
        "modern_recipe": {"init": "truncated_normal", "layer_scale": 0.251, "drop_path": 0.01},  # 30
        "stage_ratio": {"depths": [3, 3, 9, 3]},
        "increase_width": {"width": 96},
    },
}


def table(regime: str) -> list[dict[str, str]]:
    with (FACTS / TABLES[regime]).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def number(text: str) -> float | None:
    return float(text) if text else None


@pytest.mark.parametrize("regime", TABLES)
def test_ladder_is_the_published_table(regime: str) -> None:
    ladder, rows = roadmap.ladder(regime), table(regime)
    assert len(ladder) == len(rows) == 17
    for rung, row in zip(ladder, rows, strict=True):
        assert rung.name == row["name"]
        assert rung.parent == (row["parent"] or None)
        assert rung.section == row["paper_section"]
        assert rung.adopted == (row["adopted"] == "yes")
        published = tuple(number(row[f"published_{column}"]) for column in ("top1", "top1_std", "gflops"))
        assert rung.published == published
        if regime not in PROPORTIONS:
            assert rung.title == row["title"]


@pytest.mark.parametrize("regime", PROPORTIONS)
def test_a_small_regime_does_not_borrow_the_names_of_networks_that_it_is_not(regime: str) -> None:
    titles = [rung.title for rung in roadmap.ladder(regime)]
    assert not any("ResNet-50" in title or "ConvNeXt-T" in title for title in titles)


@pytest.mark.parametrize(("regime", "name"), RUNGS)
def test_rung_is_its_parent_and_its_own_step(regime: str, name: str) -> None:
    rung = LADDERS[regime][name]
    if name == "resnet":
        assert rung.steps == ()
    else:
        assert rung.steps == (*LADDERS[regime][rung.parent].steps, name)


@pytest.mark.parametrize("regime", TABLES)
def test_ladder_runs_between_the_known_networks(regime: str) -> None:
    ends = {"resnet50": ("resnet50", "convnext_tiny"), "resnet200": ("resnet200", "convnext_base")}
    if regime in ends:
        first, last = map(roadmap.design, ends[regime])
        assert LADDERS[regime]["resnet"].design == first
        assert replace(LADDERS[regime]["separate_downsampling"].design, drop_path=0) == last


@pytest.mark.parametrize("step", OURS.options("step"))
@pytest.mark.parametrize("regime", TABLES)
def test_step_flips_its_switch_and_no_other(regime: str, step: str) -> None:
    before = OURS.compose(regime, AFTER.get(step, []))
    after = OURS.compose(regime, [*AFTER.get(step, []), step])
    old, new = to_design(before.design).to_json(), to_design(after.design).to_json()
    changed = {field: value for field, value in new.items() if value != old[field]}
    assert changed == (SWITCHES | SIZES[regime])[step]
    assert (before.recipe.name != after.recipe.name) == (step == "modern_recipe")


@pytest.mark.parametrize("regime", TABLES)
def test_widest_step_decides_the_width(regime: str) -> None:
    start, ratio, wide = {
        **dict.fromkeys(("resnet50", "imagenet_short"), (64, 64, 96)),
        **{"resnet200": (64, 84, 128), "nano": (8, 8, 12), "small": (16, 16, 24)},
    }[regime]
    widths = {(): start, ("stage_ratio",): ratio, ("increase_width",): wide, ("stage_ratio", "increase_width"): wide}
    assert {steps: to_design(OURS.compose(regime, steps).design).width for steps in widths} == widths


@pytest.mark.parametrize("seed", range(20))
def test_order_of_steps_never_matters(seed: int) -> None:
    rng = random.Random(seed)
    kernels = [name for name in OURS.options("step") if name.startswith("kernel_")]
    others = [name for name in OURS.options("step") if name not in kernels]
    steps = [*rng.sample(others, rng.randint(0, len(others))), rng.choice(kernels)]
    regime = rng.choice(list(TABLES))
    expected = plain(OURS.compose(regime, steps))
    for _ in range(3):
        rng.shuffle(steps)
        assert plain(OURS.compose(regime, steps)) == expected


@pytest.mark.parametrize(("one", "other"), list(combinations(KERNELS, 2)))
def test_two_kernel_sizes_are_an_error_that_names_both(one: str, other: str) -> None:
    with pytest.raises(Exception, match=f"steps {one} and {other} contradict each other"):
        to_design(OURS.compose("resnet50", [other, one]).design)


def plain(config: DictConfig) -> dict:
    """What decides a run: the design and the recipe, resolved."""
    return {"design": to_design(config.design), "recipe": OmegaConf.to_container(config, resolve=True)["recipe"]}


@pytest.fixture(scope="module")
def command_line() -> Iterator[None]:
    """Hydra, set up as the training command sets it up."""
    register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@pytest.mark.parametrize(("regime", "name"), RUNGS)
def test_hydra_composes_the_same_rung(command_line: None, regime: str, name: str) -> None:
    """As `rung=NAME`, and as the list of its steps in any order."""
    rung = LADDERS[regime][name]
    recipe = plain(OURS.compose(regime, rung.steps))["recipe"]
    steps = random.Random(name).sample(rung.steps, len(rung.steps))
    for override in (f"rung={name}", f"step=[{','.join(steps)}]"):
        config = hydra.compose("config", with_steps([f"regime={regime}", override], OURS))
        composed = plain(config)
        assert composed["design"] == rung.design
        assert {key: composed["recipe"][key] for key in recipe} == recipe
        assert composed["recipe"]["name"] == rung.recipe


def test_hydra_refuses_two_kernel_sizes(command_line: None) -> None:
    with pytest.raises(Exception, match="steps kernel_9 and kernel_5 contradict each other"):
        to_design(hydra.compose("config", ["step=[kernel_9,kernel_5]"]).design)


@pytest.mark.parametrize(
    ("call", "wrong", "nearest"),
    [
        (roadmap.ladder, "resnet51", "resnet50"),
        (roadmap.design, "convnext_tinny", "convnext_tiny"),
        (lambda name: roadmap.road()[name], "gelo", "gelu"),
        (roadmap.road, "convnex", "convnext"),
        (lambda name: OURS.compose("resnet50", [name]), "depthwise", "depthwise_conv"),
    ],
)
def test_unknown_name_is_told_the_nearest(call, wrong: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"'{wrong}'; did you mean '{nearest}'?"):
        call(wrong)


def test_ladder_needs_neither_torch_nor_hydra() -> None:
    """Reports and `--help` read the ladder; torch alone takes seconds to import."""
    code = "import sys, roadmap; roadmap.ladder(); print(sorted({'torch', 'hydra'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_road_that_extends_the_papers_ends_at_convnext_v2() -> None:
    paper, longer = roadmap.road("convnext", "resnet50"), roadmap.road("convnext_v2", "resnet50")
    assert longer.rungs[:17] == paper.rungs
    assert [rung.published for rung in longer.rungs[17:]] == [None, None]
    last = roadmap.ladder("resnet50", "convnext_v2")[-1]
    assert last.design is not None
    assert replace(last.design, drop_path=0) == roadmap.design("convnextv2_tiny")
    assert roadmap.Road.from_json(longer.to_json()) == longer
