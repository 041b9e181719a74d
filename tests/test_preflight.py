"""What would make a run fail is found before anything is forked, submitted or trained, whoever would train it."""

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import roadmap
from experiments.config.settings import Data
from experiments.launch import preflight
from experiments.launch.preflight import Amounts, amounts, check_device, check_layers
from experiments.runtime import machine
from roadmap import own
from roadmap.conf import OURS, to_design

LAUNCHES = {
    "single": "",
    "local": "-m seed=0,1 ",
    "slurm": "-m seed=0,1 hydra/launcher=slurm ",
    "plan": "-m seed=0,1 --images-per-second 100 ",
}


@pytest.fixture(scope="module")
def flowers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with 4, 4 and 6 images to train on, some in a folder further down, and 2 each to evaluate on."""
    folder = tmp_path_factory.mktemp("flowers")
    for part, counts in (("train", (4, 4, 6)), ("val", (2, 2, 2))):
        for name, count in zip("abc", counts, strict=True):
            for index in range(count):
                path = folder / part / name / ("deep" if index == 3 else ".") / f"{index}.PNG"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (4, 4)).save(path)
    (folder / "train" / "a" / "notes.txt").touch()
    return folder


FAILURES = [  # what becomes of the folder, what is typed, what the message has
    (lambda data: shutil.rmtree(data), "", "data.path=flowers is not a folder"),
    (lambda data: None, "design.activation=torch.nn.GLU", "GLU: (2, 8, 16, 16) of torch.float32 becomes (2, 8, 16, 8)"),
    (lambda data: shutil.rmtree(data / "val"), "", "there is no folder flowers/val"),
    (lambda data: (data / "val" / "c").rename(data / "val" / "d"), "", "the latter lacks c and adds d"),
    (lambda data: [path.unlink() for path in (data / "val" / "b").iterdir()], "", "flowers/val/b has no images"),
    (lambda data: None, "recipe.batch_size=20", "recipe.batch_size=20 is more than the 14 training images"),
    (lambda data: None, "recipe.batch_size=8 data.subset=0.5", "is more than the 7 training images"),
    (lambda data: None, "data.holdout=0.05", "data.holdout=0.05 rounds to no image of any class"),
    (lambda data: None, "data.num_classes=4", "data.num_classes=4, but flowers has 3 classes"),
    (lambda data: None, "recipe.optimizer=timm:adan", "recipe.optimizer=timm:adan takes 3 recipe.betas"),
    (lambda data: None, "data=tar", "there is no .tar file in flowers/train"),
    (lambda data: None, "sync_batch_norm=true hydra.launcher.gpus_per_run=2", "needs GPUs: torch has"),
]


CASES = [("local", *failure) for failure in FAILURES]
CASES += [(launch, *failure) for launch in LAUNCHES if launch != "local" for failure in FAILURES[:2]]


@pytest.mark.parametrize(
    ("launch", "damage", "typed", "expected"), CASES, ids=[f"{launch}: {expected}" for launch, *_, expected in CASES]
)
def test_failure_is_found_before_anything_starts(
    launch: str,
    damage: Callable,
    typed: str,
    expected: str,
    flowers: Path,
    command: Callable,
    call: Callable,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(flowers, here / "flowers")
    damage(here / "flowers")
    line = f"{LAUNCHES[launch]}data=folder data.path=flowers recipe.batch_size=4 device=cpu {typed}"
    words = line.replace("recipe.batch_size=4 ", "" if "batch_size" in typed else "recipe.batch_size=4 ").split()
    words = [word for word in words if not (word == "data=folder" and "data=tar" in typed)]
    if launch == "plan":
        from experiments.plan.__main__ import main

        code, out, err = call(main, *words)
        assert code in (1, 2)
        assert expected in err + "".join(line for line in out.splitlines() if line.startswith("will fail: "))
        return
    monkeypatch.setitem(sys.modules, "experiments.launch.worker", None)
    monkeypatch.setattr("experiments.launch.local.LocalStudy", None)
    monkeypatch.setattr("experiments.launch.slurm.shutil.which", lambda name: None)
    code, out, err = command(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert expected in err
    assert not list(here.glob("runs/*"))


def test_data_of_a_study_are_looked_at_once(
    study_runs: Callable, flowers: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = []
    monkeypatch.setattr(preflight, "amounts", lambda data, **_: looked_at.append(data) or Amounts(14, 6, 3))
    runs = study_runs("rung=gelu,kernel_7", "seed=0,1", "data=folder", f"data.path={flowers}", "recipe.batch_size=4")
    assert (len(runs), len(looked_at)) == (4, 1)


def test_images_of_folders_are_counted_as_far_as_need_be(flowers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Data("flowers", "folder", str(flowers))
    assert amounts(data) == (14, 6, 3)
    assert amounts(Data("flowers", "folder", str(flowers), holdout=0.25)) == (10, 4, 3)
    assert amounts(data, enough=4) == (6, 3, 3)  # all of the first class, one of each other
    stated = Data("flowers", "folder", str(flowers), train_images=99, val_images=9, num_classes=3)
    assert amounts(stated) == (99, 9, 3)
    part = replace(stated, subset=0.5)  # how much that is depends on each class
    assert amounts(part, enough=99).training < 14


def test_links_to_a_parent_end(flowers: Path, here: Path) -> None:
    shutil.copytree(flowers, here / "flowers")
    os.symlink(here / "flowers" / "train" / "a", here / "flowers" / "train" / "a" / "again")
    assert amounts(Data("flowers", "folder", "flowers"), enough=4).classes == 3


# Layers of the user's own.

LAYERS = """
import threading
import torch
from torch import nn

