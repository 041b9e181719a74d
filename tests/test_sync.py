"""The training loop as a GPU sees it: waited for only at synchronization points, on which all processes agree."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import roadmap
from experiments.config.run import Run
from experiments.data.batch import Batch
from experiments.data.prefetch import prefetch
from experiments.data.transforms import Preprocess
from experiments.records.record import Record
from experiments.runtime.processes import Processes
from experiments.training.loop import DivergedError, StoppedError, train
from experiments.training.sync import SyncPoints
from experiments.training.tasks import classification

ALONE = Processes(torch.device("cpu"))
READS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default)
"""What brings a value of the device to the host."""


class Reads(TorchDispatchMode):
    """Counts them, and notes when the loop synchronizes."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.steps = 0, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function in READS
        return function(*args, **(kwargs or {}))

    def say(self, line: str) -> None: ...

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        self.steps.append((epoch, step))

    def epoch(self, row: dict[str, float]) -> None: ...


@pytest.fixture
def run(run_of: Callable[..., Run], tiny: tuple[str, ...], tmp_path: Path) -> Run:
    modern = ("regime=resnet50", "recipe=modern", "resolution=32", "recipe.rand_augment=null", "recipe.ema_decay=0.9")
    return run_of(*tiny, *modern, "recipe.lr=1e-3", "recipe.clip_grad=1", f"runs={tmp_path}")


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_nothing_is_read_back_from_the_device_but_at_looks(
    run: Run, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With erasing, mixing, clipping, accumulation and a moving average, and in evaluation."""
    reads, before = Reads(), []

    class Counted(SyncPoints):
        def __init__(self, processes: Processes) -> None:
            super().__init__(processes)
            before.append(reads.count)  # to make the network and the like; then of an epoch's evaluation

    monkeypatch.setattr("experiments.training.sync.SECONDS_APART", 1000)
    monkeypatch.setattr("experiments.training.loop.SyncPoints", Counted)
    run = replace(run, precision=precision, split=replace(run.split, micro_batch_size=10, accumulation=2))
    with reads:
        train(run, Record(run), reads, ALONE)
    assert reads.steps == [(1, 10), (2, 10)]
    assert [*before, reads.count] == [before[0]] * 3


class First(Processes):
    """The first of two; the other always does the same."""

    def sum(self, *values: float) -> list[float]:
        return [2 * value for value in values[:-1]] + [values[-1]]


@pytest.mark.parametrize(
    ("processes", "expected"),
    [(ALONE, [50, 100, 150, 151, 152]), (First(torch.device("cpu"), 0, 2), [1, 3, 7, 15, 31, 63, 112, 161, 162])],
    ids=["alone", "two"],
)
def test_looks_are_half_a_second_apart(
    processes: Processes, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps of 10 ms, and from the 150th on of 2 s, which several processes can't foresee."""
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    points, at = SyncPoints(processes), []
    for step in range(1, expected[-1] + 1):
        now[0] += 0.010001 if step <= 150 else 2
        if points.due():
            at.append(step)
            assert points.synchronize([torch.tensor(float(step))], stop=False, save=False).losses == [step]
    assert at == expected


class Third(SyncPoints):
    """A synchronization after every third step."""

    def due(self) -> bool:
        self.taken += 1
        return self.taken == 3


def test_divergence_is_told_by_its_own_step(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever it is seen; and no checkpoint follows it."""
    monkeypatch.setattr("experiments.training.loop.SyncPoints", Third)
    run = replace(run, checkpoint_minutes=0)
    objective, calls = classification.Objective, []

    def bursting(*args: object) -> Callable:
        loss = objective(*args)

        def of(*given: object) -> torch.Tensor:
            calls.append(1)
            return loss(*given) * (float("nan") if len(calls) == 5 else 1)

        return of

    monkeypatch.setattr(classification, "Objective", bursting)
    with pytest.raises(DivergedError, match="the loss is nan at step 4 of 20"):
        train(run, Record(run), Reads(), ALONE)
    assert len(calls) == 6
    assert [path.name for path in (run.directory / "checkpoints").iterdir()] == ["step-00000003.pt"]


def test_residual_stream_is_as_precise_as_autocast_says() -> None:
    """From the stem to the head: nothing makes float32 of it by accident."""
    network = roadmap.build(roadmap.design("convnext_tiny")).train()
    seen = set()
    for module in network.modules():
        if type(module).__name__ in ("Block", "LayerNorm2d", "LayerScale"):
            module.register_forward_hook(lambda module, inputs, output: seen.add((inputs[0].dtype, output.dtype)))
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.randn(2, 3, 32, 32))
    assert seen == {(torch.bfloat16, torch.bfloat16)}


def test_whenever_it_looks_a_run_is_the_same_to_the_bit(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = (replace(run, runs=tmp_path / name) for name in ("whole", "stopped"))
    train(whole, Record(whole), Reads(), ALONE)
    monkeypatch.setattr("experiments.training.loop.SyncPoints", Third)
    record, stops = Record(stopped), iter([False, True])
    with pytest.raises(StoppedError, match="stopped after step 6 of 20"):
        train(stopped, record, Reads(), ALONE, lambda: next(stops))
    record.finish("unfinished")
    train(stopped, Record(stopped), Reads(), ALONE)
    weights, rows = [], []
    for one in (whole, stopped):
        weights.append(torch.load(one.directory / "weights_ema.pt", weights_only=True))
        lines = (one.directory / "epochs.jsonl").read_text().splitlines()
        rows.append([{k: row[k] for k in ("train_loss", "val_loss", "ema_top1")} for row in map(json.loads, lines)])
    assert rows[0] == rows[1]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


class Stream:
    """A CUDA stream, as far as one is needed to see what is done in which and what waits for what."""

    current: "Stream"

    def __init__(self, name: str, events: list[str]) -> None:
        self.name, self.events = name, events

    def __enter__(self) -> None:
        self.before, Stream.current = Stream.current, self

    def __exit__(self, *_: object) -> None:
        Stream.current = self.before

    def wait_stream(self, other: "Stream") -> None:
        self.events.append(f"{self.name} waits for {other.name}")

    def record_event(self) -> "Event":
        return Event(len(self.events), self.events)


class Event:
    def __init__(self, number: int, events: list[str]) -> None:
        self.number, self.events = number, events

    def synchronize(self) -> None:
        self.events.append(f"the host waits for {self.events[self.number - 1]}")


def test_batches_are_made_ready_in_a_stream_that_the_network_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it, crops on the device too; and the host is never more than two steps ahead."""
    events: list[str] = []
    network, aside = Stream("network", events), Stream("aside", events)
    Stream.current = network
    monkeypatch.setattr("torch.cuda.current_stream", lambda _: network)
    monkeypatch.setattr("torch.cuda.stream", lambda stream: stream)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda _, stream: None)
    preprocess = Preprocess(torch.device("cpu"))
    preprocess.stream = aside

    def batches() -> Iterator[Batch]:
        for number in range(3):
            events.append(f"crop {number} in {Stream.current.name}")
            yield Batch(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), [])

    for number, _ in enumerate(prefetch(batches(), preprocess)):
        assert Stream.current is network
        events.append(f"step {number}")
    assert events == [
        "aside waits for network",
        *("crop 0 in aside", "network waits for aside", "step 0"),
        *("crop 1 in aside", "network waits for aside", "step 1", "the host waits for step 0"),
        *("crop 2 in aside", "network waits for aside", "step 2", "the host waits for step 1"),
    ]
