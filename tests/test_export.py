"""Exported networks give the logits of the network that was trained, in programs that have never seen this project."""

import json
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from records import write_run
from scipy.stats import binomtest
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import roadmap
from experiments.data.transforms import Preprocess, evaluation_transform
from experiments.evaluate.model import EvaluatedModel, TransformSettings
from experiments.export import programs
from experiments.export.__main__ import main
from experiments.export.timm_layout import NotInTimmError, timm_arguments, to_timm
from roadmap import Design

torch.set_num_threads(1)
SMALL = {"width": 8, "depths": [1, 1, 1, 1]}
SE = {"se": {"at": "hidden", "_target_": "timm.layers.SEModule", "rd_ratio": 0.25}}


class Outcome:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def export(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """`python -m experiments.export ...` in this process."""

    def exported(*arguments: object) -> Outcome:
        capsys.readouterr()
        try:
            code = main([*map(str, arguments)])
        except SystemExit as end:
            code = end.code
        return Outcome(code, *capsys.readouterr())

    return exported


def with_random_statistics(network: nn.Module) -> nn.Module:
    """Norms as after training: none is the identity, and no running statistic is 0 or 1."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, (_BatchNorm, nn.LayerNorm)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
        if isinstance(module, _BatchNorm):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval()


def trained(folder: Path, rung: str = "gelu", config: dict | None = None, **settings: Any) -> tuple[Path, nn.Module]:
    """A run's directory with weights, of ten classes, and its network. `config` and the settings are `write_run`'s."""
    run = write_run(folder, rung, config=config, **settings)
    design = Design(**json.loads((run / "config.json").read_text())["design"])
    network = with_random_statistics(roadmap.build(design, 10))
    torch.save(network.state_dict(), run / "weights.pt")
    return run, network


def in_onnxruntime(file: Path, images: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def assert_same(logits: Tensor, reference: Tensor) -> None:
    assert logits.shape == reference.shape
    assert (logits - reference).abs().max() <= 1e-5 * reference.abs().max()


# ---------------------------------------------------------------- programs


@pytest.mark.parametrize("rung", ["resnet", "increase_width", "separate_downsampling"])
@torch.no_grad()
def test_rung_in_torch_and_onnx(rung: str, export: Callable, tmp_path: Path) -> None:
    """For any number of images, of the run's resolution (a last map of 2 x 2 pixels), multiples of 32 and any other."""
    run, network = trained(tmp_path, rung, config={"design": {"depths": [1, 1, 1, 1]}})
    outcome = export(run)
    assert (outcome.code, "no timm: timm has no such network" in outcome.out) == (0, True), outcome.out
    program = torch.export.load(run / "export" / "model.pt2").module()
    for shape in ((1, 3, 32, 32), (5, 3, 64, 96), (2, 3, 49, 70)):
        images = torch.randn(shape)
        logits = network(images)
        assert_same(in_onnxruntime(run / "export" / "model.onnx", images), logits)
        assert_same(program(images), logits)
    here = str(Path(roadmap.__file__).parent).encode()
    assert not [file for file in ("model.pt2", "model.onnx") if here in (run / "export" / file).read_bytes()]


@torch.no_grad()
def test_layer_of_ones_own_in_a_resnet50_regime_rung(export: Callable, tmp_path: Path) -> None:
    config = {"design": SMALL | {"layers": SE}, "resolution": 64}
    run, network = trained(tmp_path, "layer_norm", config, regime="resnet50")
    outcome = export(run, "--formats", "onnx")
    assert outcome.code == 0, outcome.out + outcome.err
    images = torch.randn(2, 3, 64, 96)
    assert_same(in_onnxruntime(run / "export" / "model.onnx", images), network(images))


class OfOneSize(nn.Module):
    """A layer for maps of one size: a learned bias at each position of the four maps of 32 px images."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        side = {8: 16, 16: 8, 32: 4, 64: 2}[channels]
        self.bias = nn.Parameter(torch.randn(channels, side, side))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


@torch.no_grad()
def test_layer_for_maps_of_one_size_gives_a_program_for_one_size() -> None:
    layers = {"position": {"at": "spatial", "_target_": f"{__name__}.OfOneSize"}}
    network = roadmap.build(Design(**SMALL, layers=layers, stem="patchify", stem_stride=2), 10).eval()
    traced = programs.trace(network, 32, 16)
    assert traced.smallest is None
    content, difference = programs.to_pt2(traced, network)
    assert content
    assert difference <= 1e-5


class Undecided(nn.Module):
    """What it does depends on the values of its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x if x.is_meta or x.sum() > 0 else 2 * x


def test_format_that_is_not_possible_is_named_and_the_others_are_written(export: Callable, tmp_path: Path) -> None:
    layers = {"undecided": {"at": "spatial", "_target_": f"{__name__}.Undecided"}}
    run, _ = trained(tmp_path, config={"design": SMALL | {"layers": layers}})
    stale = run / "export" / "model.onnx"
    stale.parent.mkdir()
    stale.write_text("of other weights")
    outcome = export(run, "--trust")
    assert (outcome.code, outcome.err) == (1, "")
    lines = outcome.out.splitlines()
    lacking = [f"{run.name}: no {name}" for name in ("timm", "torch", "onnx")]
    assert [": ".join(line.split(": ")[:2]) for line in lines[1:]] == lacking
    assert "torch.export can't trace it" in lines[2]
    assert {path.name for path in (run / "export").iterdir()} == {"README.md", "model.safetensors"}
    assert "The network needs code that is not in these files" in (run / "export" / "README.md").read_text()


def test_program_with_other_logits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    traced = programs.trace(network, 32, 16)
    assert programs.to_onnx(traced, network, {})[1] <= 1e-5
    for difference in (2e-5, float("nan")):
        monkeypatch.setattr(programs, "difference", lambda *_, value=difference: value)
        for written in (lambda: programs.to_pt2(traced, network), lambda: programs.to_onnx(traced, network, {})):
            with pytest.raises(programs.ExportError, match="its logits differ from the network's by"):
                written()


# ---------------------------------------------------------------- the model card


def blocks(card: str) -> dict[str, str]:
    """{first word of the line above: Python code} of a card."""
    return dict(re.findall(r"^\W*([\w.-]+).*\n\n```python\n([^`]*)```", card, re.M))


ALONE = """
import sys
sys.path.append(sys.argv[1])
{code}
np.save("logits.npy", logits)
found = [name for name in ("torch", "roadmap", "experiments") if name in sys.modules]
assert not found, found
"""


def save_image(size: tuple[int, int]) -> Image.Image:
    """image.png, in the working directory."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(pixels)
    image.save("image.png")
    return image


@torch.no_grad()
def test_examples_of_the_card_give_the_logits_of_an_image(
    export: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they are on the card; that of ONNX in a Python without torch and without this project."""
    config = {"design": SMALL | {"stem_stride": 4}, "resolution": 64}
    run, network = trained(tmp_path, "separate_downsampling", config)
    outcome = export(run)
    assert outcome.code == 0, outcome.out
    monkeypatch.chdir(run / "export")
    transform = evaluation_transform(64, "bicubic")
    logits = network(Preprocess(torch.device("cpu"))(transform(save_image((150, 70)))[None]))
    codes = blocks(Path("README.md").read_text())
    assert {*codes} == {"Images", "ONNX", "torch.export", "timm", "convnext-roadmap"}
    prepare = codes.pop("Images")

    Path("alone.py").write_text(ALONE.format(code=prepare + codes.pop("ONNX")))
    subprocess.run([sys.executable, "-I", "-S", "alone.py", sysconfig.get_paths()["purelib"]], check=True, timeout=120)
    assert_same(torch.from_numpy(np.load("logits.npy")), logits)
    for code in codes.values():
        names: dict[str, Any] = {}
        exec(prepare + code, names)
        assert_same(names["logits"], logits)


@pytest.mark.parametrize(
    ("resolution", "crop_pct", "interpolation", "size"),
    [
        (32, None, "bicubic", (28, 28)),  # with a border
        (32, None, "bicubic", (47, 31)),  # cropped in width, with a border in height
        (64, 0.9, "bilinear", (90, 77)),
        (64, None, "bicubic", (70, 150)),
        (384, None, "bicubic", (70, 150)),  # squashed
    ],
)
def test_card_prepares_an_image_as_the_evaluation_does(
    resolution: int,
    crop_pct: float | None,
    interpolation: str,
    size: tuple[int, int],
    export: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = {"crop_pct": crop_pct, "interpolation": interpolation}
    run, _ = trained(tmp_path, config={"design": SMALL, "resolution": resolution, "recipe": recipe})
    assert export(run, "--formats", "safetensors").code == 0
    monkeypatch.chdir(tmp_path)
    image, names = save_image(size), {}
    exec(blocks((run / "export" / "README.md").read_text())["Images"], names)
    ours = Preprocess(torch.device("cpu"))(evaluation_transform(resolution, interpolation, crop_pct)(image)[None])
    torch.testing.assert_close(torch.from_numpy(names["prepare"]("image.png")), ours)


def test_card_says_what_was_measured_and_how_sure_that_is(export: Callable, tmp_path: Path) -> None:
    """Hugging Face's own reader understands it."""
    git = {"commit": "3f" * 20, "dirty": True}
    summary = {"top1": 79.57, "evaluation_images": 1000, "evaluated_on": "test", "epochs_done": 3, "git": git}
    config = {"design": SMALL, "data": {"name": "flowers/a", "reader": "folder"}, "seed": 7}
    run, _ = trained(tmp_path, "gelu", config, summary=summary)
    names = ["T-shirt/top", *(f"flower_{label}" for label in range(1, 10))]
    (run / "classes.json").write_text(json.dumps(names))
    assert export(run, "--formats", "safetensors", "--licence", "cc-by-4.0").code == 0
    text = (run / "export" / "README.md").read_text()
    from safetensors import safe_open

    assert ", in this order: T-shirt/top, flower\\_1, " in text
    with safe_open(run / "export" / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["class_names"]) == names
    card = ModelCard(text, ignore_metadata_errors=False)
    [top1, _] = card.data.eval_results
    assert (top1.metric_value, top1.task_type) == (79.57, "image-classification")
    assert top1.dataset_name == "flowers/a, validation images"
    assert (card.data.license, card.data.datasets) == ("cc-by-4.0", None)
    low, high = binomtest(796, 1000).proportion_ci(0.95, "wilson")
    assert f"| top-1 | 79.57 | {100 * low:.2f} to {100 * high:.2f} |" in text
    for words in ("1,000 validation images", "another seed gives other weights, and this is seed 7", "3f" * 20):
        assert words in text
    assert "with local changes" in text
    assert "test images" not in text


def test_results_of_held_out_images_or_of_no_finished_run(export: Callable, tmp_path: Path) -> None:
    run, _ = trained(tmp_path, config={"design": SMALL}, summary={"evaluated_on": "holdout", "evaluation_images": 50})
    export(run, "--formats", "safetensors")
    assert "Of 50 images held out from the training images" in (run / "export" / "README.md").read_text()
    (run / "summary.json").unlink()
    assert export(run, "--formats", "safetensors").code == 0
    assert "The run's record has no result of these weights" in (run / "export" / "README.md").read_text()


@torch.no_grad()
def test_moving_average_has_its_own_weights_and_results(export: Callable, tmp_path: Path) -> None:
    run, network = trained(tmp_path, config={"design": SMALL}, summary={"ema_top1": 61.23, "evaluation_images": 100})
    assert export(run, "--ema").err.count("keeps no moving average") == 1
    average = {key: value / 2 if value.is_floating_point() else value for key, value in network.state_dict().items()}
    torch.save(average, run / "weights_ema.pt")
    assert export(run, "--ema", "--formats", "safetensors", "--out", tmp_path / "out").code == 0
    folder = tmp_path / "out" / run.name
    assert "| top-1 | 61.23 |" in (folder / "README.md").read_text()
    from safetensors.torch import load_file

    state = load_file(folder / "model.safetensors")
    assert all(torch.equal(state[key], average[key]) for key in average)


def test_text_of_a_record_stays_text(export: Callable, tmp_path: Path) -> None:
    """In YAML, Markdown, HTML and the terminal."""
    evil = "x\n---\nlicense: mit\n# **b** <script>`a`</script> | [c](d) \x1b[31m"
    config = {"design": SMALL, "data": {"name": evil}, "differs": {evil: evil}, "recipe": {"optimizer": evil}}
    run, _ = trained(tmp_path, config=config, summary={"versions": {evil: evil}, "device": evil})
    (run / "classes.json").write_text(json.dumps([evil] * 10))
    record = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(record | {"network": evil, "regime": evil, "steps": [evil]}))
    outcome = export(run, "--formats", "safetensors")
    assert outcome.code == 0
    text = (run / "export" / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "unknown"
    assert "\x1b" not in text + outcome.out
    shown = re.sub(r"```python.*?```", "", body, flags=re.S)
    assert not re.findall(r"(?<!\\)<|(?<!\\)`|(?<!\\)\*\*b|(?<!\\)\[c", shown)
    assert not [line for line in shown.splitlines() if line.startswith(("# **", "license", "---"))]


# ---------------------------------------------------------------- timm


def model_of(design: Design, classes: int = 5, resolution: int = 64) -> EvaluatedModel:
    network = with_random_statistics(roadmap.build(design, classes))
    return EvaluatedModel(network, "", classes, TransformSettings(resolution))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("resnet50", {"depths": (1, 1, 2, 1)}),
        ("convnext_tiny", {"depths": (1, 1, 2, 1), "width": 16}),
        ("convnextv2_nano", {"depths": (1, 1, 2, 1), "width": 16}),
        ("convnextv2_tiny", {"depths": (1, 1, 1, 1)}),
    ],
)
@torch.no_grad()
def test_timm_makes_the_network_from_its_files(name: str, changes: dict, tmp_path: Path) -> None:
    model = model_of(replace(roadmap.design(name), **changes))
    made, arguments = timm_arguments("design", model.network, model.classes)
    contents, _ = to_timm(made, arguments, model)
    for file, content in zip(("model.safetensors", "config.json"), contents, strict=True):
        (tmp_path / file).write_bytes(content)
    images = torch.randn(2, 3, 64, 64)
    checkpoint = timm.create_model(made, **arguments, checkpoint_path=str(tmp_path / "model.safetensors"))
    folder = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    for network in (checkpoint, folder):
        assert_same(network.eval()(images), model.network(images))
    theirs = timm.data.create_transform(**timm.data.resolve_model_data_config(folder))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8))
    ours = Preprocess(torch.device("cpu"))(evaluation_transform(64, "bicubic")(image)[None])
    torch.testing.assert_close(theirs(image)[None], ours)


