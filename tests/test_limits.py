"""What a study may cost: failures that end it, hours after which nothing starts, and runs that are stopped early."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest
import torch
from records import write_run
from studies import write_pair

from analysis import comparisons, contrast, ladder_table, load
from analysis.report.__main__ import main as report
from analysis.statistics.power import run_noise
from analysis.statistics.provenance import missing, unfinished
from experiments.launch.limits import hours_of
from experiments.launch.worker import train_recorded
from experiments.plan.__main__ import main as plan
from experiments.records.record import set_status


def statuses(summaries: dict[str, dict]) -> list[str]:
    return sorted(summary["status"] for summary in summaries.values())


def test_study_stops_after_its_failures_and_can_be_continued(
    command: Callable, tiny: tuple[str, ...], here: Path, summaries: Callable
) -> None:
    study = ("-m", *tiny, "hydra.launcher.jobs=2", "fail_fast=2")
    for _ in range(2):  # failures of an earlier launch do not count
        code, out, _ = command(*study, "recipe.lr=1e12,0.05", "seed=0,1,2,3")
        assert code == 1
        assert "fail_fast=2: 2 runs failed (nano-" in out
        assert "not started" in out
        assert "train what is missing with the same command" in out
        runs = summaries(here / "runs")
        assert 2 <= statuses(runs).count("diverged") <= len(runs) <= 3  # a third may have started meanwhile
    code, out, _ = command(*study, "recipe.lr=0.05", "seed=0")
    assert (code, "1 of 1 runs are done" in out) == (0, True)


def test_no_run_starts_when_the_hours_are_spent(
    command: Callable, call: Callable, tiny: tuple[str, ...], here: Path, summaries: Callable
) -> None:
    study = ("-m", *tiny, "seed=0,1", "hydra.launcher.jobs=1")
    for _ in range(2):
        code, out, _ = command(*study, "max_hours=1e-9")
        assert code == 0
        assert "1 of 2 runs are done" in out
        assert "train what is missing (1 run) without max_hours, or with a larger one" in out
        [summary] = summaries(here / "runs").values()  # the first, which ended as usual
    hours = summary["seconds_per_epoch"] * 2 * summary["threads"] / 3600
    assert f"max_hours=1e-09: {hours:.3g} core-hours are spent, so no more runs start" in out
    for limit, is_enough in ((1.5 * hours, False), (2.5 * hours, True)):  # another run at that pace
        code, out, _ = call(plan, *study, f"max_hours={limit}")
        assert (code, "the last runs will not start" in out) == (0, not is_enough)
    code, out, _ = command("-m", *tiny, "seed=2", "max_hours=1e-9")  # the hours of earlier launches count
    assert (code, "0 of 1 runs are done" in out) == (0, True)
    _, out, _ = call(plan, "-m", *tiny, "seed=2", f"max_hours={1.5 * hours}")
    assert "the last runs will not start" in out
    code, out, _ = command(*study, "max_hours=1")
    assert (code, "2 of 2 runs are done" in out) == (0, True)


def test_hours_are_those_of_all_devices(tmp_path: Path) -> None:
    epochs = {"epochs_done": 3, "seconds_per_epoch": 1200.0}
    on_gpus = [
        write_run(tmp_path, seed=0, summary={**epochs, "device": "NVIDIA H200", "processes": 4, "threads": 8}),
        write_run(tmp_path, seed=1, summary={**epochs, "device": "NVIDIA H200", "processes": 1, "runs_per_gpu": 2}),
        tmp_path / "not begun",
    ]
    assert hours_of(on_gpus) == (4 + 0.5, "GPU")
    on_cpu = write_run(tmp_path, seed=2, summary={**epochs, "device": "cpu", "processes": 2, "threads": 3})
    assert hours_of([on_cpu]) == (6.0, "core")


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "epochs.jsonl").read_text().splitlines()]


def first_top1(run: Path) -> float:
    return rows(run)[0]["top1"]


def set_first_top1(run: Path, top1: float) -> None:
    first, *others = rows(run)
    (run / "epochs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (first | {"top1": top1}, *others)))


def set_data(run: Path, **changes: object) -> None:
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"data": config["data"] | changes}))


@pytest.mark.parametrize("processes", [1, 2])
def test_hopeless_run_is_stopped_and_resumes_without_the_limit(
    processes: int,
    command: Callable,
    tiny: tuple[str, ...],
    here: Path,
    summaries: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also if several processes train it, which all stop; without CUDA, on the CPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    device = (f"hydra.launcher.gpus_per_run={processes}", "device=auto", "precision=float32", "hydra.launcher.jobs=1")
    study = ("-m", *tiny, *device)
    assert command(*study, "seed=0,1,2").code == 0
    finished = sorted(here.glob("runs/*-seed*"))
    for run, top1 in zip(finished, (92.0, 96.0, 97.0), strict=True):
        set_first_top1(run, top1)
    set_data(finished[0], holdout=0.5)  # evaluated on other images: too few finished runs are left
    code, out, _ = command(*study, "seed=0,1,2,3", "stop_below=10")
    assert (code, "4 of 4 runs are done" in out) == (0, True)
    set_data(finished[0], holdout=0.02)

    for seeds, done in (("4", "0 of 1"), ("0,1,2,3,4", "4 of 5")):  # it has ended, for a launch with the same limit
        code, out, _ = command(*study, f"seed={seeds}", "stop_below=10")
        assert (code, f"{done} runs are done, 1 stopped early by stop_below" in out) == (0, True)
    [stopped] = here.glob("runs/*-seed4-*")
    assert (stopped / "log.txt").read_text().count("training runs/") == 1
    summary = summaries(here / "runs")[stopped.name]
    others = [first_top1(run) for run in (*finished, *here.glob("runs/*-seed3-*"))]
    assert (summary["status"], summary["epochs_done"], summary["processes"]) == ("stopped", 1, processes)
    assert summary["below_median"] == pytest.approx(median(others) - summary["top1"])
    assert f"{summary['below_median']:.2f} below {median(others):.2f}, the median" in summary["reason"]

    code, out, _ = command(*study, "seed=0,1,2,3,4")
    assert (code, "5 of 5 runs are done" in out) == (0, True)
    assert "resuming after step 10 of 20" in (stopped / "log.txt").read_text()
    assert command(*study, "seed=4", "runs=undisturbed").code == 0
    resumed, undisturbed = (
        torch.load(folder / "weights.pt", weights_only=True)
        for folder in (stopped, next(here.glob("undisturbed/*-seed4-*")))
    )
    assert all(torch.equal(resumed[name], undisturbed[name]) for name in undisturbed)


def test_job_beyond_a_limit_leaves_a_run_that_is_done_as_it_is(
    run_of: Callable, tiny: tuple[str, ...], here: Path, summaries: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    for seed, status in enumerate(("done", "queued")):
        run = run_of(*tiny, f"seed={seed}")
        set_status(run, status, top1=50.0)
        assert train_recorded(run, refusal="max_hours=1: 2 core-hours are spent") == 0
    done, queued = summaries(here / "runs").values()
    assert (done["status"], done["reason"]) == ("done", None)
    assert (queued["status"], queued["reason"]) == ("unfinished", "max_hours=1: 2 core-hours are spent")


@pytest.mark.parametrize("limit", ["fail_fast=1", "max_hours=0.5", "stop_below=0"])
def test_limits_are_a_study_s(limit: str, command: Callable, tiny: tuple[str, ...]) -> None:
    code, out, err = command(*tiny, limit)
    assert (code, out, err) == (2, "", f"error: {limit} is a limit of a study, also of one run; add -m\n")


def test_what_is_left_of_a_network_with_stopped_runs_is_no_evidence(tmp_path: Path) -> None:
    """It is shown, but not tested; and the noise of the other networks is estimated without it."""
    write_pair(tmp_path / "runs")
    for seed, top1 in enumerate((82.0, 82.9, 82.2)):
        write_run(tmp_path / "runs", "fewer_activations", seed=seed, top1=top1)
    before = ladder_table(comparisons(load(tmp_path / "runs"))[0]).set_index("rung")
    write_run(tmp_path / "runs", "fewer_norms", seed=0, top1=89.00)
    write_run(tmp_path / "runs", "fewer_norms", seed=1, top1=89.01)
    write_run(tmp_path / "runs", "fewer_norms", seed=2, status="stopped")
    for seed in range(3):
        write_run(tmp_path / "runs", "layer_norm", seed=seed, status="stopped")
    (comparison,) = comparisons(load(tmp_path / "runs"))
    table = ladder_table(comparison).set_index("rung")
    assert run_noise(comparison.scores()) is None  # of three networks
    numbers = ["change", "low", "high", "p", "error"]
    for rung in ("gelu", "fewer_activations"):
        assert table.loc[rung, numbers].tolist() == before.loc[rung, numbers].tolist()
    some = table.loc["fewer_norms"]
    assert some[["n", "stopped", "left_out", "mean", "verdict"]].tolist() == [2, 1, 1, 89.005, "some stopped"]
    assert some["change"] == pytest.approx(89.005 - 82.3667, abs=1e-3)
    assert some[["low", "high", "p", "p_holm", "mean_low", "mean_high"]].isna().all()
    assert some["survivors"]
    assert table.loc["layer_norm", "verdict"] == "stopped"
    assert contrast(comparison, "fewer_norms", "kernel_7")["verdict"] == "some stopped"
    assert missing(comparison) == unfinished(comparison.runs) == []


def test_report_names_stopped_runs_and_does_not_miss_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pair(tmp_path / "runs")
    reason = "top1 31.20 after epoch 1 of 3 is 29.30 below 60.50"
    write_run(tmp_path / "runs", "fewer_activations", seed=0, top1=83.0)
    for seed in (1, 2):
        write_run(tmp_path / "runs", "fewer_activations", seed=seed, status="stopped", summary={"reason": reason})
    assert report([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.md").read_text().replace("\\", "")
    assert "7 finished runs of 9. 2 of 9 runs are left out: 2 stopped." in text
    assert "Stopped early, for being far below the finished runs: 2 of 3 of fewer activations." in text
    assert "With some of their runs stopped early, one more step cannot be judged." in text
    assert "| fewer activations | 1 of 3 (2 stopped) |" in text
    assert text.count(f": stopped ({reason})") == 2
    assert "What is missing" not in text
    assert "fewer_activations 1 of 3 83.00" in " ".join(capsys.readouterr().out.split())
