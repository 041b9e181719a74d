"""A plan's numbers agree with calculations by hand, the published table and trained runs; and it trains nothing."""

import json
import os
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.profiler import ProfilerActivity, profile

import roadmap
from experiments.config.run import Run
from experiments.config.settings import Data
from experiments.data.partition import partition
from experiments.data.readers.sample import load_sample
from experiments.launch.preflight import Amounts, amounts
from experiments.plan.__main__ import main
from experiments.plan.cost import _paced
from experiments.plan.input import Input, with_input
from experiments.plan.memory import Footprint, activations, footprint
from experiments.plan.network import Network, Pace
from experiments.plan.parallel import on_all_cores
from experiments.plan.throughput import Hardware, between, clock_for, measured, recorded
from experiments.training.models import enable_gradient_checkpointing, make_network
from experiments.training.recipe import make_optimizer

TRAIN, VAL = 1_281_167, 50_000
IMAGENET = ("regime=resnet50", "data=imagenet")


class Planned(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def cost(self) -> dict[str, Any]:
        return json.loads(self.out)

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["title"]: row for row in self.cost["rows"]}


@pytest.fixture
def planned(call: Callable, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Planned]:
    """`python -m experiments.plan ...` in this process, in an empty working directory, measured for half a second."""
    monkeypatch.setattr("experiments.plan.throughput.BUDGET", 0.5)
    monkeypatch.setattr("experiments.plan.throughput.LEAST", 0.5)
    return lambda *arguments: Planned(*call(main, *arguments))


@pytest.fixture
def imagenet(here: Path) -> str:
    """Folders like ImageNet's: a thousand classes, with one image each."""
    for part in ("train", "val"):
        for label in range(1000):
            (here / "imagenet" / part / f"n{label:08d}").mkdir(parents=True)
            (here / "imagenet" / part / f"n{label:08d}" / "0.JPEG").touch()
    return f"data.path={here / 'imagenet'}"