@pytest.mark.parametrize("name", ["resnet101", "resnet200", "convnext_base", "convnextv2_atto", "convnextv2_base"])
def test_complete_design_has_its_name_in_timm(name: str) -> None:
    with torch.device("meta"):
        network = roadmap.build(roadmap.design(name), 10)
        made, arguments = timm_arguments("design", network, 10)
        state = roadmap.export_weights(network, "timm")
        expected = timm.create_model(made, **arguments).state_dict()
    assert made == name
    assert {key: value.shape for key, value in state.items()} == {key: value.shape for key, value in expected.items()}


def test_networks_that_timm_lacks(export: Callable, tmp_path: Path) -> None:
    for design in (roadmap.ladder("nano")[-1].design, replace(roadmap.design("resnet50"), width=32)):
        with torch.device("meta"), pytest.raises(NotInTimmError):
            timm_arguments("design", roadmap.build(design, 10), 10)
    run, _ = trained(tmp_path, config={"design": SMALL})
    assert export(run, "--formats", "timm").code == 1  # since it was asked for


@torch.no_grad()
def test_model_of_timm(export: Callable, tmp_path: Path) -> None:
    run = write_run(tmp_path, None, config={"model": "timm:test_vit", "resolution": 160})
    network = timm.create_model("test_vit", num_classes=10).eval()
    torch.save(network.state_dict(), run / "weights.pt")
    outcome = export(run, "--formats", "timm,onnx")
    assert outcome.code == 0, outcome.out
    images = torch.randn(3, 3, 160, 160)
    assert_same(in_onnxruntime(run / "export" / "model.onnx", images), network(images))
    checkpoint = run / "export" / "timm" / "model.safetensors"
    again = timm.create_model("test_vit", num_classes=10, checkpoint_path=str(checkpoint)).eval()
    assert_same(again(images), network(images))


