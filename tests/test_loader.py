"""Whole runs on image files: every reader, with and without loader workers, and what becomes of a run, its lock and its
processes when reading fails. What each reader reads is compared with other libraries in test_images.py."""

import fcntl
import itertools
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import containers
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from experiments.config.run import Run
from experiments.data import workers as workers_module
from experiments.data.batch import Batch
from experiments.data.images import Jpeg
from experiments.data.loader import Loader
from experiments.data.workers import end_workers
from experiments.errors import SettingsError
from experiments.launch import worker
from experiments.records.record import Record
from experiments.runtime.processes import Processes
from experiments.training import loop
from experiments.training.loop import StoppedError

READERS = ("folder", "tar", "hfds", "wds", "hfids")
RUN = ("design.width=8", "design.depths=[1,1,1,1]", "recipe.epochs=2", "recipe.batch_size=8", "threads=1", "device=cpu")


@pytest.fixture(scope="module")
def contained(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """{reader: the photographs in its container}."""
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("webdataset")
    paths = {"folder": photographs} | {reader: tmp_path_factory.mktemp(reader) for reader in ("tar", "wds", "hfds")}
    containers.as_tar(photographs, paths["tar"])
    containers.as_shards(photographs, paths["wds"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        containers.as_hub(photographs, paths["hfds"])
        yield paths | {"hfids": paths["hfds"]}


def on(reader: str, path: Path, workers: int) -> tuple[str, ...]:
    sizes = ('data.train="train|48"', 'data.val="validation|24"') if reader == "hfids" else ()  # Parquet has none
    return (*RUN, f"data={reader}", f"data.path={path}", f"workers={workers}", *sizes)


def val_loss(runs: Path) -> float:
    [summary] = (json.loads(path.read_text()) for path in runs.glob("*/summary.json"))
    assert summary["status"] == "done"
    return summary["val_loss"]


def assert_over(runs: Path) -> None:
    """No process is left of a run, and nobody holds its lock."""
    assert multiprocessing.active_children() == []
    for path in runs.glob("*/lock"):
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_trains_with_any_number_of_loader_workers(
    reader: str, contained: dict[str, Path], command: Callable, here: Path
) -> None:
    """The numbers do not depend on the container, nor, unless it is a stream, on the workers."""
    losses, correct = {}, set()
    for workers in (0, 1, 2):
        trained = command(*on(reader, contained[reader], workers), f"runs={workers}")
        assert trained.code == 0, trained.out
        losses[workers] = val_loss(here / f"{workers}")
        correct |= {path.read_text() for path in here.glob(f"{workers}/*/correct.json")}
        assert_over(here / f"{workers}")
    assert len(correct) == (reader not in ("wds", "hfids"))  # which of a stream's images are which is not known
    if reader not in ("wds", "hfids"):
        assert command(*on("folder", contained["folder"], 0), "runs=folder").code == 0
        assert {*losses.values()} == {val_loss(here / "folder")}


@pytest.mark.parametrize("reader", READERS)
def test_training_crops_of_every_reader_can_be_decoded_at_a_reduced_scale(
    reader: str, contained: dict[str, Path], run_of: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    reductions = []
    decode = Jpeg.decode
    monkeypatch.setattr(Jpeg, "decode", lambda jpeg, by: reductions.append(by) or decode(jpeg, by))
    holdout = () if reader in ("wds", "hfids") else ("data.holdout=0.25",)
    overrides = (*on(reader, contained[reader], 0), "resolution=33", "recipe=original", *holdout)
    plain, reduced = (run_of(*overrides, *more) for more in ((), ("data.reduced_decoding=true",)))
    assert plain.identity != reduced.identity
    alone = Processes(torch.device("cpu"))
    one, other = Loader(plain, alone), Loader(reduced, alone)
    epochs = [*one.epoch(0)], [*other.epoch(0)]
    assert len(reductions) == sum(len(batch.images) for batch in epochs[1])
    assert {*reductions} <= {1, 2, 4, 8}
    for mine, theirs in zip(*epochs, strict=True):
        assert mine.samples == theirs.samples
        assert max(reductions) > 1 or torch.equal(mine.images, theirs.images)
    for mine, theirs in zip(one.evaluation.batches(), other.evaluation.batches(), strict=True):
        assert torch.equal(mine.images, theirs.images)  # also where they are held out of the training images


def explode(*_: object) -> Tensor:
    raise ZeroDivisionError("a transform of one's own\nhas a mistake")


def leave(*_: object) -> Tensor:
    sys.exit("a transform of one's own has had enough")


def block(*_: object) -> Tensor:
    time.sleep(1000)


def die(*_: object) -> Tensor:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("workers", [0, 2])
def test_exception_in_a_transform_ends_the_run_in_a_line_that_names_it(
    reader: str, workers: int, contained: dict, command: Callable, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.data.loader.TrainingTransform", lambda *_: explode)
    trained = command(*on(reader, contained[reader], workers))
    assert trained.code == 2
    line = trained.out.splitlines()[-1]
    assert line.startswith("failed: cannot transform the image ")
    assert line.endswith("ZeroDivisionError: a transform of one's own has a mistake")
    [log] = here.glob("runs/*/log.txt")
    assert "in explode" in log.read_text()  # the trace is for whoever wrote the transform
    assert_over(here / "runs")


@pytest.mark.parametrize("reader", ["folder", "wds"])
def test_worker_that_would_leave_says_why(
    reader: str, contained: dict, command: Callable, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.data.loader.TrainingTransform", lambda *_: leave)
    trained = command(*on(reader, contained[reader], 1))
    assert trained.code == 2
    assert trained.out.endswith("SystemExit: a transform of one's own has had enough\n")
    assert_over(here / "runs")


def test_run_whose_workers_hang_can_be_stopped(
    photographs: Path, run_of: Callable, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that no longer answers, say. The run's own time of patience is shortened."""
    monkeypatch.setattr("experiments.data.loader.TrainingTransform", lambda *_: block)
    monkeypatch.setattr("experiments.launch.worker.STUCK", 0.4)
    run = run_of(*on("folder", photographs, 2))
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGALRM)
    kept = {number: signal.getsignal(number) for number in numbers}
    threading.Timer(2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    try:
        assert worker.train_recorded(run) == 130
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    assert json.loads((run.directory / "summary.json").read_text())["status"] == "unfinished"
    assert_over(here / "runs")


@pytest.mark.parametrize("reader", READERS)
def test_a_worker_that_is_killed_ends_the_run(
    reader: str, contained: dict, command: Callable, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.data.loader.TrainingTransform", lambda *_: die)
    looks = torch.utils.data.dataloader._MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(looks, "__defaults__", (0.1,))  # seconds between two looks at the workers, for 5
    trained = command(*on(reader, contained[reader], 1))
    assert trained.code == 1
    assert "failed: a loader worker died, as when memory runs out" in trained.out
    assert_over(here / "runs")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("label", "shown"), [(lambda label: label + 1, "b'3'"), (lambda label: "two", "b'two'")])
def test_wrong_label_ends_the_run_in_a_line_that_names_it(
    workers: int, label: Callable, shown: str, photographs: Path, command: Callable, here: Path
) -> None:
    pytest.importorskip("webdataset")
    (here / "shards").mkdir()
    containers.as_shards(photographs, here / "shards", label)
    trained = command(*on("wds", here / "shards", workers))
    assert trained.code == 2
    assert f"{here / 'shards'}" in trained.out
    assert f"is {shown}: not a class from 0 to 2" in trained.out
    assert_over(here / "runs")


@pytest.mark.usefixtures("every_step")
def test_run_that_was_stopped_within_an_epoch_goes_on_with_the_same_form_of_its_data_alone(
    contained: dict[str, Path], run_of: Callable, here: Path
) -> None:
    """The datasets are one, and so are the runs; but not the order of the images within an epoch."""
    folder, tar = (run_of(*on(reader, contained[reader], 0), "data.name=flowers") for reader in ("folder", "tar"))
    assert folder.identity == tar.identity

    def train(run: Run, steps: int) -> None:
        steps_taken, record = itertools.count(1), Record(run)
        try:
            loop.train(run, record, Mock(), Processes(torch.device("cpu")), lambda: next(steps_taken) == steps)
        except Exception:
            record.finish("unfinished")
            raise

    with pytest.raises(StoppedError):
        train(folder, 2)
    with pytest.raises(SettingsError, match=r"within an epoch whose images .* another order .* \(folder .*, not tar "):
        train(tar, 99)
    with pytest.raises(StoppedError):
        train(folder, 4)  # to the end of the epoch of six steps
    train(tar, 99)


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    """A folder of PNGs of 40 x 36 px, one of them broken."""
    rng = np.random.default_rng(0)
    for part, label, number in itertools.product(("train", "val"), "ab", range(12)):
        path = tmp_path / "tiles" / part / label / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (36, 40, 3), np.uint8)).save(path)
    (tmp_path / "tiles" / "train" / "a" / "05.png").write_bytes(b"no image")
    return tmp_path / "tiles"


def trained(command: Callable, here: Path, *overrides: str) -> dict:
    """The summary of a run in its own folder."""
    runs = f"runs{len([*here.glob('runs*')])}"
    outcome = command(*overrides, f"runs={runs}")
    assert outcome.code == 0, outcome
    [path] = here.glob(f"{runs}/*/summary.json")
    return json.loads(path.read_text())


@pytest.mark.parametrize("recipe", ["original", "modern"])
def test_cached_images_train_the_same_run(recipe: str, tiles: Path, command: Callable, here: Path) -> None:
    """At 32 px to the bit, by whomever they are read; larger crops are resized together, and so make another run, but
    where RandAugment takes them one by one."""
    run = (*on("folder", tiles, 1), "regime=resnet50", f"recipe={recipe}", "recipe.batch_size=8", "data.broken=skip")
    results = ("identity", "val_loss", "train_images", "broken_images")
    for resolution in (32, 48):
        sized = (*run, f"resolution={resolution}")
        files, memory = (trained(command, here, *sized, *cache) for cache in ((), ("data.cache=memory",)))
        same = [files[name] == memory[name] for name in results]
        assert same == ([True] * 4 if resolution == 32 or recipe == "modern" else [False, False, True, True])
        assert memory["val_loss"] == pytest.approx(files["val_loss"], abs=0.05)
        if recipe == "original":
            device = trained(command, here, *sized, "data.cache=device")
            assert [device[name] for name in results] == [memory[name] for name in results]
    assert files["broken_images"] == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("data.broken=stop",), "05.png: not an image"),
        (
            ("data.val=train", "data.train=val", "data.broken=skip"),
            "odd.png, 30 x 36 px: data.cache keeps images of one size, here 40 x 36",
        ),
        (("recipe=modern", "regime=resnet50", "data.cache=device"), "take data.cache=memory"),
        (("data.reduced_decoding=true", "resolution=64"), "leave out one of them"),
    ],
)
def test_what_cannot_be_cached_is_named(
    overrides: tuple[str, ...], message: str, tiles: Path, command: Callable
) -> None:
    Image.new("RGB", (30, 36)).save(tiles / "val" / "b" / "odd.png")
    code, out, err = command(*on("folder", tiles, 1), "recipe.batch_size=8", "data.cache=memory", *overrides)
    assert code == 2
    assert message in out + err
    assert "Traceback" not in out + err


@pytest.mark.parametrize("start", ["fork", "forkserver", "spawn"])
def test_loader_workers_start_in_every_way_and_live_as_long_as_the_run(
    start: str, photographs: Path, run_of: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where Python would send them what they need: elsewhere than on Linux, and from Python 3.14 on."""
    overrides = (
        *on("folder", photographs, 1),
        "regime=resnet50",
        "recipe=modern",
        "recipe.batch_size=8",
        "resolution=40",
    )
    run = run_of(*overrides)
    alone = Processes(torch.device("cpu"))

    def batches(loader: Loader) -> list[Batch]:
        return [*loader.epoch(0), *loader.epoch(1)]

    expected = batches(Loader(run_of(*overrides[:8], "workers=0", *overrides[9:]), alone))
    monkeypatch.setattr(workers_module, "START", start)
    loader = Loader(run, alone)
    try:
        begun = next(iter(loader.epoch(0))).samples
        workers = {child.pid for child in multiprocessing.active_children()}
        got = batches(loader)
        assert workers <= {child.pid for child in multiprocessing.active_children()}
    finally:
        end_workers()
    assert begun == got[0].samples
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one.images, other.images)
        assert one.samples == other.samples


def test_run_on_files_that_is_interrupted_and_then_killed_ends_as_if_nothing_had_happened(
    photographs: Path, fork: Callable, command: Callable, here: Path, wait_for: Callable
) -> None:
    """Ctrl-C reaches the loader workers too, and must not end them before the run has saved; of a run that was killed,
    they must not hold the lock."""
    overrides = (*on("folder", photographs, 2), "recipe.epochs=24", "runs=disturbed")

    def epochs() -> int:
        return sum(len(path.read_text().splitlines()) for path in here.glob("disturbed/*/epochs.jsonl"))

    run = fork(*overrides)
    wait_for(lambda: epochs() >= 2)
    os.killpg(run.pid, signal.SIGINT)
    output, _ = run.communicate(timeout=60)
    assert run.returncode == 130, output
    assert "unfinished: stopped after step" in output
    assert_over(here / "disturbed")
    run, before = fork(*overrides), epochs()
    wait_for(lambda: epochs() >= before + 2)
    children = [int(pid) for pid in Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()]
    assert len(children) >= 2
    run.kill()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
    assert_over(here / "disturbed")
    assert command(*overrides).code == 0
    assert command(*overrides[:-1], "runs=whole").code == 0
    [disturbed], [whole] = (list(here.glob(f"{runs}/*/weights.pt")) for runs in ("disturbed", "whole"))
    one, other = (torch.load(file, weights_only=True) for file in (disturbed, whole))
    assert all(torch.equal(one[name], other[name]) for name in one)


def statuses(runs: Path) -> list[str]:
    return sorted(json.loads(path.read_text())["status"] for path in runs.glob("*/summary.json"))


@pytest.mark.parametrize("workers", [0, 2])
def test_study_of_folders_trains_what_can_be_and_names_what_cannot(
    workers: int, photographs: Path, small_images: Path, fork: Callable, here: Path
) -> None:
    """The launcher `local`, from the command to the last line."""
    overrides = (*RUN, "data=folder", f"workers={workers}")
    study = fork("-m", *overrides, f"data.path={photographs},{small_images}", "seed=0,1")
    output, _ = study.communicate(timeout=120)
    assert study.returncode == 1
    assert "2 of 4 runs are done" in output
    assert "Traceback" not in output
    assert "padded by 4 px and cropped" in " ".join(output.split())
    assert statuses(here / "runs") == ["done", "done", "failed", "failed"]
    assert_over(here / "runs")


def test_study_whose_processes_lose_their_server_is_trained_all_the_same(
    photographs: Path, launch: Callable, here: Path, wait_for: Callable
) -> None:
    """The server that a study's runs are forked from is killed: they go on, and the launcher waits for them."""
    study = launch("-m", *on("folder", photographs, 1), "recipe.epochs=12", "seed=0,1")
    wait_for(lambda: len([path for path in here.glob("runs/*/epochs.jsonl") if path.read_text()]) == 2)
    children = Path(f"/proc/{study.pid}/task/{study.pid}/children").read_text().split()
    [server] = [pid for pid in children if b"forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(int(server), signal.SIGKILL)
    output, _ = study.communicate(timeout=120)
    assert study.returncode == 0, output
    assert "2 of 2 runs are done" in output
    assert_over(here / "runs")