def hours_by_hand(rate: float, epochs: int, batch: int) -> float:
    """Of a GPU: full steps, and a forward pass, a third of a step, over the evaluation images after each epoch."""
    return epochs * (TRAIN // batch * batch + VAL / 3) / rate / 3600


def test_study_costs_what_is_calculated_by_hand(planned: Callable, imagenet: str, here: Path) -> None:
    arguments = ("-m", "rung=resnet,gelu", "seed=0,1,2", *IMAGENET, imagenet, "hydra.launcher.jobs=4")
    code, _, err = result = planned(*arguments, "--images-per-second", "800", "--json")
    assert (code, err) == (0, "")
    rungs = {rung.name: rung for rung in roadmap.ladder("resnet50")}
    for name, row in result.rows.items():
        assert (row["runs"], row["done"]) == (3, 0)
        assert row["macs"] / 1e9 == pytest.approx(rungs[name].published.gflops, abs=0.005)
        assert row["macs"], row["params"] == roadmap.cost(rungs[name].design)[:2]
    gelu = 800 * result.rows["resnet"]["macs"] / result.rows["gelu"]["macs"]
    resnet, gelu = hours_by_hand(800, 90, 256), hours_by_hand(gelu, 300, 4096)
    assert [row["seconds"] / 3600 for row in result.cost["rows"]] == pytest.approx([resnet, gelu])
    assert result.cost["hours_in_all"] == result.cost["hours_left"] == pytest.approx(3 * (resnet + gelu))
    assert result.cost["unit"] == "GPU"
    assert result.cost["wall_seconds"] / 3600 == pytest.approx(resnet + gelu)  # 3 and 1 at once, then the last two
    assert [path.name for path in here.iterdir()] == ["imagenet"]


def test_several_stated_rates_are_met_and_lie_on_a_line(planned: Callable, imagenet: str) -> None:
    arguments = (
        "-m",
        "rung=resnet,stage_ratio,increase_width",
        "data=imagenet",
        imagenet,
        "recipe.epochs=1",
        "recipe.batch_size=1024",
    )
    result = planned(*arguments, "--images-per-second", "1000", "--images-per-second", "increase_width=500", "--json")
    resnet, middle, largest = result.cost["rows"]
    assert largest["seconds"] == pytest.approx(2 * resnet["seconds"])
    part = (middle["macs"] - resnet["macs"]) / (largest["macs"] - resnet["macs"])
    assert middle["seconds"] == pytest.approx((1 + part) * resnet["seconds"])


def test_launcher_says_how_many_processes_share_a_run(planned: Callable) -> None:
    data = ("data=hfids", "data.path=someone/imagenet", "data.num_classes=1000")
    slurm = ("hydra/launcher=slurm", "hydra.launcher.array_parallelism=2", "micro_batch_size=null")

    def estimated(gpus: int) -> tuple[int, dict[str, Any], dict[str, Any]]:
        arguments = (
            "-m",
            "rung=gelu",
            "seed=0,1",
            "regime=resnet50",
            *data,
            *slurm,
            f"hydra.launcher.gpus_per_node={gpus}",
        )
        result = planned(*arguments, "--images-per-second=800", f"--images={TRAIN},{VAL}", "--json")
        return result.code, result.cost, result.cost["rows"][0]

    _, alone, row = estimated(1)
    code, cost, shared = estimated(8)
    assert code == 0
    assert cost["side_by_side"] == 2
    assert shared["seconds"] == pytest.approx(row["seconds"] / 8)
    assert cost["hours_in_all"] == pytest.approx(alone["hours_in_all"])
    assert shared["memory_bytes"] < row["memory_bytes"] / 7
    code, cost, whole = estimated(3)
    assert code == 1
    assert "recipe.batch_size=4096 can't be split among 3 processes" in cost["problems"][0]
    assert whole["seconds"] == pytest.approx(row["seconds"])


def test_runs_that_share_a_gpu_have_two_bounds_and_must_fit_together(planned: Callable, imagenet: str) -> None:
    arguments = ("-m", "rung=gelu", "seed=0,1,2,3,4,5,6,7", "regime=resnet50", "data=imagenet", imagenet)
    arguments += ("recipe.batch_size=64", "--images-per-second=800", "--json")
    alone = planned(*arguments).cost
    slurm = ("hydra/launcher=slurm", "hydra.launcher.runs_per_job=8")  # one job, however many there may be
    for launcher in ((), slurm):
        result = planned(*arguments, *launcher, "hydra.launcher.runs_per_gpu=8", "--memory=80").cost
        assert (result["side_by_side"], result["runs_per_gpu"], result["problems"]) == (8, 8, [])
        assert result["hours_left"] == pytest.approx(alone["hours_left"])
        assert result["wall_seconds"] == pytest.approx(alone["wall_seconds"])
        assert result["wall_seconds_at_least"] == pytest.approx(alone["wall_seconds"] / 8)
        assert "how much 8 runs on a GPU slow each other down is not known" in result["note"]
    need = 8 * (alone["rows"][0]["memory_bytes"] / 2**30 + 0.5)
    result = planned(*arguments, "hydra.launcher.runs_per_gpu=8", f"--memory={need - 0.1}")
    assert result.code == 1
    assert f"({need:.1f} GB); take hydra.launcher.runs_per_gpu=7" in result.cost["problems"][0]


def test_pace_of_runs_that_shared_a_gpu_is_that_of_runs_that_will(run_of: Callable, tiny: tuple[str, ...]) -> None:
    run: Run = run_of(*tiny)
    summary = {"device": "cpu", "processes": 1, "threads": 1, "train_images": 200, "evaluation_images": 200}
    alone = summary | {"images_per_second": 100.0, "seconds_per_epoch": 4.0}
    shared = summary | {"images_per_second": 50.0, "seconds_per_epoch": 8.0, "runs_per_gpu": 4}
    records = [
        (run.to_json(), summary) for summary in (alone, shared, shared | {"retried_alone": "why", "runs_per_gpu": 1})
    ]
    paces = [recorded(records, run, 1, torch.device("cpu"), 1, runs) for runs in (1, 4, 8)]
    assert paces == [Pace(1, 0.01, 0.01, 0, "recorded"), Pace(1, 0.005, 0.005, 0, "shared"), None]


def test_run_that_was_trained_is_what_the_plan_says(
    planned: Callable, command: Callable, tiny: tuple[str, ...], here: Path
) -> None:
    """Its files, its time; what is done or partly trained does not count again, nor do times of other machines."""
    arguments = (*tiny, "design.width=32", "recipe.ema_decay=0.9", "recipe.momentum=0.9")
    assert command(*arguments, "keep=all").code == 0
    [path] = here.glob("runs/*/summary.json")
    summary, size = json.loads(path.read_text()), lambda name: (path.parent / name).stat().st_size
    written = {file: file.stat().st_mtime_ns for file in here.rglob("*")}

    result = planned("-m", *arguments, "seed=0,1", "--json")
    [row] = result.cost["rows"]
    assert (row["runs"], row["done"], row["partly"], row["pace"]) == (2, 1, 0, "recorded")
    assert (row["training_images"], row["evaluation_images"]) == (summary["train_images"], summary["evaluation_images"])
    assert (row["macs"], row["params"]) == (summary["macs"], summary["params"])
    assert row["seconds"] == pytest.approx(2 * summary["seconds_per_epoch"])
    assert row["seconds_left"] == row["seconds"]
    assert result.cost["unit"] == "core"
    assert row["weights_bytes"] == pytest.approx(size("weights.pt") + size("weights_ema.pt"), rel=0.1)
    assert row["checkpoint_bytes"] == pytest.approx(size("checkpoints/step-00000010.pt"), rel=0.1)
    assert result.cost["disk_bytes"] == row["weights_bytes"] + 3 * row["checkpoint_bytes"]
    assert {file: file.stat().st_mtime_ns for file in here.rglob("*")} == written

    path.write_text(json.dumps(summary | {"status": "unfinished", "epochs_done": 1}))
    [row] = planned(*arguments, "--json").cost["rows"]
    assert (row["done"], row["partly"]) == (0, 1)
    assert row["seconds_left"] == pytest.approx(summary["seconds_per_epoch"])
    path.write_text(json.dumps(summary | {"device": "a GPU"}))  # done elsewhere: nothing is left to measure for
    result = planned(*arguments, "--json")
    assert (result.rows.popitem()[1]["pace"], result.cost["hours_left"], result.cost["wall_seconds"]) == (None, 0, 0)
    path.write_text(json.dumps(summary | {"status": "unfinished", "device": "a GPU"}))
    assert planned(*arguments, "--json").cost["rows"][0]["pace"] == "measured"


def test_measured_pace_is_about_that_of_a_run(planned: Callable, command: Callable, tiny: tuple[str, ...]) -> None:
    """In CPU time, whatever else this machine does."""
    [row] = planned(*tiny, "design.width=32", "--json").cost["rows"]
    before = sum(os.times()[:4])
    assert command(*tiny, "design.width=32").code == 0
    assert 1 / 3 < row["seconds"] / (sum(os.times()[:4]) - before) < 3


def test_measuring_begins_at_both_ends_and_stays_within_its_time(
    run_of: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, clock = [], iter(range(1000))

    def measure(network: Network, device: torch.device, seconds: float) -> Pace:
        order.append(network.macs)
        return Pace(network.macs, 1, 1, 0, "measured")

    monkeypatch.setattr("experiments.plan.throughput.measure", measure)
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    networks = [
        Network((run_of(f"recipe.epochs={macs}"),), Amounts(100, 10, 10), Footprint(macs, 1, 0, 0, 0, 0, 0), str(macs))
        for macs in (5, 9, 8, 1, 2)
    ]
    assert len(measured(networks, torch.device("cpu"), 100)) == 5
    assert order == [1, 9, 5, 8, 2] or order == [1, 9, 5, 2, 8]
    order.clear()
    assert len(measured(networks, torch.device("cpu"), 0)) == 1
    assert order == [1]


def test_pace_beyond_what_is_known_is_in_proportion() -> None:
    known = [Pace(20, 2, 1, 0.5, "measured"), Pace(10, 1.5, 0.5, 0.5, "measured")]
    result = {macs: between(known, macs) for macs in (5, 10, 15, 20, 40)}
    assert {macs: pace.training for macs, pace in result.items()} == {5: 0.75, 10: 1.5, 15: 1.75, 20: 2, 40: 4}
    assert {macs: pace.evaluation for macs, pace in result.items()} == {5: 0.25, 10: 0.5, 15: 0.75, 20: 1, 40: 2}
    assert {pace.preparation for pace in result.values()} == {0.5}


def test_recorded_paces_are_known_beside_measured_ones(run_of: Callable) -> None:
    """By hand: of three networks one is recorded, with its input, and one measured, without."""
    networks = [
        Network((run_of(f"recipe.epochs={macs}", "data=folder", "data.path=."),), Amounts(100, 10, 10), size)
        for macs, size in ((macs, Footprint(macs, 1, 0, 0, 0, 0, 0)) for macs in (10, 20, 30))
    ]
    small, middle, large = (network.run.series for network in networks)
    hardware = Hardware(torch.device("cpu"), "core", 1, 1, 1, 1, 1)
    inputs = dict.fromkeys((small, middle), Input(1.0, 1.0))
    found = _paced(
        networks, {large: Pace(30, 9, 3, 0, "recorded")}, {small: Pace(10, 2, 1, 0, "measured")}, inputs, hardware
    )
    assert [network.pace.training for network in found] == [3, 6, 9]
    assert [network.pace.source for network in found] == ["measured", "between", "recorded"]


def test_clock_of_several_threads_counts_what_they_wait() -> None:
    device, threads = torch.device("cpu"), torch.get_num_threads()
    for count, clock in ((1, time.process_time), (2, time.perf_counter)):
        torch.set_num_threads(count)
        try:
            assert clock_for(device) is clock
        finally:
            torch.set_num_threads(threads)


def test_memory_of_two_layers_is_as_by_hand() -> None:
    """The image and the activation between them are kept, each once; parameters are not."""
    with torch.device("meta"):
        convs = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1)]
        network = nn.Sequential(*convs)
    assert activations(network, 8) == (4 * 8 * 8 * (3 + 4), None)


