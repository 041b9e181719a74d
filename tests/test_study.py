"""A study trains what is missing, side by side, and neither a run's end nor its own takes a finished run with it."""

import shlex
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import roadmap

SEEDS = "seed=0,1,2"


def weights(here: Path) -> dict[str, int]:
    """{run: when its weights were written}."""
    return {path.parent.name: path.stat().st_mtime_ns for path in here.glob("runs/*/weights.pt")}


def times_trained(here: Path) -> list[int]:
    """How often each run was begun."""
    return [path.read_text().count("training runs/") for path in here.glob("runs/*/log.txt")]


def test_study_started_again_trains_nothing(
    launch: Callable, tiny: tuple[str, ...], here: Path, summaries: Callable
) -> None:
    first = launch("-m", *tiny, SEEDS)
    out, _ = first.communicate()
    assert first.returncode == 0, out
    assert "3 of 3 runs are done" in out
    runs = summaries(here / "runs")
    assert {summary["seed"] for summary in runs.values()} == {0, 1, 2}
    assert {summary["status"] for summary in runs.values()} == {"done"}
    before = weights(here)
    again = launch("-m", *tiny, SEEDS)
    out, _ = again.communicate()
    assert again.returncode == 0
    assert "3 runs, 3 of them done already" in out
    assert weights(here) == before
    assert len(before) == 3


def test_killed_study_goes_on_where_it_stopped(
    launch: Callable, tiny: tuple[str, ...], here: Path, wait_for: Callable
) -> None:
    """What was done is kept, and a run that outlives its launcher is not trained twice."""
    command = ("-m", *tiny, "recipe.epochs=4", SEEDS, "hydra.launcher.jobs=1")
    process = launch(*command)
    before = wait_for(lambda: weights(here))
    process.kill()
    process.wait()
    again = launch(*command)
    out, _ = again.communicate()
    assert again.returncode == 0, out
    assert "3 of 3 runs are done" in out
    assert before.items() <= weights(here).items()
    assert times_trained(here) == [1, 1, 1]


def test_run_that_diverges_takes_no_other_with_it_and_is_named(
    command: Callable, tiny: tuple[str, ...], here: Path, summaries: Callable
) -> None:
    arguments = ("-m", *tiny, "recipe.lr=1e12,0.05")
    code, out, _ = command(*arguments)
    assert code == 1
    by_status = {summary["status"]: (name, summary) for name, summary in summaries(here / "runs").items()}
    assert set(by_status) == {"done", "diverged"}
    end = out.split("1 of 2 runs are done")[1]
    name, summary = by_status["diverged"]
    assert f"{name}: diverged: {summary['reason']}" in end
    assert by_status["done"][0] not in end
    repeat = next(line for line in end.splitlines() if line.startswith("  python"))
    assert shlex.split(repeat) == ["python", "-m", "experiments.train", *arguments]


def test_two_launchers_share_the_runs(launch: Callable, tiny: tuple[str, ...], here: Path) -> None:
    processes = [launch("-m", *tiny, "recipe.epochs=4", "seed=0,1") for _ in range(2)]
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

    monkeypatch.setattr("experiments.study.wait", interrupt_two_runs)
    code, out, _ = command("-m", *tiny, "recipe.epochs=10000", SEEDS, "hydra.launcher.jobs=2")
    assert code == 130
    assert [summary["status"] for summary in summaries(here / "runs").values()] == ["unfinished"] * 2
    assert "interrupted; the same command goes on:" in out


def test_ladder_study_is_every_rung_three_times(asked: Callable) -> None:
    runs = asked("study=ladder")
    rungs = [rung.name for rung in roadmap.ladder("nano")]
    assert sorted((run.place.rung, run.seed) for run in runs) == sorted(
        (rung, seed) for rung in rungs for seed in range(3)
    )
    assert len({run.series for run in runs}) == 17
    assert len({run.directory for run in runs}) == 51
    assert all(run.place.differs == {} for run in runs)


def test_study_can_be_changed_on_the_command_line(asked: Callable) -> None:
    runs = asked("study=ladder", "rung=gelu,kernel_7", "seed=5", "recipe.epochs=17")
    assert [(run.place.rung, run.seed, run.recipe.epochs) for run in runs] == [("gelu", 5, 17), ("kernel_7", 5, 17)]


def test_same_run_is_asked_for_once(asked: Callable) -> None:
    assert len(asked("step=[gelu,stage_ratio],[stage_ratio,gelu]", "seed=0,0")) == 1