class Layer(nn.Module):
    def __init__(self, channels, most=10**6, only=None):
        super().__init__()
        if channels > most:
            raise ValueError(f"more than {most} channels\\nand more")
        self.only = only

class Fine(Layer):
    def forward(self, x):
        return x

class Halves(Layer):
    def forward(self, x):
        return x[..., ::2, ::2]

class Doubles(Layer):
    def forward(self, x):
        return x.double()

class Peeks(Layer):
    def forward(self, x):
        return x * x.max().item()

class Picky(Layer):
    def forward(self, x):
        if x.shape[2] == self.only:
            raise KeyError
        return x

class Splits(Layer):
    def forward(self, x):
        return x, x

class Plain(nn.Module):
    def forward(self, x):
        return x

class Unspeakable(Exception):
    def __str__(self):
        raise self

class Ends(Layer):
    def __init__(self, channels, here=True):
        super().__init__(channels)
        if here:
            raise SystemExit
    def forward(self, x):
        raise GeneratorExit("enough")

class Mute(Layer):
    def forward(self, x):
        raise Unspeakable

class Trains(Layer):
    def forward(self, x):
        return x if self.training else x.mean((2, 3), keepdim=True)

class Caches(Layer):
    def forward(self, x):
        self.seen = getattr(self, "seen", x)
        return x + self.seen

class Pairs(Layer):
    def forward(self, x):
        return x.unflatten(0, (2, -1)).flip(0).flatten(0, 1) if self.training else x

class Bare(nn.Module):
    def __init__(self, channels):
        pass

class Waits(Layer):
    def forward(self, x):
        for thread in threading.enumerate():
            if isinstance(thread, threading.Timer):
                thread.join()
        return x
