"""Weights of any kind are evaluated as their makers say, every image once, and the figures are those of plain torch."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torchvision.datasets import ImageFolder

import roadmap
from experiments.data.transforms import evaluation_transform
from experiments.evaluate.__main__ import main
from experiments.evaluate.model import timm_transform
from roadmap import Design

torch.set_num_threads(1)


@pytest.fixture
def evaluate(call: Callable) -> Callable[..., tuple]:
    """`python -m experiments.evaluate ...` in this process: (exit code, JSON if any, standard output, and error)."""

    def evaluated(*arguments: str) -> tuple[int, dict, str, str]:
        code, out, err = call(main, *arguments, "device=cpu")
        return code, json.loads(out) if out.startswith("{") else {}, out, err

    return evaluated


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """val/ of 10 JPEGs of 90 x 70 and 70 x 90, in 10 classes; no train/."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for index in range(10):
        size = (90, 70) if index % 2 else (70, 90)
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
        path = folder / "val" / f"c{index % 10}" / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse.save(path, quality=90)
    return folder


def plain(network: nn.Module, folder: Path, transform: Callable) -> dict:
    """Top-1, top-5, loss and confusion, written once more."""
    dataset = ImageFolder(folder / "val", transform)
    images, labels = torch.stack([image for image, _ in dataset]), torch.tensor(dataset.targets)
    with torch.inference_mode():
        logits = network.eval()(images)
    confusion = torch.zeros(logits.shape[1], logits.shape[1], dtype=torch.int64)
    for label, prediction in zip(labels, logits.argmax(1), strict=True):
        confusion[label, prediction] += 1
    ranks = (logits > logits.gather(1, labels[:, None])).sum(1)
    return {
        "top1": 100 * (ranks < 1).double().mean().item(),
        "top5": 100 * (ranks < 5).double().mean().item(),
        "val_loss": F.cross_entropy(logits, labels).item(),
        "confusion": confusion.tolist(),
    }


def assert_equal(result: dict, expected: dict, images: int = 10) -> None:
    assert result["confusion"] == expected["confusion"]
    assert {key: result[key] for key in ("top1", "top5", "val_loss")} == pytest.approx(
        {key: expected[key] for key in ("top1", "top5", "val_loss")}, rel=1e-4
    )
    assert result["images"] == images
    for row, counts in zip(result["per_class"], expected["confusion"], strict=True):
        assert row["images"] == sum(counts)
        assert row["top1"] == pytest.approx(100 * counts[row["class"]] / sum(counts))
    assert result["images_per_second"] > 0
    assert result["network_images_per_second"] > 0


def test_run_is_what_its_record_says(evaluate: Callable, command: Callable, tiny: tuple[str, ...], here: Path) -> None:
    """By its directory, its averaged weights, and the checkpoint before its end; on what it was evaluated on."""
    assert command(*tiny, "recipe.ema_decay=0.9", "keep=all").code == 0
    [run] = here.glob("runs/*")
    rows = [json.loads(line) for line in (run / "epochs.jsonl").read_text().splitlines()]
    cases = {"": (rows[1], ""), "weights_ema.pt": (rows[1], "ema_"), "checkpoints/step-00000010.pt": (rows[0], "")}
    for file, (row, prefix) in cases.items():
        code, result, _, _ = evaluate(f"weights={run / file}", "out=-")
        assert code == 0
        results = {name: result[name] for name in ("top1", "top5", "val_loss")}
        assert results == pytest.approx({name: row[f"{prefix}{name}"] for name in results}, rel=1e-5), file
        assert (result["images"], result["data"]["holdout"]) == (200, 0.02)
    for other in ("data=fashion_mnist_sample", "data.holdout=0"):
        code, result, _, _ = evaluate(f"weights={run}", other, "out=-")
        assert (code, result["images"]) == (0, 10_000)


@pytest.mark.parametrize("name", ["resnet50", "convnext_tiny", "resnet18"])
def test_published_weights_of_torchvision(
    name: str, evaluate: Callable, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images are prepared as torchvision prepares them; resnet50 and convnext_tiny run as roadmap's network."""
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, num_classes=10)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(module.weight, std=0.05)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(network.state_dict(), tmp_path / "hub" / "checkpoints" / weights.url.rpartition("/")[2])
    monkeypatch.setattr(torchvision.models, "get_model", lambda _: network)  # of ten classes
    source = f"torchvision:{name}.IMAGENET1K_V1"
    code, result, _, err = evaluate(f"weights={source}", "data=folder", f"data.path={photos}", "out=-", "workers=0")
    assert code == 0, err
    assert_equal(result, plain(network, photos, weights.transforms()))
    assert result["network"].startswith("torchvision's resnet18" if name == "resnet18" else f"roadmap's {name}")