@pytest.mark.parametrize("forgetful", [False, True])
@pytest.mark.parametrize("rung", ["resnet", "separate_downsampling"])
def test_memory_is_what_torch_allocates(rung: str, forgetful: bool, run_of: Callable) -> None:
    """Within a fifth: not all gradients are there while all activations are, and some more is."""
    run = run_of(f"rung={rung}", "resolution=64", "micro_batch_size=16", f"gradient_checkpointing={forgetful}")
    network = make_network(run, 10)
    if forgetful:
        enable_gradient_checkpointing(network)
    optimizer = make_optimizer(run.recipe, network)
    images = torch.randn(16, 3, 64, 64)

    def step() -> None:
        network(images).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    events = sorted(
        (e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()
    )
    peak = int(np.cumsum([event.nbytes() for event in events]).max())
    counted = footprint(run, 10)
    static = sum(it.nbytes for it in network.state_dict().values())
    static += sum(it.nbytes for state in optimizer.state.values() for it in state.values() if it.ndim)
    assert counted.memory(16) == pytest.approx(peak + static + images.nbytes, rel=0.2)


def test_halves_and_checkpointing_take_less(run_of: Callable) -> None:
    arguments = ("rung=gelu", "recipe=convnext", "design.depths=[3,3,9,3]")
    plain, half = footprint(run_of(*arguments), 10), footprint(run_of(*arguments, "precision=bf16"), 10)
    assert half.per_image == plain.per_image // 2
    weights = 4 * roadmap.cost(run_of(*arguments).design, 32, 10).params
    assert plain.fixed == pytest.approx(5 * weights, rel=0.03)  # and gradients, AdamW's two averages, the moving one
    assert half.fixed - plain.fixed == weights // 2
    forgetful = footprint(run_of(*arguments, "gradient_checkpointing=true"), 10)
    assert forgetful.per_image < plain.per_image / 3
    assert plain.per_image_checkpointed == forgetful.per_image


def test_memory_that_is_not_there_is_a_problem_with_remedies_that_help(planned: Callable) -> None:
    arguments = ("rung=gelu", "design.width=24", "design.stem_stride=4", "recipe.batch_size=192", "device=cpu")
    arguments += ("--images-per-second", "800", "--memory", "0.02")
    code, out, _ = planned(*arguments)
    assert code == 1
    assert "192 images at once need more than 0.02 GB of memory; take micro_batch_size=32\n" in out
    code, out, _ = planned(*arguments, "micro_batch_size=32")
    assert (code, "will fail" in out) == (0, False)
    code, out, _ = planned(*arguments, "micro_batch_size=64")
    assert "take micro_batch_size=32 or gradient_checkpointing=true" in out
    code, out, _ = planned(*arguments, "micro_batch_size=64", "gradient_checkpointing=true")
    assert (code, "will fail" in out) == (0, False)


PROBLEMS = [  # what is typed, what the plan reports beside the cost
    ("data=imagenet data.path=nowhere", "data.path=nowhere is not a folder"),
    ("data=imagenet", "data.path is not set"),
    ("data=folder data.path=. --images 1000,10", "there is no folder train"),
    ("data=wds data.path=nowhere --images 1000,10", "data.path=nowhere is not a folder"),
    ("micro_batch_size=7", "micro_batch_size=7 does not divide the 64 images"),
    ("-m design.width=16,0", "design.width=0: design.width must be a positive integer, not 0"),
    ("-m recipe.batch_size=64,20000", "recipe.batch_size=20000 is more than the 10000 training images"),
    ("-m model=design,timm:vgg11 recipe=modern", "timm:vgg11 has no stochastic depth"),
]


@pytest.mark.parametrize(("typed", "message"), PROBLEMS, ids=[typed for typed, _ in PROBLEMS])
def test_problem_is_named_beside_the_cost(typed: str, message: str, planned: Callable) -> None:
    code, out, err = planned(*typed.split(), "--images-per-second", "100")
    assert (code, err) == (1, "")
    [line] = [line for line in out.splitlines() if line.startswith("will fail: ")]
    assert message in line
    assert "1 run of 1 network" in out


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("desing.width=8", "error: there is no setting 'desing.width'; did you mean 'design'?"),
        ("-m +foo=1,2", "error: there is no setting 'foo'"),
        ("-m rung=gelu,kernal_7", "error: unknown rung 'kernal_7'; did you mean 'kernel_7'?"),
        ("design.width=0", "error: design.width must be a positive integer, not 0"),
        ("-m seed=0 hydra.launcher.jobs=-1", "error: hydra.launcher.jobs must be in [1, 100_000], not -1"),
        (
            "--images-per-second gleu=8 rung=gelu",
            "error: --images-per-second is of no network 'gleu'; did you mean 'gelu'?",
        ),
        ("--images-per-second fast", "error: argument --images-per-second: must be a number above 0, not 'fast'"),
        ("--memory -1", "error: argument --memory"),
        ("-m seed=0 --gpus 0", "error: argument --gpus: must be a number of GPUs, 1 or more, not '0'"),
        ("rung=gelu --gpus 8", "error: --gpus is for a study (-m)"),
        ("-m seed=0 --gpus 8", "error: --gpus=8: there is no GPU here to measure; state --images-per-second of one"),
        ("-m seed=0 device=cpu --gpus 8", "error: --gpus=8 and device=cpu contradict each other"),
        (
            "-m seed=0 hydra.launcher.gpus_per_run=4 --gpus 2 --images-per-second 9",
            "error: --gpus=2 are fewer than the 4 GPUs of one job",
        ),
        (
            "-m seed=0 hydra/launcher=slurm hydra.launcher.gpus_per_node=0 --gpus 2 --images-per-second 9",
            "error: --gpus=2 and hydra.launcher.gpus_per_node=0 contradict each other",
        ),
        ("--images many", "error: argument --images: must be one or two numbers of images"),
    ],
)
def test_mistake_is_refused_in_one_line(typed: str, message: str, planned: Callable, here: Path) -> None:
    code, out, err = planned(*typed.split())
    assert (code, out) == (2, "")
    assert err.startswith(message)
    assert err.count("\n") == 1
    assert not list(here.iterdir())


