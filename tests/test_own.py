"""What a user brings in a folder of their own: steps, layers, roads, regimes, recipes. docs/own-step.md is true."""

import json
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path

import hydra
import pandas as pd
import pytest
from omegaconf import OmegaConf

from analysis.report import __main__ as report
from experiments.config.overrides import with_steps
from experiments.config.run import to_run
from experiments.config.settings import register
from experiments.status import __main__ as status
from roadmap.conf import CONF, Conf, to_design

PAGE = (Path(__file__).parent.parent / "docs" / "own-step.md").read_text("utf-8")
GLOBAL = "# @package _global_\n"
REGIME = """\
regime:
  name: pico
  depths: {start: [1, 1, 1, 1], stage_ratio: [1, 1, 2, 1]}
  widths: {start: 8, stage_ratio: 8, increase_width: 12}
  drop_path: 0
resolution: 32
recipe: {epochs: 1, batch_size: 50}
"""
RECIPE = "defaults: [modern, _self_]\nrecipe: {name: mine, lr: 0.002, mixup: 0, cutmix: 0}\n"
FILES = {
    "step/silu.yaml": f"{GLOBAL}design: {{activation: silu}}\n",
    "step/wide.yaml": f"{GLOBAL}widths: {{wide: 40}}\n",
    "road/mine.yaml": "extends: convnext\nrungs:\n  - {step: silu, title: ReLU and GELU to SiLU}\n  - step: wide\n",
    "regime/pico.yaml": GLOBAL + REGIME,
    "recipe/mine.yaml": GLOBAL + RECIPE,
    "study/both.yaml": f"{GLOBAL}study_name: both\nhydra: {{sweeper: {{params: {{rung: 'gelu, wide', seed: '0'}}}}}}\n",
}


@pytest.fixture
def own(here: Path) -> Callable[[dict[str, str]], Path]:
    """`my`, a folder of one's own with these files besides FILES."""

    def write(files: dict[str, str]) -> Path:
        for name, text in (FILES | files).items():
            (here / "my" / name).parent.mkdir(parents=True, exist_ok=True)
            (here / "my" / name).write_text(text)
        return here / "my"

    return write


def test_page_is_true(fork: Callable, here: Path, capsys: pytest.CaptureFixture) -> None:
    """Its files, each under its name, and its commands as they are typed, but for the number of images."""
    for name, text in re.findall(r"`((?:my/|my_)[\w/]+\.\w+)`[^`]*?\n```\w+\n(.+?)```", PAGE, re.S):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(text)
    assert len([*here.glob("my/*/*.yaml")]) == 4

    def run(command: str) -> str:
        module, *words = command.replace("=0.05", "=0.01").split()
        if module == "experiments.train":
            process = fork(*words)
            out, _ = process.communicate()
            assert process.returncode == 0, out
            return out
        main = {"experiments.status": status.main, "analysis.report": report.main}[module]
        assert main(words) == 0
        return capsys.readouterr().out

    first, look, tell, road, again = re.findall(r"^    python -m (.+)$", PAGE, re.M)
    run(first)
    names = {re.sub(r"^nano-|-seed.*", "", line) for line in run(look).splitlines() if "-seed" in line}
    assert names == {"resnet", "resnet+se", "resnet+silu", "resnet+tempered"}
    run(tell)
    effects = pd.read_csv(next(here.glob("reports/*/besides.csv")))
    assert sorted(effects["step"]) == ["se", "silu", "tempered"]
    assert {*effects["on"]} == {"resnet"}
    assert (effects["low"] < effects["effect"]).all()
    assert (effects["effect"] < effects["high"]).all()
    assert "4 of 4 runs are done" in run(road)
    run(again)
    rungs = pd.concat(map(pd.read_csv, here.glob("reports/*/ladder.csv"))).set_index("rung")
    assert rungs.loc["se", "title"] == "squeeze-and-excitation"
    assert rungs.loc["se", "change"] == pytest.approx(
        rungs.loc["se", "mean"] - rungs.loc["separate_downsampling", "mean"]
    )


@pytest.mark.parametrize(
    "words",
    [
        ["rung=wide", "road=mine", "regime=pico", "recipe=mine"],
        ["rung=kernel_9", "step=[silu]", "regime=resnet200"],
        ["road=mine", "rung=silu", "step=[remove_layer_scale]"],
        ["design=convnext_tiny", "recipe=mine", "regime=resnet50"],
    ],
)
def test_composer_and_hydra_agree_on_files_of_ones_own(words: list[str], own: Callable) -> None:
    """However steps are ordered: Hydra gets them in the composer's order."""
    conf = Conf((CONF, own({})))
    register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        search = f"hydra.searchpath=[file://{conf.folders[1]}]"
        found = hydra.compose("config", [search, *with_steps(words, conf)])
    asked, shuffled = found.road, random.Random(0).sample([*found.road.steps], len(found.road.steps))
    ours = conf.compose(found.regime.name, shuffled, asked.name, found.recipe.name, asked.design)
    assert to_design(ours.design) == to_design(found.design)
    recipe = OmegaConf.to_container(ours, resolve=True)["recipe"]
    assert {key: found.recipe[key] for key in recipe} == recipe