def test_file_in_the_authors_layout_at_another_resolution(evaluate: Callable, photos: Path, here: Path) -> None:
    """Which network it is, the file's shapes say; here 64 px with the paper's preparation: resize 73, crop 64."""
    torch.manual_seed(0)
    network = roadmap.build(roadmap.design("convnext_tiny"), 10)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05)
    torch.save({"model": roadmap.export_weights(network, "authors")}, here / "file.pth")
    transform = timm.data.create_transform(64, interpolation="bicubic", crop_pct=0.875)
    where = ("data=folder", f"data.path={photos}", "workers=0", "resolution=64")
    code, result, _, err = evaluate("weights=file.pth", *where, "out=result.json")
    assert code == 0, err
    result = json.loads((here / "result.json").read_text())
    assert_equal(result, plain(network, photos, transform))
    assert result["network"].startswith("convnext_tiny, file.pth (authors layout)")


def test_table_shows_what_a_person_asks_for(evaluate: Callable, photos: Path, here: Path) -> None:
    network = timm.create_model("test_resnet", num_classes=10)
    torch.save(network.state_dict(), here / "file.pth")
    data = ("data=folder", f"data.path={photos}", "workers=0", "resolution=32", "crop_pct=1")
    code, _, out, _ = evaluate("weights=file.pth", "model=timm:test_resnet", *data)
    assert code == 0
    for word in ("timm:test_resnet", "10 images, 10 classes", "top-1", "top-5", "images/s", "worst classes"):
        assert word in out


# ---------------------------------------------------------------- layers that are not ours

GATE = """
from pathlib import Path
from torch import nn

Path("it_ran").touch()

class Gate(nn.Module):
    def __init__(self, channels, scale=2.0):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)
        self.register_buffer("scale", torch.full((), scale), persistent=False)

    def forward(self, x):
        return x + self.scale * self.conv(x)
"""
OWN = "design.layers={gate: {at: hidden, _target_: gate_of_somebody.Gate, scale: 3}}"


