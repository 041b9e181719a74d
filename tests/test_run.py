"""A run records what it did, all of it and nothing else, whatever happens to it."""

import json
import multiprocessing
import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn
from torch.nn import functional as F

import roadmap
from experiments.config.run import Run
from experiments.config.settings import Data
from experiments.config.task import Classification
from experiments.data.partition import partition
from experiments.data.readers.sample import SAMPLE, load_sample
from experiments.launch.worker import train_in_child, train_recorded
from experiments.records.record import LockedError, Record, is_done
from experiments.train import main
from experiments.training.tasks import TASKS

DOCUMENT = (Path(__file__).parent.parent / "docs" / "records.md").read_text()


def documented(file: str) -> set[str]:
    """The names in the first column of a file's table, or in its paragraph if it has no table."""
    section = DOCUMENT.split(f"## {file}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.M)
    return set(re.findall(r"`(\w+)`", " ".join(rows) or section))


def read(directory: Path) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """config.json, epochs.jsonl and summary.json."""
    config, summary = (json.loads((directory / f"{name}.json").read_text()) for name in ("config", "summary"))
    return config, [json.loads(line) for line in (directory / "epochs.jsonl").read_text().splitlines()], summary


def ranked(
    network: nn.Module, weights: Path, part: str, chosen: slice | np.ndarray
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of images of the sample, in plain torch: logits, labels, and by rank whether it is the right class."""
    network.load_state_dict(torch.load(weights, weights_only=True))
    with np.load(SAMPLE) as arrays:
        images, labels = (
            arrays[f"{part}_images"][chosen],
            torch.from_numpy(arrays[f"{part}_labels"][chosen].astype(int)),
        )
    pixels = F.pad(torch.from_numpy(images), (2, 2, 2, 2))[:, None].expand(-1, 3, -1, -1) / 255
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    with torch.inference_mode():
        logits = torch.cat([network.eval()(some) for some in ((pixels - mean) / std).split(500)])
    return logits, labels, logits.argsort(1, descending=True) == labels[:, None]


def accuracy(network: nn.Module, weights: Path, part: str, chosen: slice | np.ndarray) -> dict[str, float]:
    """val_loss, top1 and top5."""
    logits, labels, right = ranked(network, weights, part, chosen)
    return {
        "val_loss": F.cross_entropy(logits, labels).item(),
        "top1": 100 * right[:, 0].float().mean().item(),
        "top5": 100 * right[:, :5].any(1).float().mean().item(),
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, small: tuple[str, ...]) -> Path:
    """The directory of a run that is done, evaluated on the test images, with a moving average of its weights."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["experiments.train", *small, "recipe.ema_decay=0.9"])
        patch.setattr("signal.signal", lambda *_: None)
        with pytest.raises(SystemExit) as end:
            main()
    assert end.value.code == 0
    [directory] = folder.glob("runs/*")
    return directory


of_trained = pytest.mark.xdist_group("trained")  # once


@of_trained
def test_record_is_what_the_documentation_says(trained: Path) -> None:
    config, epochs, summary = read(trained)
    assert set(config) == documented("config.json")
    assert [set(row) for row in epochs] == [documented("epochs.jsonl")] * 2
    assert set(summary) == documented("summary.json")
    tree = set(re.findall(r"^ {8}([\w.]+\.\w+) ", DOCUMENT, re.M))  # of a run that is done: without checkpoints
    assert {path.name for path in trained.iterdir()} == tree | {"lock"}


@of_trained
def test_record_says_what_was_trained(trained: Path) -> None:
    config, epochs, summary = read(trained)
    network = roadmap.build(roadmap.Design(**config["design"]), 10)
    assert (summary["status"], summary["reason"]) == ("done", None)
    assert (summary["epochs_done"], summary["epochs"], summary["seed"]) == (2, 2, 0)
    assert (summary["evaluated_on"], summary["train_images"], summary["evaluation_images"]) == ("test", 200, 10_000)
    assert (summary["device"], summary["threads"]) == ("cpu", 1)
    assert summary["params"] == sum(parameter.numel() for parameter in network.parameters())
    assert summary["macs"] == roadmap.cost(roadmap.Design(**config["design"]), 32, num_classes=10).macs
    assert summary["versions"]["torch"] == torch.__version__.split("+")[0]
    assert summary["started"] <= summary["finished"]
    assert [row["epoch"] for row in epochs] == [1, 2]
    assert [row["top1"] for row in epochs][-1] == summary["top1"]


@of_trained
def test_accuracy_is_that_of_the_weights(trained: Path) -> None:
    config, _, summary = read(trained)
    network = roadmap.build(roadmap.Design(**config["design"]), 10)
    for prefix, file in {"": "weights.pt", "ema_": "weights_ema.pt"}.items():
        expected = accuracy(network, trained / file, "test", slice(None))
        found = {name: summary[f"{prefix}{name}"] for name in expected}
        assert found == pytest.approx(expected, abs=0.011)  # one image of 10,000
    assert summary["ema_val_loss"] != summary["val_loss"]
    *_, right = ranked(network, trained / "weights.pt", "test", slice(None))
    digits = json.loads((trained / "correct.json").read_text())["correct"]
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(digits), np.uint8))
    assert (bits != right[:, 0].numpy()).sum() <= 1