def test_steps_that_set_no_switch_of_the_network_are_steps_too(own: Callable, here: Path) -> None:
    """And one that is based on another, which composer and Hydra put together."""
    smooth = f"{GLOBAL}recipe: {{label_smoothing: 0.2}}\n"
    based = f"{GLOBAL}defaults: [silu, _self_]\ndesign: {{kernel_size: 13}}\n"
    fine = f"{GLOBAL}defaults: [{{override /recipe: convnext}}]\n"
    conf = Conf((CONF, own({"step/smooth.yaml": smooth, "step/based.yaml": based, "step/fine.yaml": fine})))
    register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        for step in ("smooth", "based", "fine"):
            words = [f"hydra.searchpath=[file://{conf.folders[1]}]", "rung=modern_recipe", f"step=[{step}]"]
            run = to_run(hydra.compose("config", with_steps(words, conf)), conf=conf)
            assert (run.label, run.requested.rung, run.requested.differs) == (f"modern_recipe +{step}", None, {})
            assert run.requested.steps == ("modern_recipe", step)


def test_study_of_ones_own_names_its_road(own: Callable, study_runs: Callable, here: Path) -> None:
    own({"study/walk.yaml": GLOBAL + "road: {name: mine}\nhydra: {sweeper: {params: {rung: '${road:rungs}'}}}\n"})
    runs = study_runs("--config-dir", "my", "study=walk")
    assert [run.label for run in runs][-2:] == ["silu", "wide"]
    assert {run.requested.road.name for run in runs} == {"mine"}


def test_regime_recipe_road_and_study_of_ones_own_train(own: Callable, fork: Callable, here: Path) -> None:
    own({})
    words = ("-m", "study=both", "road=mine", "regime=pico", "recipe=mine", "data.subset=0.05", "data.holdout=0.02")
    process = fork("--config-dir", "my", *words)
    out, _ = process.communicate()
    assert process.returncode == 0, out
    records = [json.loads(path.read_text()) for path in sorted(here.glob("runs/*/config.json"))]
    assert [(one["network"], one["rung"], one["differs"]["recipe"]) for one in records] == [
        ("gelu", "gelu", "mine"),
        ("wide", "wide", "mine"),
    ]
    assert [rung["title"] for rung in records[0]["road"]["rungs"]][-2:] == ["ReLU and GELU to SiLU", "wide"]
    assert records[0]["recipe"]["lr"] == 0.002
    assert records[1]["design"]["activation"] == "silu", "the later rung of a road wins"


GATE = """\
from torch import nn
import helpers
class Gate(nn.Module):
    def __init__(self, channels): super().__init__()
    def forward(self, x): return helpers.half(x)
"""