# ---------------------------------------------------------------- mistakes


def test_mistakes_are_told_in_one_line_before_anything_is_written(
    export: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = trained(tmp_path, config={"design": SMALL})
    empty = tmp_path / "empty"
    empty.mkdir()
    cases: dict[str, tuple[object, ...]] = {
        "is not a run's directory": (tmp_path / "nothing",),
        "has no weights.pt": (empty,),
        "there is no format 'onx'; did you mean 'onnx'?": (run, "--formats", "onx"),
        "must be an identifier like mit": (run, "--licence", "mit\nx: y"),
    }
    for message, words in cases.items():
        outcome = export(*words)
        assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1), outcome.err
        assert message in outcome.err
    monkeypatch.setattr("experiments.export.__main__.find_spec", lambda name: None if name == "onnx" else True)
    outcome = export(run)
    assert (outcome.code, outcome.err) == (
        2,
        "error: onnx needs onnx: pip install -e '.[export]', or leave it out: --formats safetensors,timm,torch\n",
    )
    assert not (run / "export").exists()


def test_of_several_directories_those_without_weights_are_named_and_the_rest_is_exported(
    export: Callable, tmp_path: Path
) -> None:
    """As of `runs/*`, where studies and speeds are beside the runs."""
    run, _ = trained(tmp_path / "runs", config={"design": SMALL})
    (tmp_path / "runs" / "studies").mkdir()
    outcome = export(*sorted((tmp_path / "runs").iterdir()), "--formats", "safetensors")
    assert (outcome.code, outcome.err) == (0, "")
    assert "studies has no weights.pt and is skipped\n" in outcome.out
    assert (run / "export" / "model.safetensors").is_file()