@pytest.mark.parametrize("model", ["design", "timm:test_resnet"])
def test_holdout_takes_the_place_of_the_test_images(
    model: str, command: Callable, tiny: tuple[str, ...], here: Path
) -> None:
    """And a timm model trains in the same harness."""
    assert command(*tiny, f"model={model}").code == 0
    [directory] = here.glob("runs/*")
    config, _, summary = read(directory)
    assert config["model"] == model
    assert (summary["evaluated_on"], summary["evaluation_images"]) == ("holdout", 200)
    design = roadmap.Design(**config["design"])
    network = roadmap.build(design, 10) if model == "design" else timm.create_model("test_resnet", num_classes=10)
    _, held_out = partition(load_sample()[0], Data(**config["data"]))
    expected = accuracy(network, directory / "weights.pt", "train", held_out)
    assert {name: summary[name] for name in expected} == pytest.approx(expected, abs=0.51)  # one image of 200


def test_seed_decides_every_bit(
    command: Callable, tiny: tuple[str, ...], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With everything random that the modern recipe has, however many workers there are and whoever else draws."""
    modern = [*tiny, "regime=resnet50", "recipe=modern", "resolution=32", "recipe.lr=1e-3"]
    results = []
    for runs, *overrides in (("a",), ("b", "workers=2"), ("c", "seed=1")):
        draw = {"a": lambda *_: None}.get(runs, lambda *_: (torch.rand(1), np.random.rand(), random.random()))
        monkeypatch.setattr("experiments.launch.worker.Reporter.step", draw)
        assert command(*modern, f"runs={runs}", *overrides).code == 0
        [directory] = here.glob(f"{runs}/*")
        rows = [
            {k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in read(directory)[1]
        ]
        results.append((rows, torch.load(directory / "weights.pt", weights_only=True)))
    (rows, weights), (same_rows, same_weights), (other_rows, _) = results
    assert rows == same_rows
    assert all(torch.equal(weights[name], same_weights[name]) for name in weights)
    assert rows != other_rows


def test_what_is_done_is_not_trained_again(
    command: Callable, run_of: Callable, tiny: tuple[str, ...], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def files() -> dict[Path, tuple[int, bytes]]:
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in here.glob("runs/*/*.*")}

    assert command(*tiny).code == 0
    before = files()
    monkeypatch.delattr("experiments.launch.worker.train")
    code, out, _ = command(*tiny, "runs=./runs", "workers=1")
    assert (code, "done already" in out) == (0, True)
    assert train_recorded(run_of(*tiny)) == 0  # in a study whose launcher looked before another had finished it
    assert files() == before


def test_result_is_the_last_epochs_not_the_bests(
    command: Callable, tiny: tuple[str, ...], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    falling = iter([{"top1": 50.0, "top5": 90.0, "val_loss": 1.0}, {"top1": 40.0, "top5": 80.0, "val_loss": 2.0}])
    monkeypatch.setattr(
        "experiments.training.tasks.classification.evaluate", lambda *_: [next(falling) | {"images": 200}]
    )
    assert command(*tiny).code == 0
    [directory] = here.glob("runs/*")
    summary = read(directory)[2]
    assert (summary["top1"], summary["top5"], summary["val_loss"]) == (40, 80, 2)
    assert (summary["top1_best"], summary["epoch_best"]) == (50, 1)


class Detection(Classification):
    """Another task, as far as loop, record and log see it: its results have other names."""

    name, results, metric = "detection", ("box_ap", "box_ap50"), "box_ap"

    def describe(self, results: dict[str, float]) -> str:
        return f"box AP {results['box_ap']:.1f}"

    def describe_epoch(self, row: dict[str, float]) -> str:
        return f"epoch {row['epoch']}: {self.describe(row)}"


def test_results_are_called_as_the_task_says(
    run_of: Callable, tiny: tuple[str, ...], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In rows, summary and log; and a run of it is done."""
    monkeypatch.setattr("signal.signal", lambda *_: None)
    precisions = iter([30.0, 29.0])

    def evaluate(*_: object) -> list[dict[str, float]]:
        return [{"box_ap": (ap := next(precisions)), "box_ap50": ap + 20, "images": 200}]

    module = SimpleNamespace(Objective=TASKS["classification"].Objective, evaluate=evaluate)
    monkeypatch.setitem(TASKS, "detection", module)
    monkeypatch.setattr("experiments.config.run.CLASSIFICATION", Detection())
    run = run_of(*tiny, f"runs={here}/runs")
    assert train_recorded(run) == 0
    _, epochs, summary = read(run.directory)
    assert [(row["box_ap"], row["box_ap50"]) for row in epochs] == [(30, 50), (29, 49)]
    named = {name: value for name, value in summary.items() if "box_ap" in name or "top1" in name}
    assert named == {"box_ap": 29, "box_ap50": 49, "box_ap_best": 30}
    assert (summary["task"], summary["metric"], summary["epoch_best"]) == ("detection", "box_ap", 1)
    log = (run.directory / "log.txt").read_text()
    assert "epoch 2: box AP 29.0\n" in log
    assert "done: box AP 29.0 in " in log
    assert is_done(run)


@pytest.mark.parametrize(
    ("results", "done"),
    [
        ({"metric": "top1", "top1": 50.0}, True),
        ({"metric": "top1", "top1": None}, False),
        ({"top1": 50.0}, False),
        ({"metric": "box_ap", "box_ap": 30.0}, True),
        ({"metric": "box_ap", "box_ap": "high", "top1": 50.0}, False),
        ({"metric": ["top1"], "top1": 50.0}, False),
    ],
)
def test_run_without_a_number_for_its_metric_is_not_done(
    results: dict[str, Any], done: bool, run_of: Callable, here: Path
) -> None:
    run = run_of(f"runs={here}/runs")
    run.directory.mkdir(parents=True)
    summary = {"status": "done", "identity": run.identity} | results
    (run.directory / "summary.json").write_text(json.dumps(summary))
    assert is_done(run) == done


def test_diverged_run_says_so(command: Callable, tiny: tuple[str, ...], here: Path) -> None:
    code, out, _ = command(*tiny, "recipe.lr=1e12")
    [directory] = here.glob("runs/*")
    summary = read(directory)[2]
    assert (code, summary["status"]) == (1, "diverged")
    assert re.fullmatch(r"the loss is (nan|inf) at step \d+ of 20 \(learning rate 1e\+12\)", summary["reason"])
    assert summary["reason"] in out
    assert not (directory / "weights.pt").exists()
    command(*tiny, "recipe.lr=1e12")
    assert [summary["diverged_before"], read(directory)[2]["diverged_before"]] == [0, 1], "once, when tried again"


def test_failed_run_keeps_its_epochs_and_its_traceback(
    command: Callable, tiny: tuple[str, ...], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_in_the_second_epoch(*_: object, calls: list = []) -> list[dict]:  # noqa: B006
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of luck\nand of more lines")
        return [{"top1": 50.0, "top5": 90.0, "val_loss": 1.0, "images": 200}]

    monkeypatch.setattr("experiments.training.tasks.classification.evaluate", fail_in_the_second_epoch)
    assert command(*tiny).code == 1
    [directory] = here.glob("runs/*")
    _, epochs, summary = read(directory)
    assert (summary["status"], summary["reason"]) == ("failed", "RuntimeError: out of luck")
    assert summary["finished"] is not None
    assert len(epochs) == summary["epochs_done"] == 1
    assert "Traceback (most recent call last)" in (directory / "log.txt").read_text()


@pytest.fixture
def long_run(run_of: Callable, tiny: tuple[str, ...], here: Path) -> Run:
    """A run that does not end by itself while a test lasts."""
    return run_of(*tiny, "recipe.epochs=10000", f"runs={here}/runs")


@pytest.fixture
def child() -> Iterator[Callable[[Run], BaseProcess]]:
    """A run in a process as a study starts it."""
    processes, started = multiprocessing.get_context("forkserver"), []

    def start(run: Run) -> BaseProcess:
        process = processes.Process(target=train_in_child, args=(run,))
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


def epochs_of(run: Run) -> int:
    try:
        return json.loads((run.directory / "summary.json").read_text())["epochs_done"]
    except FileNotFoundError:
        return 0


@pytest.mark.parametrize(("number", "times"), [(signal.SIGTERM, 1), (signal.SIGINT, 1), (signal.SIGINT, 1000)])
def test_interrupted_run_is_unfinished(
    number: signal.Signals, times: int, long_run: Run, child: Callable, wait_for: Callable
) -> None:
    """Also if it is asked again while it records that: Ctrl-C reaches a study's run from the terminal and from its
    launcher, and people press it twice."""
    process = child(long_run)
    wait_for(lambda: epochs_of(long_run))
    while times and process.is_alive():
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)
        times -= 1
        time.sleep(0.0005)
    process.join()
    _, epochs, summary = read(long_run.directory)
    assert (process.exitcode, summary["status"]) == (130, "unfinished")
    assert summary["reason"].startswith("stopped after step ")
    assert len(epochs) == summary["epochs_done"] >= 1


def test_run_is_trained_by_one_process_at_a_time(
    long_run: Run, child: Callable, wait_for: Callable, command: Callable, tiny: tuple[str, ...]
) -> None:
    process = child(long_run)
    wait_for(lambda: epochs_of(long_run))
    with pytest.raises(LockedError):
        Record(long_run)
    code, _, err = command(*tiny, "recipe.epochs=10000")
    assert (code, err.count("\n")) == (75, 1)
    assert "is being trained by another process" in err
    assert process.is_alive()
    process.kill()
    process.join()
    Record(long_run)  # a killed holder holds it no more


def test_record_is_whole_at_any_moment(long_run: Run, child: Callable, wait_for: Callable) -> None:
    """Read while it is written, and after a kill -9."""
    process = child(long_run)
    wait_for(lambda: epochs_of(long_run))
    until = time.monotonic() + 1 + random.random()
    while time.monotonic() < until:
        _, epochs, _ = read(long_run.directory)
    process.kill()
    process.join()
    _, epochs, summary = read(long_run.directory)
    assert summary["status"] == "running"
    assert len(epochs) - 1 <= summary["epochs_done"] <= len(epochs)


def test_timm_model_without_stochastic_depth_says_what_to_do(
    command: Callable, tiny: tuple[str, ...], here: Path
) -> None:
    code, out, _ = command(*tiny, "model=timm:vgg11", "recipe=modern")
    assert code == 2
    assert "timm:vgg11 has no stochastic depth, which the recipe needs; add design.drop_path=0" in out
