"""The speed of networks: measured in turns, recorded, resumed, and shown beside accuracies."""

import csv
import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from records import NANO, write_latency, write_run

import analysis
from analysis.report.files import write_report
from analysis.report.latency import latency_findings, latency_sections
from experiments.latency.__main__ import main
from experiments.latency.measure import FEWEST_ROUNDS, Network, Workload, measure, time_passes, training_step
from experiments.latency.record import Case, Timing
from experiments.plan.__main__ import main as plan
from experiments.status.__main__ import main as status
from roadmap.costs import cost

FACTS = Path(__file__).parent / "facts"
FEW = ("--batch-sizes", "1,4", "--rounds", "3", "--minutes", "0.001", "threads=1", "device=cpu")
THREE = ("-m", "rung=gelu,resnet,separate_downsampling", "seed=0,1", *FEW)


@pytest.fixture
def latency(call: Callable, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """`python -m experiments.latency ...` in this process, in an empty working directory, with turns of one pass."""
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("experiments.latency.measure.TURN", 0.0)
    return partial(call, main)


def test_from_the_command_to_the_report(latency, here, run_of, capsys, monkeypatch):
    assert latency(*THREE).code == 0
    again = latency(*THREE)
    assert again.code == 0
    assert "0 timings to measure, 9 measured already" in again.out

    runs = analysis.load("runs")
    assert runs.runs.empty
    assert not runs.skipped
    assert len(runs.latency) == 9
    for row in runs.latency.itertuples():
        measured = json.loads(Path(row.path, "summary.json").read_text())["measurements"]
        [times] = [it["ms"] for it in measured if (it["mode"], it["batch"]) == (row.mode, row.batch)]
        assert len(times) == FEWEST_ROUNDS
        assert [row.ms_low, row.ms, row.ms_high] == pytest.approx(np.percentile(times, [25, 50, 75]))
        assert row.images_per_second == pytest.approx(1000 * row.batch / np.median(times))
        assert (row.device, row.threads, row.precision, row.memory_format) == ("cpu", 1, "float32", "channels_last")

    table = analysis.latency_table(runs)
    workloads = table.groupby(["mode", "batch"], sort=False)
    assert [*workloads.groups] == [("inference", 1), ("inference", 4), ("training", 4)]
    for _, rows in workloads:
        assert [*rows["rung"]] == ["resnet", "gelu", "separate_downsampling"]
        assert rows["relative"].iloc[0] == 1
        designs = [run_of(f"rung={rung}").design for rung in rows["rung"]]
        assert [*rows["macs"]] == [cost(design, 32, 10).macs for design in designs]

    report = write_report(runs, analysis.comparisons(runs), here / "report")
    [section] = report.speeds
    assert [*section.findings] == latency_findings(table)
    for name in ("report.html", "report.md"):
        text = (here / "report" / name).read_text()
        assert "Speed: nano, 32 px" in text
        assert "not of these networks, and not measured here" in text
    assert {"road.png", "speeds.csv", "speeds.tex"} <= {path.name for path in (here / "report").iterdir()}


def test_beside_runs_a_record_of_speed_is_no_run(latency, here, call, capsys):
    write_run(Path("runs"), "gelu")
    write_run(Path("runs"), "kernel_7")
    write_latency(Path("runs"), "gelu")
    write_latency(Path("runs"), "kernel_7")
    runs = analysis.load("runs")
    assert (len(runs.runs), len(runs.latency), runs.skipped) == (2, 2, [])
    assert status(["runs"]) == 0
    shown = capsys.readouterr().out
    assert "2 runs: 2 done" in shown
    assert "latency" not in shown
    planned = call(plan, "rung=gelu", "device=cpu", "--images-per-second", "1000")
    assert (planned.code, planned.err) == (0, "")
    report = write_report(runs, analysis.comparisons(runs), here / "report")
    assert [section.name for section in report.speeds] == ["latency"]
    assert len(report.chapters) == 1
    figure = analysis.road_figure(analysis.latency_table(runs), report.chapters[0].ladder)
    assert "Accuracy measured here" in words_in(figure)


def test_an_interrupted_measurement_continues(latency, monkeypatch, summaries):
    turns, turn = [], Workload.turn

    def interrupted(workload: Workload) -> float:
        turns.append(workload)
        if len(turns) == 9 + 9 + 4:  # in the second round
            raise KeyboardInterrupt
        return turn(workload)

    monkeypatch.setattr(Workload, "turn", interrupted)
    assert latency(*THREE).code == 130
    before = summaries(Path("runs"))
    assert {summary["status"] for summary in before.values()} == {"unfinished"}
    with pytest.raises(analysis.RecordsError, match="not measured to the end"):
        analysis.load("runs")

    resumed = latency(*THREE)
    assert resumed.code == 0
    assert "continuing after 1 round" in resumed.out
    after = summaries(Path("runs"))
    assert len(turns) == 9 + 9 + 4 + 9 + 2 * 9  # what was interrupted, the first passes, and two more rounds
    for name, summary in after.items():
        assert summary["status"] == "done"
        for row, row_before in zip(summary["measurements"], before[name]["measurements"], strict=True):
            assert len(row["ms"]) == 3
            assert row["ms"][0] == row_before["ms"][0]


def test_what_is_complete_stays_until_it_has_been_measured_again(latency, monkeypatch):
    turns: list[Workload] = []
    last = math.inf

    def turn(workload: Workload) -> float:
        turns.append(workload)
        if len(turns) >= last:
            raise KeyboardInterrupt
        return float(len(turns))

    def measured() -> dict[tuple[str, int], list[float]]:
        rows = analysis.load("runs").latency.itertuples()
        return {(row.rung, row.batch): row.ms_of_rounds for row in rows}

    monkeypatch.setattr(Workload, "turn", turn)
    words = ("-m", "rung=resnet", "--no-training", *FEW)
    assert latency(*words, "--batch-sizes", "1").code == 0
    before = {("resnet", 1): [2, 3, 4]}
    assert measured() == before
    for more in (("1,8",), ("1", "--again")):
        for interrupted_in in (1, 3):  # the first turn, and the second round
            last = len(turns) + interrupted_in
            assert latency(*words, "--batch-sizes", *more).code == 130
            assert measured() == before
    last = math.inf
    first = len(turns) + 1
    assert latency(*words, "--batch-sizes", "1", "--again").code == 0
    assert measured() == {("resnet", 1): [first + 1, first + 2, first + 3]}


def test_each_time_is_busy_or_not_as_the_machine_was(latency, monkeypatch, summaries):
    words = ("-m", "rung=resnet", "--no-training", *FEW)
    for busy, batch in ((True, "1"), (False, "4")):
        monkeypatch.setattr("experiments.latency.study.is_busy", lambda busy=busy: busy)
        assert latency(*words, "--batch-sizes", batch).code == 0
    rows = analysis.load("runs").latency
    assert dict(zip(rows["batch"], rows["busy"], strict=True)) == {1: True, 4: False}
    [summary] = summaries(Path("runs")).values()
    assert summary["busy"]


def test_what_fails_is_one_line_and_the_rest_is_measured(latency, summaries):
    words = ("-m", "rung=resnet,gelu", "recipe.mixup=0.8", "--batch-sizes", "1,3", *FEW[2:])  # mixup takes pairs
    failed = latency(*words)
    assert failed.code == 1
    assert "not measured: resnet (training, batch 3) and gelu (training, batch 3): the recipe's mixup" in failed.out
    assert {summary["status"] for summary in summaries(Path("runs")).values()} == {"failed"}
    runs = analysis.load("runs")
    assert len(runs.latency) == 4
    assert {*runs.latency["mode"]} == {"inference"}
    assert "2 timings to measure, 4 measured already" in latency(*words).out

    too_small = latency("-m", "rung=resnet,separate_downsampling", "resolution=1", *FEW)
    assert too_small.code == 1
    assert too_small.out.count("does not take images of 1 px") == 1
    mistaken = latency("rung=resnet", "--batch-sizes", "0", *FEW[2:])
    assert mistaken.code == 2
    assert mistaken.err.count("\n") == 1


def test_a_turn_is_the_median_of_its_passes_without_the_first(monkeypatch):
    durations = iter([0.9, 0.3, 0.1, 0.2, 0.5])
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def one_pass() -> None:
        now[0] += next(durations)

    assert time_passes(one_pass, lambda: None, 1.0) == pytest.approx(1000 * np.median([0.3, 0.1, 0.2, 0.5]))
    assert time_passes(lambda: now.__setitem__(0, now[0] + 2), lambda: None, 1.0) == pytest.approx(2000)


class Timed:
    """A workload whose turns take the given milliseconds."""

    device = torch.device("cpu")

    def __init__(self, name: str, log: list[str], error: Exception | None = None) -> None:
        self.case, self.timing, self.ms, self.log, self.error = name, "inference", [], log, error

    def turn(self) -> float:
        self.log.append(self.case)
        if self.error and self.log.count(self.case) > 2:
            raise self.error
        return float(len(self.log))


def test_each_round_has_a_turn_of_each_in_another_order():
    log: list[str] = []
    workloads = [Timed(name, log) for name in "abcdef"] + [Timed("x", log, RuntimeError("out of memory\nat 0x0"))]
    failures = measure(workloads, 5, time.perf_counter() + 60, lambda *_: None)
    assert failures == {("x", "inference"): "out of memory"}
    assert [len(workload.ms) for workload in workloads] == [5] * 6 + [1]
    log = [name for name in log[7:] if name != "x"]
    rounds = [tuple(log[first : first + 6]) for first in range(0, 30, 6)]
    assert {tuple(sorted(names)) for names in rounds} == {tuple("abcdef")}
    assert len({*rounds}) > 1
    workloads = workloads[:2]
    for workload in workloads:
        workload.ms = []
    measure(workloads, 5, time.perf_counter() - 1, lambda *_: None)  # no time is left
    assert [len(workload.ms) for workload in workloads] == [FEWEST_ROUNDS] * 2


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_training_step_leaves_no_trace(run_of, precision):
    run = run_of("rung=separate_downsampling", "recipe.mixup=0.8", f"precision={precision}", "device=cpu")
    network = Network.build(Case(run, 10, "channels_last", "cpu", "", 1), torch.device("cpu"))
    before = {name: value.clone() for name, value in network.module.named_parameters()}
    images = torch.randn(4, 3, 32, 32)
    same = images.clone()
    with training_step(network, images) as step:
        step()
        assert all(parameter.grad is not None for parameter in network.module.parameters())
    assert all(parameter.grad is None for parameter in network.module.parameters())
    assert all(torch.equal(before[name], value) for name, value in network.module.named_parameters())
    assert torch.equal(images, same)
    assert Workload(network, Timing("inference", 2), torch.device("cpu")).turn() > 0


def test_relative_speeds_are_of_the_same_rounds(tmp_path):
    """A machine that slows down for some rounds slows down all networks: ratios stay."""
    rng = np.random.default_rng(0)
    drift = 1 + rng.exponential(2, 7)
    first, second = drift * rng.normal(10, 0.01, 7), drift * rng.normal(5, 0.01, 7)
    write_latency(tmp_path, "resnet", {("inference", 8): first})
    write_latency(tmp_path, "gelu", {("inference", 8): second})
    table = analysis.latency_table(analysis.load(tmp_path)).set_index("rung")
    expected = np.percentile(first / second, [25, 50, 75])
    assert [*table.loc["gelu", ["relative_low", "relative", "relative_high"]]] == pytest.approx([*expected])
    assert table.loc["gelu", "relative_macs"] == pytest.approx(NANO["gelu"][1] / NANO["resnet"][1])


def test_a_rung_and_another_network_in_one_setting(tmp_path):
    write_latency(tmp_path / "runs", "resnet")
    write_latency(tmp_path / "runs", "kernel_11")
    write_latency(tmp_path / "runs", "gelu", config={"rung": None, "network": "gelu +grn"})
    write_latency(tmp_path / "runs", "kernel_9", summary={"processor": None})
    runs = analysis.load(tmp_path / "runs")
    report = write_report(runs, analysis.comparisons(runs), tmp_path / "report")
    assert len(report.speeds) == 2
    text = (tmp_path / "report" / "report.md").read_text()
    assert "gelu +grn" in text
    assert "gelu +grn (not adopted)" not in text
    assert text.count("(not adopted)") == 2
    assert "Measured on A processor, 2 threads" in text
    assert "Measured on CPU, 2 threads" in text


def test_times_of_two_versions_of_torch_are_not_in_one_table(tmp_path):
    for torch_version in ("2.8.0", "2.9.0"):
        for rung in ("resnet", "gelu"):
            summary = {"identity": f"{rung} {torch_version}", "versions": {"torch": torch_version}}
            write_latency(tmp_path / "runs" / torch_version, rung, summary=summary)
    runs = analysis.load(tmp_path / "runs")
    sections = latency_sections(runs, [])
    assert len(sections) == 2
    for section, torch_version in zip(sections, ("2.8.0", "2.9.0"), strict=True):
        assert f"float32, channels last, torch {torch_version}; 32 px" in section.paragraphs[0]
        assert len(section.tables[0].rows) == 2
    with pytest.raises(ValueError, match="several settings, of torch"):
        analysis.road_figure(analysis.latency_table(runs))


HOSTILE = {
    "no list": {"measurements": 3},
    "no rounds": {"measurements": [{"mode": "inference", "batch": 1, "started": "2025", "ms": []}]},
    "no numbers": {"measurements": [{"mode": "inference", "batch": 1, "started": "2025", "ms": [True, "1"]}]},
    "below zero": {"measurements": [{"mode": "inference", "batch": 1, "started": "2025", "ms": [-1.0]}]},
    "not finite": {"measurements": [{"mode": "inference", "batch": 1, "started": "2025", "ms": [float("nan")]}]},
    "no mode": {"measurements": [{"mode": "\x1b[2J", "batch": 1, "started": "2025", "ms": [1.0]}]},
    "no batch": {"measurements": [{"mode": "inference", "batch": 10**30, "started": "2025", "ms": [1.0]}]},
    "no classes": {"classes": "many"},
    "no device": {"device": None},
    "interrupted": {"status": "running"},
}


@pytest.mark.parametrize("changes", HOSTILE.values(), ids=HOSTILE)
def test_a_broken_record_is_skipped_in_one_line(tmp_path, changes):
    write_latency(tmp_path, "resnet")
    broken = write_latency(tmp_path, "gelu", summary=changes)
    runs = analysis.load(tmp_path)
    [(where, why)] = runs.skipped
    assert where == str(broken)
    assert why.isprintable()
    assert [*runs.latency["rung"]] == ["resnet"]


def test_names_from_records_are_escaped(tmp_path):
    hostile = '<script>alert(1)</script>"\x1b[2J'
    write_latency(tmp_path / "runs", "resnet", summary={"processor": hostile}, config={"network": hostile})
    runs = analysis.load(tmp_path / "runs")
    write_report(runs, analysis.comparisons(runs), tmp_path / "report")
    text = (tmp_path / "report" / "report.html").read_text()
    assert "<script>alert" not in text
    assert "\x1b" not in text
    assert "&lt;script&gt;" in text


def test_saved_speeds_load_as_equal_frames(tmp_path):
    for rung in ("resnet", "gelu"):
        write_latency(tmp_path / "runs", rung, {("inference", 1): [1.25, 2, 3], ("training", 8): [1 / 3, 1e-3]})
    runs = analysis.load(tmp_path / "runs")
    runs.save(tmp_path / "kept")
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {"latency.csv", "roads.json"}
    kept = analysis.load(tmp_path / "kept")
    pd.testing.assert_frame_equal(
        kept.latency.drop(columns=["path", "host"]), runs.latency.drop(columns=["path", "host"])
    )
    assert {*kept.latency["host"]} == {"host 1"}
    pd.testing.assert_frame_equal(analysis.latency_table(kept), analysis.latency_table(runs))


@pytest.mark.parametrize(
    ("regime", "facts"), [("resnet50", "resnet50_to_convnext_t.csv"), ("resnet200", "resnet200_to_convnext_b.csv")]
)
def test_the_figure_has_the_published_accuracies(tmp_path, regime, facts):
    for number, rung in enumerate(NANO):
        write_latency(tmp_path, rung, {("inference", 4): [10.0 + number]}, regime=regime)
    table = analysis.latency_table(analysis.load(tmp_path))
    figure = analysis.road_figure(table)
    points = [line.get_xydata()[0] for line in figure.axes[0].lines if line.get_marker() == "o"]
    with (FACTS / facts).open() as file:
        published = {row["name"]: float(row["published_top1"]) for row in csv.DictReader(file)}
    assert [y for _, y in points] == [published[rung] for rung in NANO]
    assert [x for x, _ in points] == pytest.approx([4000 / (10 + number) for number in range(len(NANO))])
    assert "Accuracy: the paper’s, published for ImageNet-1K at 224 px, not measured here." in words_in(figure)


def test_the_figure_is_of_one_setting_and_says_what_is_not_measured(tmp_path):
    write_latency(tmp_path, "resnet")
    write_latency(tmp_path, "gelu")
    write_latency(tmp_path, "kernel_5", config={"precision": "bf16"})
    table = analysis.latency_table(analysis.load(tmp_path))
    with pytest.raises(ValueError, match="several settings, of precision"):
        analysis.road_figure(table)
    with pytest.raises(ValueError, match="nothing was measured of mode 'training'"):
        analysis.road_figure(table[table["precision"] == "float32"], mode="training")
    says = words_in(analysis.road_figure(table[table["precision"] == "float32"]))
    assert "of its full-size networks (resnet50)" in says
    assert "not of these networks" in says
    assert "No speed" in words_in(analysis.road_figure(table[:0]))


def words_in(figure: Figure) -> str:
    """All that is written in a figure."""
    texts = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
    return " ".join(text.get_text() for text in texts)
