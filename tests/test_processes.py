"""Several processes train one run as one process would: two on this machine's CPU, over gloo."""

import json
import multiprocessing
import random
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forked import Forked
from PIL import Image
from torch import distributed

from experiments.config.batch_plan import Split, split_batch
from experiments.errors import SettingsError
from experiments.launch.worker import train_recorded
from experiments.runtime.processes import Processes

METRICS = ("lr", "train_loss", "val_loss", "top1", "top5", "ema_val_loss", "ema_top1")
LAYER_NORM = (
    "rung=separate_downsampling",
    "design.drop_path=0",
    "recipe.mixup=0",
    "recipe.cutmix=0",
    "recipe.ema_decay=0.9",
    "recipe.lr=1e-3",
)
"""Without anything that depends on the batch: mixup, stochastic depth, BatchNorm."""


@pytest.fixture
def together(fork: Callable[..., Forked]) -> Callable[..., list[Forked]]:
    """`python -m experiments.train ...` in two processes, whose environments say which is which."""

    def start(environment: Callable[[int], dict[str, str]], *overrides: str) -> list[Forked]:
        return [fork(*overrides, **environment(rank)) for rank in range(2)]

    return start


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def as_torchrun() -> Callable[[int], dict[str, str]]:
    """The environment of processes started by torchrun."""
    port = str(free_port())
    return lambda rank: {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
    }


def as_srun() -> Callable[[int], dict[str, str]]:
    """The environment of tasks started by srun."""
    job = str(random.randrange(10**9))  # from which submitit draws the port
    return lambda rank: {
        "SLURM_JOB_ID": job,
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_NTASKS": "2",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_NODEID": "0",
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
    }


def results(runs: Path) -> tuple[dict, dict, dict, list, str]:
    [directory] = runs.glob("*/")
    weights, average = (torch.load(directory / f"weights{end}.pt", weights_only=True) for end in ("", "_ema"))
    rows = [json.loads(line) for line in (directory / "epochs.jsonl").read_text().splitlines()]
    summary = json.loads((directory / "summary.json").read_text())
    correct = (directory / "correct.json").read_text()
    return summary, weights, average, [[row[name] for name in METRICS] for row in rows], correct


def assert_close(first: tuple, second: tuple) -> None:
    for index in (1, 2):
        for name, tensor in first[index].items():
            torch.testing.assert_close(second[index][name], tensor, rtol=0, atol=1e-6, msg=name)
    assert [x for row in second[3] for x in row] == pytest.approx([x for row in first[3] for x in row], abs=1e-5)
    assert first[0]["identity"] == second[0]["identity"]
    assert first[4] == second[4]


def test_two_processes_train_what_one_does(
    together: Callable, command: Callable, tiny: tuple[str, ...], here: Path
) -> None:
    """Half the batch each: the same losses, weights, averaged weights and accuracies. Accumulation too."""
    overrides = (*tiny, *LAYER_NORM)
    assert command(*overrides, "runs=one").code == 0
    assert command(*overrides, "runs=passes", "micro_batch_size=5").code == 0
    first, passes = (results(here / runs) for runs in ("one", "passes"))
    assert [(x[0]["processes"], x[0]["accumulation"]) for x in (first, passes)] == [(1, 1), (1, 4)]
    assert_close(first, passes)
    for runs, environment in {"torchrun": as_torchrun(), "srun": as_srun()}.items():
        pair = together(environment, *overrides, f"runs={runs}")
        outputs = [process.communicate(timeout=100)[0] for process in pair]
        assert [process.returncode for process in pair] == [0, 0], outputs
        assert "done: top-1" in outputs[0]
        assert [line for line in outputs[1].splitlines() if not line.startswith("[Gloo]")] == []  # the first one prints
        two = results(here / runs)
        assert [two[0][name] for name in ("processes", "accumulation", "evaluation_images")] == [2, 1, 200]
        assert_close(first, two)


def test_stopped_together_and_resumed_bit_identical(
    together: Callable, tiny: tuple[str, ...], here: Path, wait_for: Callable
) -> None:
    """With BatchNorm, mixup and stochastic depth. The signal reaches one process; both stop after the same step."""
    overrides = (*tiny, "recipe=convnext", "recipe.epochs=8")
    for process in together(as_torchrun(), *overrides, "runs=whole"):
        process.communicate(timeout=100)
    pair = together(as_torchrun(), *overrides, "runs=stopped")
    wait_for(lambda: any(path.read_text().count("\n") >= 1 for path in here.glob("stopped/*/epochs.jsonl")))
    pair[1].send_signal(signal.SIGTERM)
    codes = [process.wait(timeout=60) for process in pair]
    assert codes == [130, 130]
    [path] = here.glob("stopped/*/summary.json")
    assert json.loads(path.read_text())["status"] == "unfinished"
    for process in together(as_torchrun(), *overrides, "runs=stopped"):
        process.communicate(timeout=100)
    whole, stopped = (results(here / runs) for runs in ("whole", "stopped"))
    assert whole[3] == stopped[3]
    assert all(torch.equal(whole[i][name], stopped[i][name]) for i in (1, 2) for name in whole[i])