@pytest.fixture
def gate(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Somebody's module where Python looks; returns what is there once it has been imported."""
    (here / "gate_of_somebody.py").write_text(f"import torch\n{GATE}")
    monkeypatch.syspath_prepend(here)
    yield here / "it_ran"
    sys.modules.pop("gate_of_somebody", None)


def test_code_that_a_record_names_runs_only_if_it_is_trusted(
    evaluate: Callable, command: Callable, tiny: tuple[str, ...], gate: Path, here: Path
) -> None:
    assert command(*tiny, OWN).code == 0
    [run] = here.glob("runs/*")
    top1 = json.loads((run / "summary.json").read_text())["top1"]
    code, result, _, err = evaluate(f"weights={run}", "trust=true", "out=-")
    assert (code, result.get("top1")) == (0, pytest.approx(top1)), err
    typed = (
        "design=resnet50",
        *tiny[:2],
        f"+{OWN}",
        "design.stem_stride=2",
        "resolution=32",
    )  # the user's own words need no trust
    assert evaluate(f"weights={run}", *typed, "out=-")[1]["top1"] >= 0

    gate.unlink()
    del sys.modules["gate_of_somebody"]
    code, _, out, err = evaluate(f"weights={run}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "gate_of_somebody.Gate, which is not of torch.nn, timm.layers or roadmap" in err
    assert "trust=true" in err
    assert command(*tiny, f"init={run}", "seed=1").code == 2  # another network: its weights don't fit
    assert not gate.exists()

    (here / "gate_of_somebody.py").write_text(f"import torch\n{GATE}\n")
    code, _, _, err = evaluate(f"weights={run}", "trust=true")
    assert (code, "the code of gate_of_somebody.Gate has changed since these weights were trained" in err) == (2, True)


def test_weights_to_start_from_are_read_and_nothing_else(
    command: Callable, tiny: tuple[str, ...], gate: Path, here: Path
) -> None:
    """Whatever the record beside them says."""
    assert command(*tiny).code == 0
    [run] = here.glob("runs/*")
    config = json.loads((run / "config.json").read_text())
    config["design"]["norm"] = "gate_of_somebody.Gate"
    (run / "config.json").write_text(json.dumps(config))
    outcome = command(*tiny, f"init={run}", "seed=1")
    assert outcome.code == 0
    assert "starting from" in outcome.out
    assert not gate.exists()


def test_layer_of_timm_in_a_record_needs_no_trust(
    evaluate: Callable, command: Callable, tiny: tuple[str, ...], here: Path
) -> None:
    assert command(*tiny, "step=[grn]").code == 0
    [run] = here.glob("runs/*")
    code, result, _, err = evaluate(f"weights={run}", "out=-")
    assert code == 0, err
    assert result["top1"] == pytest.approx(json.loads((run / "summary.json").read_text())["top1"])


@pytest.fixture
def recorded(here: Path) -> Callable[..., None]:
    """`run`, with weights of ten classes, and a record that says what is given in place of the truth."""

    def write(**changes: object) -> None:
        small = Design(width=8, depths=(1, 1, 1, 1))
        config = {"model": "design", "design": small.to_json(), "resolution": 32}
        config |= {
            "recipe": {"name": "original", "interpolation": "bicubic"},
            "data": {"name": "x", "reader": "sample"},
        }
        for name, value in changes.items():
            config[name] = config[name] | value if isinstance(value, dict) else value
        (here / "run").mkdir()
        torch.save(roadmap.build(small, 10).state_dict(), here / "run" / "weights.pt")
        (here / "run" / "config.json").write_text(json.dumps(config))

    return write


IMPOSSIBLE_DESIGNS = [
    ({"layers": {"grn": {"at": "hidden"}}}, "design.layers.grn._target_ must be the dotted path of a class"),
    ({"layers": 7}, "design.layers must be a mapping of names to layers, not 7"),
    ({"layers": [["grn", "hidden", "torch.nn.Identity", "[7]"]]}, "design.layers must be a mapping of names to layers"),
    ({"activation": ["relu"]}, "design.activation must be an activation of torch.nn"),
    ({"norm": "timm.layers.helpers.os.system"}, "names timm.layers.helpers.os.system, which is not of torch.nn"),
    ({"norm": "torch.nn.GroupNorm"}, "design.norm: torch.nn.GroupNorm(8) raises TypeError"),
    ({"activation": "torch.nn.GLU"}, "GLU: (2, 8, 8, 8) of torch.float32 becomes (2, 8, 8, 4) of torch.float32"),
    ({"depths": [1000] * 4}, "these are 104 tensors, and depths=[1000, 1000, 1000, 1000] has 12000 or more"),
    ({"depths": [1001, 1, 1, 1]}, "design.depths must be in [1, 1000], not 1001"),
]
IMPOSSIBLE = [
    *(({"design": design}, message) for design, message in IMPOSSIBLE_DESIGNS),
    ({"model": "timm:hf-hub:a/b"}, "beside these weights: timm has no model 'hf-hub:a/b'"),
    ({"model": "timm:local-dir:/etc"}, "beside these weights: timm has no model 'local-dir:/etc'"),
    ({"model": "timm:"}, "beside these weights: timm has no model ''"),
    ({"model": "os.system"}, "beside these weights: model must be 'design' or timm:NAME, not 'os.system'"),
    ({"resolution": 100_000}, "beside these weights does not say how its images are transformed"),
    ({"recipe": {"crop_pct": 1e-4}}, "beside these weights does not say how its images are transformed"),
    ({"resolution": 0}, "beside these weights does not say how its images are transformed"),
    ({"resolution": None}, "config.json: resolution is missing or has another type; move the weights elsewhere"),
]


@pytest.mark.parametrize(("record", "message"), IMPOSSIBLE, ids=[str(record) for record, _ in IMPOSSIBLE])
def test_record_of_an_impossible_network_is_told_in_one_line(
    record: dict, message: str, evaluate: Callable, recorded: Callable, photos: Path
) -> None:
    recorded(**record)
    code, _, out, err = evaluate("weights=run", "data=folder", f"data.path={photos}", "workers=0")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"reader": "os.system"}, "beside these weights: data.reader must be sample or"),
        ({"holdout": -1}, "beside these weights: data.holdout must be in [0, 1), not -1"),
        ({"reader": "folder"}, "data.path is not set"),
    ],
)
def test_record_of_impossible_data_is_told_in_one_line(
    data: dict, message: str, evaluate: Callable, recorded: Callable
) -> None:
    recorded(data=data)
    code, _, out, err = evaluate("weights=run")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


@pytest.mark.parametrize("text", ["{", "[]", '{"architecture": "resnet50"}'])
def test_broken_record_is_not_passed_over(
    text: str, evaluate: Callable, recorded: Callable, photos: Path, here: Path
) -> None:
    """The network would be guessed. What the command line says needs no record."""
    recorded()
    (here / "run" / "config.json").write_text(text)
    typed = ("weights=run", "data=folder", f"data.path={photos}", "workers=0", "out=-")
    for words in (typed, typed[:1]):
        code, _, out, err = evaluate(*words)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert f"in {here.resolve() / 'run'}: config.json" in err
        assert "move the weights elsewhere" in err
    small = ("design=resnet50", "design.width=8", "design.depths=[1,1,1,1]", "resolution=32")
    assert evaluate(*typed, *small)[1]["images"] == 10


