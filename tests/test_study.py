"""A study trains what is missing, side by side, and neither a run's end nor its own takes a finished run with it."""

import multiprocessing
import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.config.run import Run
from experiments.errors import SettingsError
from experiments.launch import local
from experiments.launch.study import Study
from experiments.records.record import set_status
from experiments.records.study_file import run_names
from experiments.runtime.locks import locked, unlock
from experiments.runtime.machine import Machine, gpu_lock, lock_gpu, mps_is_running, share, visible_gpus

ROOT = Path(__file__).parent.parent
SEEDS = "seed=0,1,2"


def weights(here: Path) -> dict[str, int]:
    """{run: when its weights were written}."""
    return {path.parent.name: path.stat().st_mtime_ns for path in here.glob("runs/*/weights.pt")}


def times_trained(here: Path) -> list[int]:
    """How often each run was begun."""
    return [path.read_text().count("training runs/") for path in here.glob("runs/*/log.txt")]


def test_study_started_again_trains_nothing(
    fork: Callable, tiny: tuple[str, ...], here: Path, summaries: Callable
) -> None:
    first = fork("-m", *tiny, SEEDS)
    out, _ = first.communicate()
    assert first.returncode == 0, out
    assert "3 of 3 runs are done" in out
    runs = summaries(here / "runs")
    assert {summary["seed"] for summary in runs.values()} == {0, 1, 2}
    assert {summary["status"] for summary in runs.values()} == {"done"}
    before = weights(here)
    again = fork("-m", *tiny, SEEDS)
    out, _ = again.communicate()
    assert again.returncode == 0
    assert "3 runs, 3 of them done already" in out
    assert weights(here) == before
    assert len(before) == 3


def test_killed_study_goes_on_where_it_stopped(
    launch: Callable, fork: Callable, tiny: tuple[str, ...], here: Path, wait_for: Callable
) -> None:
    """What was done is kept, and a run that outlives its launcher is not trained twice."""
    command = ("-m", *tiny, "recipe.epochs=4", SEEDS, "hydra.launcher.jobs=1")
    process = launch(*command)
    before = wait_for(lambda: weights(here))
    process.kill()
    process.wait()
    again = fork(*command)
    out, _ = again.communicate()
    assert again.returncode == 0, out
    assert "3 of 3 runs are done" in out
    assert before.items() <= weights(here).items()
    assert times_trained(here) == [1, 1, 1]