def test_identity_has_the_code_of_a_layer_of_ones_own_but_not_its_name(
    own: Callable, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(here)
    (here / "gates.py").write_text(GATE)
    (here / "helpers.py").write_text("def half(x): return x / 2\n")
    step = f"{GLOBAL}design: {{layers: {{NAME: {{at: output, _target_: gates.Gate}}}}}}\n"
    conf = Conf((CONF, own({f"step/{name}.yaml": step.replace("NAME", name) for name in ("gate", "door")})))
    register()

    def series(*words: str) -> str:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            search = f"hydra.searchpath=[file://{conf.folders[1]}]"
            run = to_run(hydra.compose("config", [search, *with_steps(words, conf)]), conf=conf)
        assert "gates" not in sys.modules, "nothing of a user's is imported to name a run"
        return run.series

    before = series("rung=gelu", "step=[gate]")
    assert series("rung=gelu", "step=[door]") == before
    assert series("rung=gelu") != before
    (here / "helpers.py").write_text("def half(x): return x / 3\n")
    assert series("rung=gelu", "step=[gate]") != before


MISTAKES = [  # a file of one's own, what is typed, what the line must say
    ({"step/gelu.yaml": GLOBAL}, "seed=0", "my/step/gelu.yaml: step=gelu is built in; give yours another name"),
    ({"step/x.yaml": "design: {}\n"}, "step=[x]", "my/step/x.yaml: its first line must be '# @package _global_'"),
    ({"step/x.yaml": f"{GLOBAL}design: {{activation: tanh}}\n"}, "step=[silu,x]", "silu and x contradict each other"),
    (
        {
            f"step/{x}.yaml": f"{GLOBAL}design: {{layers: {{{x}: {{at: hidden, _target_: torch.nn.Identity}}}}}}\n"
            for x in "xy"
        },
        "step=[y,x]",
        "steps x and y contradict each other: both put a layer at hidden",
    ),
    ({"step/x.yaml": f"{GLOBAL}seed: 3\n"}, "step=[x]", "step x may not set 'seed', only defaults, design"),
    (
        {"step/x.yaml": f"{GLOBAL}defaults: [{{override /data: folder}}, {{override /step: [gelu]}}]\n"},
        "step=[x]",
        "a step",
    ),
    (
        {"step/x.yaml": f"{GLOBAL}design: {{layers: [a]}}\n"},
        "step=[x]",
        "step x: design.layers must be like {NAME: {at: hidden",
    ),
    (
        {"step/x.yaml": f"{GLOBAL}design: {{width: 9}}\n"},
        "step=[x,wide]",
        "wide and x contradict each other: both set design.w",
    ),
    (
        {"step/null.yaml": GLOBAL},
        "seed=0",
        "my/step/null.yaml: a step's name has letters, digits and _ alone, not 'null'",
    ),
    ({"step/x.yaml": f"{GLOBAL}3\n"}, "step=[x]", "my/step/x.yaml is not a mapping of settings"),
    (
        {"regime/x.yaml": f"{GLOBAL}defaults: [nano]\nregime: {{name: x, ema: 0.9}}\n"},
        "regime=x",
        "regime=x: the setting 'regime.ema' is called 'regime.ema_decay' now",
    ),
    (
        {"regime/x.yaml": f"{GLOBAL}defaults: [nano]\nregime: {{name: x, full_regularization: null}}\n"},
        "regime=x",
        "'regime.full_regularization' is called 'regime.scale_regularization' now",
    ),
    (
        {"road/x.yaml": "extends: convnext\nrungs: [{step: silu, adopted: 'no'}]\n"},
        "road=x",
        "must be true or false, not 'no'",
    ),
    (
        {"road/x.yaml": "extends: convnext\nrungs: [{step: silu, parent: gelu}]\n"},
        "road=x",
        "'separate_downsampling', not 'gelu'",
    ),
    ({}, "step=[sliu]", "unknown step 'sliu'; did you mean 'silu'?"),
    ({}, "rung=wide", "unknown rung 'wide' (known: resnet, modern_recipe"),
    ({}, "road=mien", "unknown road 'mien'; did you mean 'mine'?"),
    ({"road/x.yaml": "extends: x\n"}, "road=x", "road x extends itself"),
    ({"step/x.yaml": f"{GLOBAL}defaults: [x, _self_]\n"}, "step=[x]", "step x is based on itself"),
    ({"road/x.yaml": "extends: convnext\nrungs: {silu: 1}\n"}, "road=x", "road x: `rungs` must be a list"),
    ({"road/x.yaml": "extends: convnext\nrungs: [{step: sliu}]\n"}, "road=x", "unknown step 'sliu'"),
    ({"road/x.yaml": "extends: convnext\nrungs: [{step: silu, titel: a}]\n"}, "road=x", "did you mean 'title'?"),
    (
        {"road/x.yaml": "extends: convnext\nrungs: [{step: gelu}]\n"},
        "road=x",
        "step 'gelu', which its parent already has",
    ),
    (
        {"road/x.yaml": "rungs: [{name: a}, {step: silu, parent: b}]\n"},
        "road=x",
        "is 'b', which is not a rung before it",
    ),
    ({"road/x.yaml": "rungs: [{name: a, published: {resnet50: {top1: 3}}}]\n"}, "road=x", "must be like {top1: 80.62"),
    ({"regime/x.yaml": f"{GLOBAL}regime: {{name: x}}\n"}, "regime=x", "'regime.widths.start' not found"),
    ({"study/x.yaml": f"{GLOBAL}rung: gelu\n"}, "study=x", "rung=gelu in a file is not read"),
    ({}, "--config-dir nowhere", "--config-dir nowhere is not a folder"),
    ({}, "--config-dir my/step", "--config-dir my/step has no folder like those of conf/"),
    ({"step/se.yml": GLOBAL}, "seed=0", "my/step/se.yml is not read: its name must end in .yaml"),
]


@pytest.mark.parametrize(("files", "typed", "said"), MISTAKES, ids=[typed for _, typed, _ in MISTAKES])
def test_mistake_in_a_file_of_ones_own_is_told_in_one_line(
    files: dict, typed: str, said: str, own: Callable, command: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    own(files)
    monkeypatch.setitem(sys.modules, "experiments.launch.worker", None)  # no run may get as far as to import it
    code, out, err = command("--config-dir", "my", *typed.split())
    assert said in err
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_help_lists_rungs_and_files_of_ones_own(own: Callable, command: Callable) -> None:
    own({})
    code, out, _ = command("--config-dir", "my", "--help", "road=mine")
    assert code == 0
    assert re.search(r"^rung: resnet, .+, separate_downsampling, silu, wide \(of road=mine\)$", out, re.M)
    assert re.search(r"^road: convnext, convnext_v2, mine$", out, re.M)