def test_process_that_fails_says_why_and_the_others_end(together: Callable, tiny: tuple[str, ...], here: Path) -> None:
    """Whichever of the two gets the image that can't be read."""
    for part in ("train", "val"):
        for index in range(20):
            path = here / "photos" / part / "ab"[index % 2] / f"{index:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (index, 0, 0)).save(path)
    (here / "photos" / "train" / "a" / "04.png").write_bytes(b"no image")
    data = ("data=folder", "data.path=photos", "data.subset=1", "data.holdout=0", "recipe.batch_size=10", "workers=1")
    pair = together(as_torchrun(), *tiny, *data)
    outputs = [process.communicate(timeout=100)[0] for process in pair]
    assert all(process.returncode for process in pair)
    assert "04.png: not an image" in "".join(outputs)
    [path] = here.glob("runs/*/summary.json")
    summary = json.loads(path.read_text())
    assert summary["status"] == "failed"
    assert "04.png" in summary["reason"] or summary["reason"].startswith("another process of the run ended")
    assert "Traceback" not in "".join(outputs)


def _meet(rank: int, folder: Path) -> None:
    """One of two processes on a machine: both get what one of them makes, or its exception."""
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    processes = Processes(torch.device("cpu"), rank, 2)

    def list_images() -> list[str]:
        (folder / f"listed by {rank}").touch()
        return ["a.png", "b.png"]

    def fail() -> None:
        raise SettingsError("there is no such folder")

    assert processes.of_node(list_images) == ["a.png", "b.png"]
    with pytest.raises(SettingsError, match="there is no such folder"):
        processes.of_node(fail)
    (folder / f"done {rank}").touch()
    distributed.destroy_process_group()


def test_one_process_of_a_machine_lists_a_dataset_for_the_others(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    pair = [context.Process(target=_meet, args=(rank, tmp_path)) for rank in range(2)]
    for process in pair:
        process.start()
    for process in pair:
        process.join(60)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "store") == [
        "done 0",
        "done 1",
        "listed by 0",
    ]


def test_study_is_not_started_by_torchrun(command: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = command("-m", "seed=0,1")
    assert (code, err.count("\n")) == (2, 1)
    assert "a study starts its runs itself" in err


def test_run_that_is_done_is_trained_by_neither(
    together: Callable, command: Callable, tiny: tuple[str, ...], here: Path
) -> None:
    overrides = (*tiny, *LAYER_NORM)
    assert command(*overrides).code == 0
    pair = together(as_torchrun(), *overrides)
    outputs = [process.communicate(timeout=60)[0] for process in pair]
    assert ([process.returncode for process in pair], outputs[1]) == ([0, 0], "")
    assert "done already" in outputs[0]


@pytest.mark.parametrize(
    ("batch", "at_once", "processes", "split"),
    [
        (4096, None, 1, Split(1, 1, 4096)),
        (4096, 128, 8, Split(8, 4, 128)),  # the authors' command on one machine
        (4096, 128, 32, Split(32, 1, 128)),  # and on four
        (64, 128, 2, Split(2, 1, 32)),
    ],
)
def test_batch_is_split(batch: int, at_once: int | None, processes: int, split: Split) -> None:
    assert split_batch(batch, at_once, processes) == split


@pytest.mark.parametrize(
    ("batch", "at_once", "processes", "message"),
    [
        (100, None, 8, "recipe.batch_size=100 can't be split among 8 processes; take a multiple of 8"),
        (4096, 100, 8, "micro_batch_size=100 does not divide the 512 images .* take micro_batch_size=64"),
    ],
)
def test_impossible_split_says_so(batch: int, at_once: int | None, processes: int, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        split_batch(batch, at_once, processes)


def test_port_in_use_is_not_blamed_on_another_process(
    run_of: Callable, tiny: tuple[str, ...], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        environment = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
        for name, value in (environment | {"MASTER_PORT": str(taken.getsockname()[1])}).items():
            monkeypatch.setenv(name, value)
        run = run_of(*tiny, f"runs={here}/runs")
        assert train_recorded(run) != 0
    reason = json.loads((run.directory / "summary.json").read_text())["reason"]
    assert "address already in use" in reason.lower() or "EADDRINUSE" in reason
    assert "another process" not in reason