def test_run_that_diverges_takes_no_other_with_it_and_is_named(
    command: Callable, tiny: tuple[str, ...], here: Path, summaries: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # a line a run
    arguments = ("-m", *tiny, "recipe.lr=1e12,0.05")
    code, out, _ = command(*arguments)
    assert code == 1
    by_status = {summary["status"]: (name, summary) for name, summary in summaries(here / "runs").items()}
    assert set(by_status) == {"done", "diverged"}
    end = out.split("1 of 2 runs are done")[1]
    name, summary = by_status["diverged"]
    assert [name, f"diverged: {summary['reason']}"] in [line.split(maxsplit=1) for line in end.splitlines()]
    assert by_status["done"][0] not in end
    repeat = next(line for line in end.splitlines() if line.startswith("  python"))
    assert shlex.split(repeat) == ["python", "-m", "experiments.train", *arguments]


def test_studies_that_begin_at_once_lose_no_run(tiny: tuple[str, ...], here: Path, run_of: Callable) -> None:
    context = multiprocessing.get_context("fork")
    start = context.Barrier(6)

    def begin(seed: int) -> None:
        study = Study("same", here / "runs", [run_of(*tiny, f"seed={seed}", f"runs={here / 'runs'}")])
        start.wait()
        study.begin()

    processes = [context.Process(target=begin, args=(seed,)) for seed in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert len(run_names(here / "runs" / "studies" / "same.json", all_launches=True)) == 6


def test_two_launchers_share_the_runs(fork: Callable, tiny: tuple[str, ...], here: Path) -> None:
    processes = [fork("-m", *tiny, "recipe.epochs=4", "seed=0,1") for _ in range(2)]
    outs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outs
    assert all("2 of 2 runs are done" in out for out in outs)
    assert times_trained(here) == [1, 1]


def test_interrupted_study_records_its_runs_and_says_how_to_go_on(
    command: Callable, tiny: tuple[str, ...], here: Path, summaries: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt_two_runs(*_: object) -> None:
        time.sleep(0.05)
        if sum(summary["epochs_done"] > 0 for summary in summaries(here / "runs").values()) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("experiments.launch.pool.wait", interrupt_two_runs)
    code, out, _ = command("-m", *tiny, "recipe.epochs=10000", SEEDS, "hydra.launcher.jobs=2")
    assert code == 130
    assert [summary["status"] for summary in summaries(here / "runs").values()] == ["unfinished"] * 2
    assert "interrupted; to resume:" in out


def test_study_can_be_changed_on_the_command_line(study_runs: Callable) -> None:
    runs = study_runs("study=ladder", "rung=gelu,kernel_7", "seed=5", "recipe.epochs=17")
    assert [(run.requested.rung, run.seed, run.recipe.epochs) for run in runs] == [("gelu", 5, 17), ("kernel_7", 5, 17)]


def test_same_run_is_asked_for_once(study_runs: Callable) -> None:
    assert len(study_runs("step=[gelu,stage_ratio],[stage_ratio,gelu]", "seed=0,0")) == 1


@pytest.mark.parametrize(
    ("cores", "gpus", "sharing", "machine"),
    [
        (8, "", (51, None, 1), Machine(8, (), 1)),
        (8, "", (2, None, 1), Machine(2, (), 4)),
        (8, "", (51, 3, 1), Machine(3, (), 2)),
        (2, "", (51, 4, 1), Machine(4, (), 1)),
        (16, "0,1,2,3", (51, None, 1), Machine(4, (("0",), ("1",), ("2",), ("3",)), 4)),
        (16, "0,1,2,3", (51, None, 2), Machine(2, (("0", "1"), ("2", "3")), 4)),
        (16, "4,7,9", (51, None, 2), Machine(1, (("4", "7"),), 8)),
        (16, "GPU-ab,GPU-cd", (51, 1, 1), Machine(1, (("GPU-ab",),), 16)),
        (16, "0,1", (51, None, 1, "auto", 2), Machine(4, (("0",), ("1",), ("0",), ("1",)), 4, 2)),
        (16, "0,1", (3, None, 1, "auto", 8), Machine(3, (("0",), ("1",), ("0",)), 5, 2)),
        (2, "0,1", (51, 5, 1, "auto", 8), Machine(5, (("0",), ("1",), ("0",), ("1",), ("0",)), 1, 3)),
        (8, "", (51, None, 1, "auto", 4), Machine(8, (), 1, 4)),
    ],
)
def test_machine_is_shared_among_runs(
    cores: int, gpus: str, sharing: tuple, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    monkeypatch.setattr("experiments.runtime.machine.cores", lambda: cores)
    assert share(*sharing) == machine
    assert share(*sharing[:2], 1, "cpu").gpus == ()


@pytest.mark.parametrize(
    ("gpus", "sharing", "expected"),
    [
        ("", (51, None, 2), "gpus_per_run=2, but there is no GPU here"),
        ("0,1", (51, None, 4), "4 GPUs are needed for 1 run of 4 GPUs at a time, but there are 2; change"),
        ("0,1", (51, 2, 2), "4 GPUs are needed for 2 runs of 2 GPUs at a time"),
        (
            "0,1",
            (51, 17, 1, "auto", 8),
            "3 GPUs are needed for 17 runs of which 8 share a GPU",
        ),
    ],
)
def test_machine_that_is_too_small_is_refused(
    gpus: str, sharing: tuple, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    with pytest.raises(SettingsError, match=expected):
        share(*sharing)


def test_gpus_are_counted_without_cuda(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    program = here / "nvidia-smi"
    program.write_text('#!/bin/sh\ntest "$1" = -L && echo "GPU 0: NVIDIA (UUID: GPU-1)\nGPU 1: NVIDIA (UUID: GPU-2)"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(here), prepend=":")
    assert visible_gpus() == ("0", "1")


def test_runs_of_several_gpus_each_have_their_own(
    command: Callable, tiny: tuple[str, ...], here: Path, summaries: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes a run, which train together; without CUDA, on the CPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    code, out, _ = command("-m", *tiny, "seed=0,1", "device=auto", "precision=float32", "hydra.launcher.gpus_per_run=2")
    assert code == 0, out
    runs = summaries(here / "runs").values()
    assert {summary["gpus"] for summary in runs} == {"0,1", "2,3"}
    assert {summary["processes"] for summary in runs} == {2}
    assert times_trained(here) == [1, 1]


def test_gpu_on_which_a_run_outlived_its_launcher_is_left_to_it(
    command: Callable, tiny: tuple[str, ...], here: Path, summaries: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "busy,idle")
    with locked(gpu_lock("busy")):
        assert command("-m", *tiny, "seed=0,1", "device=auto", "precision=float32").code == 0
    assert {summary["gpus"] for summary in summaries(here / "runs").values()} == {"idle"}


FAULTY = """\
import os, signal
from contextlib import suppress
from pathlib import Path
import torch

class Faulty(torch.nn.ReLU):

    def forward(self, x):
        if os.environ.get("ROADMAP_RUNS_PER_GPU") == "2" and not x.is_meta:
            with suppress(FileExistsError):
                Path("killed").touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().forward(x)
"""


def test_run_that_fails_beside_others_is_tried_again_alone(
    launch: Callable, tiny: tuple[str, ...], here: Path, summaries: Callable
) -> None:
    """Beside another on its GPU, the process of the first is killed, and the second has no memory."""
    (here / "faulty.py").write_text(FAULTY)
    arguments = ("-m", *tiny, "design.activation=faulty.Faulty", "device=auto", "precision=float32", "seed=0,1")
    study = launch(*arguments, "hydra.launcher.runs_per_gpu=2", CUDA_VISIBLE_DEVICES="0", PYTHONPATH=f"{here}:{ROOT}")
    out, _ = study.communicate(timeout=120)
    assert study.returncode == 0, out
    assert "2 runs; 2 side by side, at most 2 on each of 1 GPU: in turns, as NVIDIA's MPS is not running" in out
    assert "2 of 2 runs are done" in out
    runs = summaries(here / "runs").values()
    assert {run["retried_alone"] for run in runs} == {
        "its process died (SIGKILL)",
        "failed: OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
    }
    assert {(run["status"], run["gpus"], run["runs_per_gpu"]) for run in runs} == {("done", "0", 1)}
    assert times_trained(here) == [2, 2]


def test_gpu_is_shared_among_launchers_as_far_as_each_allows(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))

    def locked_for(*runs: int) -> list[bool]:
        locks = [lock_gpu("0", count, patience=0) for count in runs]
        for file in (file for lock in locks if lock for file in lock):
            unlock(file)
        return [lock is not None for lock in locks]

    assert locked_for(1, 1) == locked_for(1, 2) == locked_for(2, 1) == [True, False]
    assert locked_for(2, 3, 2, 3, 4) == [True, True, False, True, True]


def test_mps_is_seen_where_cuda_would_look_for_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(here))
    assert not mps_is_running()
    for pid, is_running in {os.getpid(): True, 2**22 + 1: False}.items():
        (here / "nvidia-cuda-mps-control.pid").write_text(f"{pid}\n")
        assert mps_is_running() == is_running


def test_replicates_are_composed_once(study_runs: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    original, composed = ConfigLoaderImpl.load_sweep_config, []

    def counted(self: ConfigLoaderImpl, master: object, overrides: list[str]) -> object:
        composed.append(overrides)
        return original(self, master, overrides)

    monkeypatch.setattr(ConfigLoaderImpl, "load_sweep_config", counted)
    runs = study_runs("rung=gelu,kernel_7", "seed=0,1,2")
    assert [(run.requested.rung, run.seed) for run in runs] == [
        (rung, seed) for rung in ("gelu", "kernel_7") for seed in range(3)
    ]
    assert len(composed) == 2


def test_setting_that_depends_on_the_seed_follows_it(study_runs: Callable) -> None:
    runs = study_runs("seed=0,3", "recipe.weight_decay=${seed}")
    assert [(run.seed, run.recipe.weight_decay) for run in runs] == [(0, 0), (3, 3)]


def test_what_is_done_is_not_trained_again(command: Callable, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But it is when a file of the user's own that it was composed from has changed, or its images have."""
    studies: list[list[Run]] = []
    monkeypatch.setattr(local, "train_study", lambda study, machine: studies.append(study.todo))
    own = here / "own" / "study" / "mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("# @package _global_\nstudy_name: mine\nrecipe: {epochs: 3}\n")
    study = ("-m", "study=mine", "rung=gelu,kernel_7", "seed=0,1", "--config-dir", str(own.parent.parent))
    assert command(*study).code == 0
    for run in studies[-1]:
        set_status(run, "done", top1=50.0)
    assert command(*study).code == 0
    own.write_text("# @package _global_\nstudy_name: mine\nrecipe: {epochs: 4}\n")
    assert command(*study).code == 0
    assert [[run.recipe.epochs for run in todo] for todo in studies] == [[3] * 4, [], [4] * 4]