def test_two_runs_are_not_written_to_one_folder(export: Callable, tmp_path: Path) -> None:
    one, _ = trained(tmp_path / "a", config={"design": SMALL})
    other = (tmp_path / "b").joinpath(one.name)
    shutil.copytree(one, other)
    outcome = export(one, other, "--out", tmp_path / "out")
    assert (outcome.code, outcome.out) == (2, "")
    assert f"two of these runs have the same name and would both be written to {tmp_path / 'out'}" in outcome.err
    assert not (tmp_path / "out").exists()


def test_run_of_another_task_is_refused(export: Callable, tmp_path: Path) -> None:
    run, _ = trained(tmp_path, config={"design": SMALL}, summary={"task": "detection", "metric": "box_ap"})
    outcome = export(run)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "was trained for detection; only classification can be exported" in outcome.err


def test_hostile_run_is_refused(export: Callable, tmp_path: Path) -> None:
    run, _ = trained(tmp_path, config={"design": SMALL})
    config = json.loads((run / "config.json").read_text())

    def refused(*words: object) -> str:
        outcome = export(run, *words)
        assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1), outcome.err
        return outcome.err

    def designed(**switches: object) -> None:
        (run / "config.json").write_text(json.dumps(config | {"design": config["design"] | switches}))

    designed(norm="os.path.join")
    assert "names os.path.join, which is not of torch.nn, timm.layers or roadmap" in refused()
    designed(depths=[1000] * 4)
    assert "depths=[1000, 1000, 1000, 1000] has 12000 or more" in refused()
    designed(width=-1)
    assert "width must be" in refused()
    (run / "config.json").write_text("{")
    assert "config.json is not JSON" in refused()
    designed()
    (run / "summary.json").write_text("[]")
    assert "summary.json is not a JSON object" in refused()
    (run / "summary.json").unlink()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (run / "export").symlink_to(elsewhere)
    assert "export is a link" in refused()
    (run / "weights.pt").rename(elsewhere / "weights.pt")
    (run / "weights.pt").symlink_to(elsewhere / "weights.pt")
    assert "weights.pt is a link" in refused()
    assert [path.name for path in elsewhere.iterdir()] == ["weights.pt"]