def test_plan_of_one_run_is_legible_in_80_columns(
    planned: Callable, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = planned("rung=separate_downsampling", "--images-per-second", "1500", "device=cpu", "threads=2")
    assert (code, err) == (0, "")
    head, names, rule, row, *sums = out.splitlines()
    assert max(map(len, (head, names, rule, row))) <= 80
    assert row.startswith("separate_downsampling  ")
    assert "separate_downsampling" in row
    assert any(line.startswith("core-hours: ") for line in sums)
    assert any(line.endswith("1 at a time, 2 cores each") for line in sums)
    assert not list(here.iterdir())


def test_images_are_counted_as_a_run_would(here: Path) -> None:
    """The sample's as stated, a folder's as they lie there."""
    for parts in ({"holdout": 0.1}, {"subset": 0.013}, {"holdout": 0.02, "subset": 0.02}):
        stated = Data("sample", "sample", num_classes=10, train_images=10_000, val_images=10_000, **parts)
        train, test = load_sample()
        chosen, held_out = partition(train, stated)
        assert amounts(stated)[:2] == (len(chosen), len(held_out) or len(test.labels))
    for number, folder in enumerate(["train/a", "train/a", "train/b", "val/a", "val/b", "train/b", "train/b"]):
        (here / folder).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(here / folder / f"{number}.png")
    assert amounts(Data("f", "folder", str(here))) == (5, 2, 2)
    assert amounts(Data("f", "folder", str(here), train_images=99, val_images=9, num_classes=2))[:2] == (99, 9)


def test_known_datasets_have_as_many_images_as_they_state(run_of: Callable) -> None:
    train, test = load_sample()
    data = run_of().data
    assert (data.train_images, data.val_images) == (len(train.labels), len(test.labels))
    data = run_of("data=imagenet", "data.path=x").data
    assert (data.train_images, data.val_images) == (TRAIN, VAL)


def test_images_that_nobody_knows_can_be_said(planned: Callable) -> None:
    arguments = ("data=hfds", "data.path=someone/something", "recipe.epochs=3", "recipe.batch_size=100")
    code, out, _ = planned(*arguments, "--images-per-second", "10")
    assert code == 0
    assert "state --images" in out
    result = planned(*arguments, "--images-per-second", "10", "--images", "1050,30", "--json")
    assert result.cost["rows"][0]["seconds"] == pytest.approx(3 * (1000 / 10 + 30 / 30))


def test_help_is_its_own_page(planned: Callable) -> None:
    code, out, _ = planned("--help")
    assert code == 0
    assert "Trains nothing" in out
    assert all(option in out for option in ("--images-per-second", "--memory GB", "--images TRAIN[,VAL]", "--json"))


def test_input_is_what_the_slower_of_device_and_workers_takes(run_of: Callable) -> None:
    """By hand: a step of 4 ms and an evaluation of 1 ms per image; 6 and 3 ms of a core to read them."""
    pace, taken = Pace(1, 4.0, 1.0, 0, "measured"), Input(6.0, 3.0)
    files = ("data=folder", "data.path=.")

    def with_cores(unit: str, threads: int, cores: int, *more: str) -> tuple[float, float]:
        hardware = Hardware(None, unit, 1, 1, threads, 1, cores)
        result = with_input(pace, taken, run_of(*files, *more), hardware)
        return result.training, result.preparation

    assert with_cores("GPU", 8, 1) == (6, 2)  # it waits for its one worker
    assert with_cores("GPU", 8, 2) == (4, 0.5)  # two keep up in training, but not in evaluation
    assert with_cores("GPU", 8, 8, "workers=1") == (6, 2)
    assert with_cores("GPU", 8, 8, "workers=0") == (10, 3)
    assert with_cores("core", 1, 1) == (10, 3)  # the worker and the network share a core
    assert with_cores("core", 2, 2) == (7, 1.5)
    assert with_cores("core", 1, 2) == (5, 1)
    assert with_cores("core", 1, 2, "workers=1") == (6, 2)
    assert with_cores("GPU", 8, 1, "recipe.ema_decay=0.9") == (6, 1)  # each image is read once, for both weights
    sample = with_input(pace, taken, run_of(), Hardware(None, "GPU", 1, 1, 8, 1, 8))
    assert (sample.training, sample.preparation) == (10, 3)  # images in memory have no workers


@pytest.mark.parametrize("reader", ["folder", "tar"])
def test_input_is_measured_on_the_images_of_the_study(
    reader: str, planned: Callable, photographs: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = photographs
    if reader == "tar":
        path = here / "tars"
        path.mkdir()
        for part in ("train", "val"):
            with tarfile.open(path / f"{part}.tar", "w", dereference=True) as file:
                file.add(photographs / part, ".")
    network = ("design.width=8", "design.depths=[1,1,1,1]", "recipe.batch_size=16", "recipe.epochs=1", "device=cpu")
    arguments = (f"data={reader}", f"data.path={path}", *network, "threads=1", "workers=1", "resolution=64")
    fast = 1e-7, 1e-7, 0, "measured"  # seconds per image, so that the loader worker decides
    monkeypatch.setattr("experiments.plan.throughput.measure", lambda network, *_: Pace(network.macs, *fast))
    result = planned(*arguments, "--json")
    [row] = result.cost["rows"]
    assert row["input_images_per_second_per_core"] > 0
    assert "images/s per core here" in result.cost["input"]
    monkeypatch.setattr("experiments.plan.cost.measure_inputs", lambda *_: {})
    bare = planned(*arguments, "--json").cost
    assert "not counted" in bare["input"]
    assert row["seconds"] > bare["rows"][0]["seconds"]


def test_listing_of_a_large_dataset_is_given_up(planned: Callable, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tar file without an end; where the numbers are stated, the plan does without it."""
    for part in ("train", "val"):
        tarfile.open(here / f"{part}.tar", "w").close()
    entered = []

    def endless(file: tarfile.TarFile) -> tarfile.TarInfo:
        entered.append(file)
        return tarfile.TarInfo(f"class/{len(entered)}.png")

    monkeypatch.setattr(tarfile.TarFile, "next", endless)
    arguments = ("rung=gelu", "data=tar", f"data.path={here}", "device=cpu", "threads=1", "--json")
    cost = planned(*arguments).cost
    assert "has is not known here, or takes too long to count; state --images TRAIN,VAL" in cost["warnings"][0]
    assert cost["hours_in_all"] is None
    cost = planned(*arguments, "--images=1000,10").cost
    assert cost["hours_in_all"] > 0
    assert cost["input"].startswith("not counted, as no images could be read here within a few seconds")
    assert entered


def test_broken_images_and_absent_ones_leave_the_input_out(planned: Callable, imagenet: str) -> None:
    for data in (imagenet, "data.path=nowhere"):
        cost = planned(*IMAGENET, data, "--images-per-second=800", "--json").cost
        assert cost["input"].startswith("not counted, as no images could be read here within a few seconds")
        assert cost["rows"][0]["seconds"] / 3600 == pytest.approx(hours_by_hand(800, 90, 256))


def test_gpus_that_wait_for_images_are_a_warning(planned: Callable, photographs: Path) -> None:
    arguments = ("-m", "rung=gelu", "seed=0", "data=folder", f"data.path={photographs}", "recipe.batch_size=16")
    slurm = ("hydra/launcher=slurm", "resolution=64", "--json")
    slow = planned(*arguments, *slurm, "--images-per-second=1").cost
    fast = planned(*arguments, *slurm, "--images-per-second=1e6", "hydra.launcher.cpus_per_task=2").cost
    assert slow["warnings"] == []
    assert slow["input"].endswith("; gelu recipe.batch_size=16 resolution=64 needs 1 such core per GPU")
    assert "GPUs wait for images: 2 cores per GPU can't" in fast["warnings"][0]
    alone = planned(*arguments, *slurm, "--images-per-second=1e6", "workers=0").cost
    assert "GPUs wait for images: without loader workers" in alone["warnings"][0]


def test_days_on_that_many_gpus(planned: Callable, imagenet: str) -> None:
    study = ("-m", "rung=resnet,gelu", "seed=0,1,2,3,4,5,6,7", *IMAGENET, imagenet, "--images-per-second=1000")
    one = planned(*study, "--json").cost
    assert (one["gpus"], one["side_by_side"]) == (1, 1)
    for launcher, at_once in (
        ((), 8),
        (("hydra.launcher.gpus_per_run=2",), 4),
        (("hydra.launcher.jobs=2",), 2),
        (("hydra/launcher=slurm",), 8),
        (("hydra/launcher=slurm", "hydra.launcher.gpus_per_node=4"), 2),
        (("hydra/launcher=slurm", "hydra.launcher.array_parallelism=4"), 4),
    ):
        cost = planned(*study, *launcher, "--gpus=8", "--json").cost
        assert cost["side_by_side"] == at_once, launcher
        assert cost["gpus"] == at_once * cost["devices"]
        assert cost["wall_seconds"] == pytest.approx(one["wall_seconds"] / cost["gpus"])
    _, out, _ = planned(*study, "--gpus=8")
    days = one["wall_seconds"] / 8 / 86400
    assert f"time: {days:.1f} days until all are done on 8 GPUs, 8 at a time, 1 GPU each\n" in out


def test_nothing_is_measured_for_gpus_elsewhere(planned: Callable) -> None:
    code, out, _ = planned("-m", "rung=gelu", "seed=0,1", "hydra/launcher=slurm")
    assert code == 0
    assert "GPU-hours: ? in all" in out
    assert "state --images-per-second of one to get hours" in out
    assert "on 2 GPUs, 2 at a time, 1 GPU each, if the cluster has as many; --gpus N says how many\n" in out


@pytest.mark.parametrize("cpus", ["hydra.launcher.gpus_per_node=0", "device=cpu"])
def test_cores_of_a_cluster_are_those_that_it_gives_a_run(
    cpus: str, planned: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They can be more than there are here; then the core-hours are those of the cores that were measured."""

    def measure(network: Network, device: torch.device, seconds: float) -> Pace:
        assert torch.get_num_threads() == 2
        return Pace(network.macs, 0.5, 0, 0, "measured")

    monkeypatch.setattr("experiments.plan.throughput.measure", measure)
    monkeypatch.setattr("experiments.plan.throughput.cores", lambda: 2)
    slurm = ("hydra/launcher=slurm", "hydra.launcher.cpus_per_task=8", cpus, "recipe.epochs=1", "data.subset=0.1")
    cost = planned("-m", "rung=gelu", "seed=0,1,2", *slurm, "--json").cost
    assert (cost["unit"], cost["devices"], cost["side_by_side"], cost["gpus"]) == ("core", 8, 3, None)
    assert cost["wall_seconds"] == cost["rows"][0]["seconds"] == pytest.approx(960 * 0.5 * 2 / 8, rel=0.05)
    assert not any("GPUs" in warning for warning in cost["warnings"])


BUDGETS = ("-m", "rung=resnet,modern_recipe", "budgets=[1,2,4]", "regime=small", "recipe.batch_size=16", "device=cpu")
"""In a small regime, a shorter budget of the modern recipe is regularized less."""


def test_budgets_of_a_network_are_measured_once(
    planned: Callable, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks, inputs = [], []

    def measure(network: Network, device: torch.device, seconds: float) -> Pace:
        networks.append(network.run)
        return Pace(network.macs, 1, 1, 0, "measured")

    def measure_input(run: Run, seconds: float) -> Input:
        inputs.append(run)
        return Input(0, 0)

    monkeypatch.setattr("experiments.plan.throughput.measure", measure)
    monkeypatch.setattr("experiments.plan.input._measure", measure_input)
    policy = "recipe.rand_augment=${scaled_policy:rand-m9-mstd0.5-inc1}"
    cost = planned(*BUDGETS, "data=folder", f"data.path={photographs}", policy, "seed=0,1", "--json").cost
    assert len(cost["rows"]) == 6
    assert {row["pace"] for row in cost["rows"]} == {"measured"}
    assert sorted(run.recipe.name for run in networks) == ["modern", "original"]
    assert sorted((run.recipe.name, run.recipe.epochs) for run in inputs) == [("modern", 4), ("original", 4)]
    networks.clear()
    planned(*BUDGETS, "recipe.mixup=0.8,0", "recipe.lr=0.1,0.2", "--json")  # whether there is mixup costs time
    assert len(networks) == 4


def test_records_of_one_budget_say_what_others_take(planned: Callable, run_of: Callable, here: Path) -> None:
    run: Run = run_of("rung=modern_recipe", "regime=small", "recipe.epochs=1", "recipe.batch_size=16", "device=cpu")
    summary = {"status": "done", "device": "cpu", "processes": 1, "threads": 1, "train_images": 10_000}
    summary |= {"evaluation_images": 10_000, "images_per_second": 100.0, "seconds_per_epoch": 150.0}
    (here / "runs" / "earlier").mkdir(parents=True)
    for name, content in (("config", run.to_json()), ("summary", summary)):
        (here / "runs" / "earlier" / f"{name}.json").write_text(json.dumps(content))
    rows = planned(*BUDGETS, "threads=1", "--json").cost["rows"]
    modern = {row["epochs"]: row for row in rows if row["title"].startswith("modern_recipe")}
    assert {row["pace"] for row in modern.values()} == {"recorded"}
    assert {epochs: row["seconds"] for epochs, row in modern.items()} == pytest.approx({1: 150, 2: 300, 4: 600})
    assert {row["pace"] for row in rows if row["title"].startswith("resnet")} == {"measured"}


LAYER = """
from torch import nn

class Double(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1, groups=channels)

    def forward(self, x):
        return x + self.conv(x)
"""


@pytest.mark.parametrize("own", [False, True])
def test_study_on_all_cores_is_that_on_one(
    own: bool, planned: Callable, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with a class of the user's, which this process tries out before it forks."""
    study = ("-m", "study=ladder", "design.width=16", "data.subset=1,0.00001", "--images-per-second=100", "--json")
    if own:
        (here / "doubling.py").write_text(LAYER)
        monkeypatch.syspath_prepend(here)
        study += ("design.layers.double.at=hidden", "design.layers.double._target_=doubling.Double")
    monkeypatch.setattr("experiments.plan.parallel.cores", lambda: 2)
    on_both = planned(*study).cost
    monkeypatch.setattr("experiments.plan.parallel.cores", lambda: 1)
    alone = planned(*study).cost
    alone["free_bytes"] = on_both["free_bytes"]
    assert on_both == alone
    assert len(alone["rows"]) == 16  # of one width, increase_width is depthwise_conv
    assert alone["problems"]


def test_what_fails_in_a_forked_process_is_raised_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.plan.parallel.cores", lambda: 3)
    assert on_all_cores(lambda part: [2 * item for item in part], range(20)) == [2 * item for item in range(20)]
    with pytest.raises(ZeroDivisionError):
        on_all_cores(lambda part: [1 / (item - 17) for item in part], range(20))
