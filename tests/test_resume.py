"""A run that was stopped, by whatever and wherever, ends as if nothing had happened."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch

from experiments.config.run import Run
from experiments.errors import SettingsError
from experiments.records.record import Record
from experiments.runtime.processes import Processes
from experiments.training.checkpoint import Checkpoints
from experiments.training.loop import StoppedError
from experiments.training.loop import train as train_on

torch.set_num_threads(1)
pytestmark = [
    pytest.mark.xdist_group("resume"),  # the undisturbed run is trained once
    pytest.mark.usefixtures("every_step"),  # but not when that is trained
]

METRICS = ("epoch", "lr", "train_loss", "val_loss", "top1", "top5")
STEPS = 20


ALONE = Processes(torch.device("cpu"))


def train(run: Run, record: Record, log: "Log", stop_requested: Callable[[], bool] = lambda: False) -> None:
    train_on(run, record, log, ALONE, stop_requested)


class Log:
    """A run's progress that keeps the lines it is given."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def step(self, *_: object) -> None: ...

    def epoch(self, row: dict[str, float]) -> None: ...


@pytest.fixture(scope="module")
def run(run_of: Callable[..., Run], tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """20 steps in 2 epochs, with everything random that the modern recipe has, and with BatchNorm."""
    modern = ("regime=resnet50", "recipe=modern", "resolution=32", "recipe.lr=1e-3")
    return run_of(*tiny, *modern, f"runs={tmp_path_factory.mktemp('whole')}")


@pytest.fixture(scope="module")
def undisturbed(run: Run) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    train(run, Record(run), Log())
    return results(run)


def results(run: Run) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    rows = [json.loads(line) for line in (run.directory / "epochs.jsonl").read_text().splitlines()]
    weights = torch.load(run.directory / "weights.pt", weights_only=True)
    correct = json.loads((run.directory / "correct.json").read_text())
    return weights, [*({name: row[name] for name in METRICS} for row in rows), correct]


def stop_after(steps: int) -> Callable[[], bool]:
    counter = count(1)
    return lambda: next(counter) == steps


def stop(run: Run, steps: int) -> Log:
    log, record = Log(), Record(run)
    with pytest.raises(StoppedError):
        train(run, record, log, stop_after(steps))
    record.finish("unfinished")
    return log


def assert_equal(one: tuple, other: tuple) -> None:
    weights, metrics = one
    assert metrics == other[1]
    assert weights.keys() == other[0].keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, other[0][name]), name


@pytest.mark.parametrize("stops", [(1,), (10,), (20,), (3, 5, 4)], ids=str)
def test_stopped_run_ends_as_if_undisturbed(
    run: Run, undisturbed: tuple, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    """After the first step, at an epoch's end before it is evaluated, after the last step, and repeatedly within
    epochs; with other loader workers afterwards."""
    run = replace(run, runs=tmp_path)
    for steps in stops:
        stop(run, steps)
    log = Log()
    train(replace(run, workers=2), Record(run), log)
    assert f"resuming after step {sum(stops)} of {STEPS}" in log.lines
    assert_equal(results(run), undisturbed)


def test_optimizer_of_timm_goes_on_within_a_run(run_of: Callable, tiny: tuple[str, ...], tmp_path: Path) -> None:
    run = run_of(*tiny, "recipe.optimizer=timm:lamb", "recipe.lr=0.01")
    whole, stopped = (replace(run, runs=tmp_path / name) for name in ("whole", "stopped"))
    train(whole, Record(whole), Log())
    stop(stopped, 13)
    train(stopped, Record(stopped), Log())
    assert_equal(results(stopped), results(whole))


def epochs_of(folder: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in folder.glob("*/epochs.jsonl"))


def test_last_two_checkpoints_are_kept_until_the_run_is_done(run: Run, tmp_path: Path) -> None:
    run = replace(run, runs=tmp_path, checkpoint_minutes=0)  # after every step
    stop(run, 6)
    names = sorted(path.name for path in (run.directory / "checkpoints").iterdir())
    assert names == ["step-00000005.pt", "step-00000006.pt"]
    train(run, Record(run), Log())
    assert not (run.directory / "checkpoints").exists()


@pytest.mark.parametrize("damage", ["truncate", "empty", "garbage"])
def test_damaged_checkpoint_is_reported_and_the_one_before_used(
    run: Run, undisturbed: tuple, tmp_path: Path, damage: str
) -> None:
    run = replace(run, runs=tmp_path, checkpoint_minutes=0)
    stop(run, 6)
    newest = run.directory / "checkpoints" / "step-00000006.pt"
    whole = newest.read_bytes()
    newest.write_bytes({"truncate": whole[: len(whole) // 2], "empty": b"", "garbage": b"not a checkpoint"}[damage])
    log = Log()
    train(run, Record(run), log)
    assert any("step-00000006.pt is damaged" in line for line in log.lines)
    assert f"resuming after step 5 of {STEPS}" in log.lines
    assert_equal(results(run), undisturbed)


def test_checkpoint_of_another_network_is_refused_by_name(run: Run, tmp_path: Path) -> None:
    run = replace(run, runs=tmp_path)
    stop(run, 2)
    other = replace(run, design=replace(run.design, kernel_size=5))
    other.directory.mkdir(parents=True)
    (run.directory / "checkpoints").rename(other.directory / "checkpoints")
    with pytest.raises(SettingsError, match="another run, kernel_size 3 there and 5 here"):
        Checkpoints(other, print, ALONE).load()


def test_full_disk_leaves_the_checkpoint_before(
    run: Run, undisturbed: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = replace(run, runs=tmp_path)
    stop(run, 4)
    record = Record(run)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full_disk)
        with pytest.raises(OSError, match="No space left"):
            train(run, record, Log(), stop_after(3))
    record.finish("failed")
    assert [path.name for path in (run.directory / "checkpoints").iterdir()] == ["step-00000004.pt"]
    train(run, Record(run), Log())
    assert_equal(results(run), undisturbed)


def full_disk(state: object, file) -> None:
    file.write(b"the beginning")
    raise OSError(28, "No space left on device")


def test_what_a_killed_writer_left_is_cleared_away(run: Run, undisturbed: tuple, tmp_path: Path) -> None:
    """It is under the name of a step that is not written again."""
    run = replace(run, runs=tmp_path)
    stop(run, 4)
    (run.directory / "checkpoints" / "step-00000003.part").write_bytes(b"the beginning")
    record = Record(run)
    train(run, record, Log())
    assert record.summary["status"] == "done"
    assert not (run.directory / "checkpoints").exists()
    assert_equal(results(run), undisturbed)


def test_process_that_does_not_see_the_checkpoint_is_told_of(run: Run, tmp_path: Path) -> None:
    """Two machines whose `runs` are not one folder."""

    class Second(Processes):
        def broadcast_from_first(self, value: object) -> object:
            return 12

        def gather_names(self, names: list[str]) -> set[str]:
            return {*names}

    run = replace(run, runs=tmp_path)
    with pytest.raises(SettingsError, match=r"process 1 does not see .*step-00000012\.pt.* must be a folder"):
        Checkpoints(run, print, Second(torch.device("cpu"), rank=1, world=2)).load()


def test_loading_never_unpickles(run: Run, tmp_path: Path) -> None:
    run = replace(run, runs=tmp_path)
    folder = run.directory / "checkpoints"
    folder.mkdir(parents=True)
    torch.save({"identity": run.identity, "step": 1, "object": Log()}, folder / "step-00000001.pt")
    lines: list[str] = []
    assert Checkpoints(run, lines.append, ALONE).load() is None
    assert "damaged" in lines[0]