"""

REFUSED = {  # a layer as it is written, and what the message has
    "_target_: layers_of_mine.Fine, most: 32": "Fine(64, most=32) raises ValueError: more than 32 channels",
    "_target_: layers_of_mine.Fine, least: 32": "Fine(8, least=32) raises TypeError",
    "_target_: layers_of_mine.Plain": "Plain(8) raises TypeError",
    "_target_: layers_of_mine.Halves": "(2, 8, 16, 16) of torch.float32 becomes (2, 8, 8, 8) of torch.float32",
    "_target_: layers_of_mine.Doubles": "(2, 8, 16, 16) of torch.float32 becomes (2, 8, 16, 16) of torch.float64",
    "_target_: layers_of_mine.Picky, only: 2": "(2, 64, 2, 2) raises KeyError",
    "_target_: layers_of_mine.Splits": "(2, 8, 16, 16) becomes a tuple, not a tensor",
    "_target_: layers_of_mine.Peeks": "on the meta device, where networks are counted, (2, 8, 16, 16) raises",
    "_target_: layers_of_mine.Ends": "Ends(8) raises SystemExit",
    "_target_: layers_of_mine.Ends, here: false": "(2, 8, 16, 16) raises GeneratorExit: enough",
    "_target_: layers_of_mine.Mute": "(2, 8, 16, 16) raises Unspeakable",
    "_target_: layers_of_mine.Bare": "Bare(8) raises AttributeError",
    "_target_: layers_of_mine.Trains": "in evaluation, (1, 8, 16, 16) of torch.float32 becomes (1, 8, 1, 1) of",
    "_target_: layers_of_mine.Caches": "in evaluation, (1, 8, 16, 16) of torch.float32 becomes (2, 8, 16, 16) of",
    "_target_: layers_of_mine.Pairs": "Pairs: (3, 8, 16, 16) raises RuntimeError",
    "_target_: torch.nn.LazyBatchNorm2d, affine: false": "LazyBatchNorm2d: its weights have no shape until",
    "_target_: torch.nn.LazyConv2d, kernel_size: 1": "LazyConv2d: its weights have no shape until it is called",
    "_target_: layers_of_mine.Find": "layers_of_mine has no 'Find'; did you mean 'Fine'?",
    "_target_: layers_of_mine.torch": "torch is not a subclass of nn.Module",
    "_target_: layers_of_min.Fine": "no module 'layers_of_min'; did you mean 'layers_of_mine'?",
    "_target_: layers_of_mine.inner.Fine": "Python finds no module 'layers_of_mine.inner'",
    "_target_: layers_of_mine.Fine.Inner": "; a class must be directly in a module",
    "_target_: broken_layers.Fine": "importing broken_layers raises ZeroDivisionError: division by zero",
    "_target_: lazy_layers.Fine": "importing lazy_layers raises SystemExit",
    "_target_: lacking_layers.Fine": "importing lacking_layers raises ModuleNotFoundError: No module named 'nowhere'",
}


@pytest.fixture(scope="module")
def layers_of_mine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("mine")
    (folder / "layers_of_mine.py").write_text(LAYERS)
    (folder / "broken_layers.py").write_text("1 / 0")
    (folder / "lacking_layers.py").write_text("import nowhere")
    (folder / "lazy_layers.py").write_text("def __getattr__(name): exit()")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield


@pytest.mark.parametrize(("written", "expected"), REFUSED.items())
def test_layer_that_cannot_stand_there_is_named_in_one_line(
    written: str, expected: str, run_of: Callable, layers_of_mine: None
) -> None:
    with pytest.raises(preflight.SettingsError) as error:
        check_layers(run_of(f"design.layers={{mine: {{at: hidden, {written}}}}}"))
    message = str(error.value)
    assert message.startswith(f"design.layers.mine: {written.split()[1].strip(',')}")
    assert expected in message
    assert message.isprintable()


def test_layer_that_takes_long_is_named(
    run_of: Callable, layers_of_mine: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may never end, and a person must know which it is; of one that ends soon nothing is expected."""
    monkeypatch.setattr(own, "PATIENCE", 0)
    check_layers(run_of("design.layers={mine: {at: output, _target_: layers_of_mine.Waits}}"))
    assert capsys.readouterr().err == "still trying layers.mine: layers_of_mine.Waits\n"
    monkeypatch.setattr(own, "PATIENCE", 3600)
    check_layers(run_of("design.norm=layers_of_mine.Fine"))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("switch", "expected"),
    [
        ("norm=layers_of_mine.Plain", "design.norm: layers_of_mine.Plain(8) raises TypeError"),
        ("activation=layers_of_mine.Fine", "design.activation: layers_of_mine.Fine() raises TypeError"),
        ("norm=torch.nn.InstanceNorm2d", None),  # until it comes to a single pixel of the head
        ("activation=layers_of_mine.Plain", None),
    ],
)
def test_norm_and_activation_are_tried_too(
    switch: str, expected: str | None, run_of: Callable, layers_of_mine: None
) -> None:
    refusal = pytest.raises(preflight.SettingsError, match=re.escape(expected)) if expected else nullcontext()
    with refusal:
        check_layers(run_of(f"design.{switch}", "resolution=64"))


def test_norm_is_tried_in_the_head(run_of: Callable) -> None:
    with pytest.raises(preflight.SettingsError, match=r"InstanceNorm2d: \(2, 256, 1, 1\) raises ValueError"):
        check_layers(run_of("design.norm=torch.nn.InstanceNorm2d", "resolution=64", "design.downsampling=separate"))


class Noting(nn.Module):
    """Notes the channels and the side of every map that it gets."""

    def __init__(self, channels: int = 0, noted: str = "activation") -> None:
        super().__init__()
        self.noted = noted

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        NOTED[self.noted].add(x.shape[1:3])
        return x


NOTED: dict[str, set[tuple[int, int]]] = {}
PLACES = ("spatial", "hidden", "output")


