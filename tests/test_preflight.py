"""What would make a run fail is found before anything is forked, submitted or trained, whoever would train it."""

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from experiments import machine, preflight
from experiments.preflight import Amounts, amounts, check_device
from experiments.settings import Data

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


FAILURES = [  # what becomes of the folder, what is typed, what is said
    (lambda data: shutil.rmtree(data), "", "data.path=flowers is not a folder"),
    (lambda data: shutil.rmtree(data / "val"), "", "there is no folder flowers/val"),
    (lambda data: (data / "val" / "c").rename(data / "val" / "d"), "", "the latter lacks c and adds d"),
    (lambda data: [path.unlink() for path in (data / "val" / "b").iterdir()], "", "flowers/val/b has no images"),
    (lambda data: None, "recipe.batch_size=20", "recipe.batch_size=20 is more than the 14 training images"),
    (lambda data: None, "recipe.batch_size=8 data.subset=0.5", "is more than the 7 training images"),
    (lambda data: None, "data.holdout=0.05", "data.holdout=0.05 rounds to no image of any class"),
    (lambda data: None, "data.num_classes=4", "data.num_classes=4, but flowers has 3 classes"),
    (lambda data: None, "recipe.optimizer=timm:adan", "recipe.optimizer=timm:adan takes 3 recipe.betas"),
    (lambda data: None, "data=tar", "there is no .tar file in flowers/train"),
    (lambda data: None, "sync_batch_norm=true hydra.launcher.gpus_per_run=2", "needs GPUs: torch has no other"),
]


CASES = [("local", *one) for one in FAILURES] + [(other, *FAILURES[0]) for other in LAUNCHES if other != "local"]


@pytest.mark.parametrize(
    ("launch", "damage", "typed", "said"), CASES, ids=[f"{launch}: {said}" for launch, *_, said in CASES]
)
def test_failure_is_found_before_anything_starts(
    launch: str,
    damage: Callable,
    typed: str,
    said: str,
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
        assert said in err + "".join(line for line in out.splitlines() if line.startswith("will fail: "))
        return
    monkeypatch.setitem(sys.modules, "experiments.worker", None)
    monkeypatch.setattr("experiments.local.Floor", None)
    monkeypatch.setattr("experiments.slurm.shutil.which", lambda name: None)
    code, out, err = command(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert said in err
    assert not list(here.glob("runs/*"))


def test_data_of_a_study_are_looked_at_once(
    asked: Callable, flowers: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = []
    monkeypatch.setattr(preflight, "amounts", lambda data, **_: looked_at.append(data) or Amounts(14, 6, 3))
    runs = asked("rung=gelu,kernel_7", "seed=0,1", "data=folder", f"data.path={flowers}", "recipe.batch_size=4")
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
    monkeypatch.setitem(sys.modules, "experiments.worker", type(sys)("experiments.worker"))
    sys.modules["experiments.worker"].train_here = lambda run: None
    monkeypatch.setattr("experiments.local.train_study", lambda study, machine: 0)
    monkeypatch.setattr("experiments.slurm.submit_study", lambda study, options, **_: 0)
    assert command(*typed.split()).code == 0
    [run] = seen
    assert run.precision == run.to_json()["precision"] == precision


def test_gpu_without_bf16_is_refused_where_it_is_to_train(run_of: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of("precision=bf16")
    monkeypatch.setattr(preflight, "compute_capability", lambda: 7.0)
    with pytest.raises(preflight.SettingsError, match=r"compute capability 7\.0 has; take precision=fp16 or float32"):
        check_device(run, gpus=True)
    check_device(run, gpus=True, here=False)
    check_device(run, gpus=False)
    monkeypatch.setattr(preflight, "compute_capability", lambda: 8.0)
    check_device(run, gpus=True)


def test_busy_machine_is_warned_of(command: Callable, tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "experiments.worker", type(sys)("experiments.worker"))
    sys.modules["experiments.worker"].train_here = lambda run: None
    monkeypatch.setattr("os.getloadavg", lambda: (1e6, 0, 0))
    code, _, err = command("device=cpu")
    assert (code, err.count("\n")) == (0, 1)
    assert err.startswith("warning: others keep this machine busy, and this run takes all of its cores")
    assert command(*tiny).err == ""  # it says how many threads it takes
    monkeypatch.setattr("os.getloadavg", lambda: (0, 0, 0))
    assert command("device=cpu").err == ""