def test_file_of_convnext_v2_in_the_authors_layout(evaluate: Callable, photos: Path, here: Path) -> None:
    network = roadmap.build(roadmap.design("convnextv2_atto"), 10)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05)
    torch.save({"model": roadmap.export_weights(network, "authors")}, here / "file.pth")
    code, result, _, err = evaluate(
        "weights=file.pth", "data=folder", f"data.path={photos}", "workers=0", "resolution=64", "out=-"
    )
    assert code == 0, err
    assert result["network"].startswith("convnextv2_atto, file.pth (authors layout)")
    transform = timm.data.create_transform(64, interpolation="bicubic", crop_pct=0.875)
    assert_equal(result, plain(network, photos, transform))


MISTAKES = [
    ((), "weights is not set"),
    (("weights=nowhere",), "there are no weights at nowhere"),
    (("weights=timm:resnet50", "foo=1"), "there is no setting 'foo'"),
    (("weights=timm:resnet50.a1_in1k",), "set the data to evaluate on"),
    (("weights=timm:resnet50", "data=imagnet"), "unknown data 'imagnet'; did you mean 'imagenet'?"),
    (("weights=timm:resnet50", "data=imagenet"), "data.path is not set"),
    (("weights=timm:resnet50", "crop_pct=2"), "crop_pct must be in (0, 1], not 2"),
    (("weights=timm:resnet50", "precision=bf17"), "precision must be float32 or tf32 or bf16 or fp16, not 'bf17'"),
    (("weights=timm:resnet50", "data=fashion_mnist_sample", "data.holdout=7"), "data.holdout must be in [0, 1), not 7"),
    (("weights=timm:resnet50", "workers=-1"), "workers must be in [0, 1024], not -1"),
    (("weights=timm:resnet50", "data=fashion_mnist_sample", "out=no/x.json"), "no/x.json: No such file or directory"),
    (("weights=torchvision:resnet50.V1", "data=fashion_mnist_sample"), "known: resnet50.IMAGENET1K_V1"),
]


@pytest.mark.parametrize(("typed", "message"), MISTAKES, ids=[" ".join(typed) for typed, _ in MISTAKES])
def test_mistake_is_told_in_one_line(typed: tuple[str, ...], message: str, evaluate: Callable) -> None:
    code, _, out, err = evaluate(*typed)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_classes_that_differ_are_told(evaluate: Callable, photos: Path, here: Path) -> None:
    torch.save(timm.create_model("test_resnet", num_classes=7).state_dict(), here / "file.pth")
    code, _, _, err = evaluate("weights=file.pth", "model=timm:test_resnet", "data=folder", f"data.path={photos}")
    assert (code, err.count("\n")) == (2, 1)
    assert "file.pth is for 7 classes, but photos" in err


def test_broken_image_is_told_in_one_line(evaluate: Callable, photos: Path, here: Path) -> None:
    shutil.copytree(photos, here / "photos")
    (here / "photos" / "val" / "c3" / "3.jpg").write_bytes(b"no image")
    torch.save(timm.create_model("test_resnet", num_classes=10).state_dict(), here / "file.pth")
    typed = ("weights=file.pth", "model=timm:test_resnet", "data=folder", "data.path=photos", "workers=0")
    code, out, err = evaluate(*typed)[0], *evaluate(*typed)[2:]
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"cannot read the image {Path('photos') / 'val' / 'c3' / '3.jpg'}: not an image" in err
    code, result, _, _ = evaluate(*typed, "data.broken=skip", "resolution=32", "out=-")
    assert (code, result["images"], result["broken_images"]) == (0, 9, 1)


@pytest.mark.parametrize("name", ["convnext_base.fb_in22k_ft_in1k_384", "convnext_tiny.fb_in1k", "resnet50.a1_in1k"])
def test_images_are_prepared_as_timm_does(name: str) -> None:
    how = timm_transform(name)
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    theirs = timm.data.create_transform(**config | {"use_prefetcher": True})  # to bytes, not normalised
    ours = evaluation_transform(how.resolution, how.interpolation, how.crop_pct)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 500, 3), np.uint8))
    np.testing.assert_array_equal(np.asarray(ours(image)), np.asarray(theirs(image)))
    assert (how.mean, how.std) == (config["mean"], config["std"])