@pytest.mark.parametrize("norm_placement", ["all", "one"])
@pytest.mark.parametrize("spatial_conv", ["middle", "first"])
@pytest.mark.parametrize("kind", ["resnet", "convnext"])
def test_tried_maps_are_those_that_the_network_has(kind: str, spatial_conv: str, norm_placement: str) -> None:
    """All that are there, and of layers no other. The strides inside a block aside, whose maps are another stage's."""
    target = f"{__name__}.Noting"
    design = replace(
        to_design(OURS.load("design", kind)),
        depths=(1, 2, 1, 1),
        width=8,
        spatial_conv=spatial_conv,
        norm_placement=norm_placement,
        layers={at: {"at": at, "_target_": target, "noted": at} for at in PLACES},
    )
    NOTED.update({at: set() for at in (*PLACES, "activation")})
    roadmap.build(replace(design, activation=target))(torch.randn(2, 3, 64, 64))
    tried = own._maps(design, 64)
    assert {at: NOTED[at] for at in PLACES} == {at: tried[at] for at in PLACES}
    assert {channels for channels, _ in NOTED["activation"]} <= {channels for channels, _ in tried["activation"]}
    NOTED["activation"] = set()
    roadmap.build(replace(design, norm=target))(torch.randn(2, 3, 64, 64))
    assert {channels for channels, _ in NOTED["activation"]} == {channels for channels, _ in tried["norm"]}


def test_designs_are_tried_once(study_runs: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    monkeypatch.setattr(own, "try_out", lambda design, resolution: tried.append(design))
    runs = study_runs("step=[grn],[grn,gelu],[gelu]", "seed=0,1")
    assert (len(runs), len(tried)) == (6, 2)


# Devices.


@pytest.mark.parametrize(
    ("typed", "gpus", "precision"),
    [
        ("", False, "float32"),
        ("", True, "bf16"),
        ("device=cpu", True, "float32"),
        ("device=mps", True, "float32"),
        ("device=cuda", False, "bf16"),  # of a plan for another machine; a launch refuses the device
        ("precision=tf32", True, "tf32"),
        ("-m hydra/launcher=slurm hydra.launcher.gpus_per_node=0", True, "float32"),
        ("-m hydra/launcher=slurm hydra.launcher.gpus_per_node=2", False, "bf16"),
        ("-m seed=0", True, "bf16"),
    ],
)
def test_precision_is_what_the_devices_that_are_asked_for_do_best(
    typed: str, gpus: bool, precision: str, command: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a cluster those of its nodes, whatever the login node has."""
    seen = []
    for module in (machine, sys.modules["experiments.train"]):
        monkeypatch.setattr(module, "has_gpus", lambda: gpus)
    monkeypatch.setattr("experiments.train.preflight", lambda runs, **_: seen.extend(runs))
    monkeypatch.setitem(sys.modules, "experiments.launch.worker", type(sys)("experiments.launch.worker"))
    sys.modules["experiments.launch.worker"].train_here = lambda run: None
    monkeypatch.setattr("experiments.launch.local.train_study", lambda study, machine: 0)
    monkeypatch.setattr("experiments.launch.slurm.submit_study", lambda study, options, **_: 0)
    assert command(*typed.split()).code == 0
    [run] = seen
    assert run.precision == run.to_json()["precision"] == precision


def test_gpu_without_bf16_is_refused_where_it_is_to_train(run_of: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of("precision=bf16")
    monkeypatch.setattr(preflight, "compute_capability", lambda: 7.0)
    with pytest.raises(preflight.SettingsError, match=r"compute capability 7\.0; take precision=fp16 or float32"):
        check_device(run, gpus=True)
    check_device(run, gpus=True, here=False)
    check_device(run, gpus=False)
    monkeypatch.setattr(preflight, "compute_capability", lambda: 8.0)
    check_device(run, gpus=True)


def test_busy_machine_is_warned_of(command: Callable, tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "experiments.launch.worker", type(sys)("experiments.launch.worker"))
    sys.modules["experiments.launch.worker"].train_here = lambda run: None
    monkeypatch.setattr("os.getloadavg", lambda: (1e6, 0, 0))
    code, _, err = command("device=cpu")
    assert (code, err.count("\n")) == (0, 1)
    assert err.startswith("warning: other processes keep this machine busy, and this run takes all of its cores")
    assert command(*tiny).err == ""  # it says how many threads it takes
    monkeypatch.setattr("os.getloadavg", lambda: (0, 0, 0))
    assert command("device=cpu").err == ""
