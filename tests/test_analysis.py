"""`analysis`: from synthetic records to statistics, ladder, figure and report."""

import io
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import matplotlib
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from records import NANO, write_run, write_study
from rich.console import Console

from analysis import figures, style
from analysis.departures import departures, kernel_note
from analysis.ladder import ladders
from analysis.provenance import warnings
from analysis.records import RecordsError, load
from analysis.report import main
from analysis.tables import print_ladder, signed

A = {0: 80.1, 1: 80.9, 2: 81.3}
B = {0: 79.0, 1: 80.2, 2: 79.9}


def write_pair(folder, gelu=A, kernel_7=B, **changes):
    """A rung and its parent, seed by seed."""
    for rung, accuracies in {"gelu": gelu, "kernel_7": kernel_7}.items():
        for seed, top1 in accuracies.items():
            write_run(folder, rung, seed=seed, top1=top1, **changes)
    return folder


def row(ladder, rung):
    return ladder.table.set_index("rung").loc[rung]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """All 17 rungs, three seeds each."""
    return load(write_study(tmp_path_factory.mktemp("study")))


@pytest.fixture(scope="module")
def ladder(study):
    (only,) = ladders(study)
    return only


@pytest.fixture(scope="module")
def figure(ladder):
    return figures.ladder_figure(ladder)


# Records


def test_analysis_imports_neither_torch_nor_experiments_nor_pyplot():
    code = (
        "import pkgutil, importlib, sys, analysis\n"
        "for module in pkgutil.iter_modules(analysis.__path__): importlib.import_module(f'analysis.{module.name}')\n"
        "bad = {'torch', 'experiments', 'timm', 'hydra', 'matplotlib.pyplot'} & set(sys.modules)\n"
        "assert 'analysis.report' in sys.modules and not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_run_a_folder_and_a_glob_find_the_same_run(tmp_path):
    run = write_run(tmp_path / "deep" / "er")
    for path in (run, tmp_path, f"{tmp_path}/d*/er/nano-*", [tmp_path, run]):
        assert load(path).runs["path"].tolist() == [run]


def test_what_lies_inside_a_run_is_no_run(tmp_path):
    run = write_run(tmp_path)
    write_run(run / "backup")
    assert load(tmp_path).runs["path"].tolist() == [run]


def test_frames_are_tidy(tmp_path):
    write_run(tmp_path, "resnet", seed=5, top1=79.5)
    runs = load(tmp_path)
    run = runs.runs.iloc[0]
    columns = ["regime", "rung", "model", "recipe_name", "data_name", "seed", "epochs", "batch_size", "lr", "top1"]
    assert run[columns].tolist() == [
        *("nano", "resnet", "design", "original", "fashion_mnist_sample", 5, 3, 64, 0.05, 79.5)
    ]  # fmt: skip
    assert runs.epochs["epoch"].tolist() == [1, 2, 3]
    assert runs.epochs["top1"].iloc[-1] == 79.5
    assert set(runs.epochs["path"]) == {run["path"]}


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("config.json", '{"model": "des', "config.json cannot be read"),
        ("config.json", "[1, 2]", "holds no JSON object"),
        ("config.json", '{"architectures": ["Llama"]}', "'model' is missing"),
        ("config.json", '{"model": 1, "design": 1, "recipe": 1, "data": 1, "resolution": 1, "seed": 1}', "not a"),
        ("summary.json", "", "summary.json cannot be read"),
        ("summary.json", '{"status": "done"}', "'identity' is missing"),
        ("summary.json", '{"status": "odd", "identity": "a", "series": "b"}', "status is 'odd'"),
        ("summary.json", '{"status": "done", "identity": "a", "series": "b", "top1": NaN}', "top1 is nan"),
        ("summary.json", None, "no summary.json"),
        ("config.json", None, "no config.json"),
    ],
)  # fmt: skip
def test_broken_records_are_skipped_and_named(tmp_path, file, text, reason):
    good, bad = write_run(tmp_path, seed=0), write_run(tmp_path, seed=1)
    (bad / file).unlink() if text is None else (bad / file).write_text(text)
    runs = load(tmp_path)
    assert runs.runs["path"].tolist() == [good]
    ((path, why),) = runs.skipped
    assert path == bad
    assert reason in why
    assert "\n" not in why


def test_broken_epochs_are_named_and_the_run_is_kept(tmp_path):
    good, bad = write_run(tmp_path, seed=0), write_run(tmp_path, seed=1)
    (bad / "epochs.jsonl").write_text('{"epoch": 1, "top1": 3')
    runs = load(tmp_path)
    assert set(runs.epochs["path"]) == {good}
    assert len(runs.runs) == 2
    assert [path for path, _ in runs.skipped] == [bad / "epochs.jsonl"]


# Departures and provenance


def test_departures_are_named_setting_by_setting(ladder):
    found = departures(ladder)
    assert [one.setting for one in found["original"]] == [
        *("data", "resolution", "training crop", "evaluation crop"),
        *("recipe.epochs", "recipe.batch_size", "recipe.lr", "design.depths", "design.width"),
    ]
    modern = {one.setting: (one.paper, one.here) for one in found["modern"]}
    assert modern["recipe.epochs"] == ("300", "3")
    assert modern["resolution"] == ("224 px", "32 px")
    assert "10,000 training images" in modern["data"][1]
    assert "recipe.lr" not in modern


@pytest.mark.parametrize(
    ("setting", "value", "texts"),
    [
        ("mixup", 0.0, ("0.8", "none")),
        ("warmup", "1/10", ("20/300", "1/10")),
        ("betas", [0.9, 0.95], ("0.9, 0.999", "0.9, 0.95")),
        ("ema", 0.9999, ("none", "0.9999")),
        ("decay_1d", True, ("none", "yes")),
    ],
)
def test_a_changed_setting_is_a_departure(tmp_path, setting, value, texts):
    write_run(tmp_path, "gelu", config={"recipe": {setting: value}})
    (found,) = ladders(load(tmp_path))
    assert (f"recipe.{setting}", *texts) in departures(found)["modern"]


@pytest.mark.parametrize(("setting", "value"), [("warmup", "1/15"), ("momentum", 0.9), ("ema", None)])
def test_another_spelling_or_an_unused_setting_is_no_departure(tmp_path, setting, value):
    write_run(tmp_path, "gelu", config={"recipe": {setting: value}})
    (found,) = ladders(load(tmp_path))
    assert f"recipe.{setting}" not in [one.setting for one in departures(found)["modern"]]


def test_kernels_that_a_resolution_cannot_tell_apart():
    assert "8-4-2-1 pixels wide, so kernels above 7 differ in the first stage only" in kernel_note(32)
    assert "in the first 2 stages only" in kernel_note(64)
    assert kernel_note(224) is None


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"device": "NVIDIA H200"}, "devices: cpu (1 run); NVIDIA H200 (1 run)"),
        ({"threads": 8}, "numbers of threads"),
        ({"versions": {"torch": "2.8.0"}}, "package versions"),
        ({"git": {"commit": "f" * 40, "dirty": False}}, "commits"),
        ({"git": {"dirty": True}}, "1 run came from a checkout with uncommitted changes"),
    ],
)
def test_what_should_be_equal_and_is_not_is_a_warning(tmp_path, changed, words):
    write_run(tmp_path, seed=0)
    assert warnings(ladders(load(tmp_path))[0]) == []
    write_run(tmp_path, seed=1, summary=changed)
    (found,) = warnings(ladders(load(tmp_path))[0])
    assert words in found


# Figures


def bars_of(figure):
    return [
        bar
        for axes in figure.axes
        for container in axes.containers
        if hasattr(container, "patches")
        for bar in container
    ]


def texts_of(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_ladder_figure_has_a_bar_a_rung_hatched_where_not_adopted(ladder, figure):
    bars = bars_of(figure)
    assert len(bars) == 17
    assert [list(NANO)[round(bar.get_y() + bar.get_height() / 2)] for bar in bars if bar.get_hatch()] == [
        *("kernel_5", "kernel_9", "kernel_11")
    ]  # fmt: skip
    ends = [bar.get_x() + bar.get_width() for bar in bars]
    assert ends == pytest.approx(ladder.table["top1_mean"].tolist())
    assert {to_hex(bar.get_facecolor()) for bar in bars if bar.get_hatch()} == {style.PALETTE["side"]}


def test_ladder_figure_prints_accuracies_changes_and_macs_in_their_unit(ladder, figure, tmp_path):
    texts = texts_of(figure)
    assert "MACs (M)" in texts
    assert [f"{macs:.2f}" for _, macs, _ in NANO.values()] == [
        text for text in texts if re.fullmatch(r"\d\.\d\d", text)
    ]
    assert f"{row(ladder, 'gelu')['top1_mean']:.2f} ± {row(ladder, 'gelu')['top1_std']:.2f}" in texts
    bold = [text.get_text() for axes in figure.axes for text in axes.texts if text.get_weight() == "bold"]
    for _, one in ladder.table.iloc[1:].iterrows():
        assert signed(one["change"]) in texts
        assert (signed(one["change"]) in bold) == (one["verdict"] in ("up", "down"))
    write_run(tmp_path, "resnet", regime="resnet50", summary={"macs": 4_089_184_256})
    texts = texts_of(figures.ladder_figure(ladders(load(tmp_path))[0]))
    assert {"MACs (G)", "4.09"} <= set(texts)


def test_paper_and_measurement_never_share_an_axis(ladder, figure):
    measured = next(axes for axes in figure.axes if "Fashion-MNIST" in axes.get_xlabel())
    published = next(axes for axes in figure.axes if "ImageNet-1K" in axes.get_xlabel())
    assert measured is not published
    assert "starts at" in measured.get_xlabel()
    assert measured.get_xlim()[0] < ladder.table["top1_mean"].min()
    assert any("not the paper's ImageNet results" in text.get_text() for text in figure.texts)


def test_figures_are_the_same_bytes_twice_and_touch_no_global_state(ladder, figure):
    before = dict(matplotlib.rcParams)
    assert style.svg(figure) == style.svg(figures.ladder_figure(ladder))
    assert dict(matplotlib.rcParams) == before


def test_learning_curves_draw_the_mean_over_seeds(ladder, study):
    figure = figures.learning_curves(ladder, study.epochs)
    panel = next(axes for axes in figure.axes if "Inverted" in axes.get_title(loc="left"))
    (line,) = [line for line in panel.lines if line.get_label() == "inverting dimensions"]
    assert line.get_ydata()[-1] == pytest.approx(row(ladder, "invert_dimensions")["top1_mean"])
    assert len(panel.lines) == 17


# Report


class References(HTMLParser):
    """What a page would fetch, and the elements that it has."""

    def __init__(self, page):
        super().__init__()
        self.fetched, self.tags = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.fetched += [
            value for name, value in attributes
            if name in ("src", "href", "xlink:href", "srcset", "action", "data") and not value.startswith("#")
        ]  # fmt: skip


def test_report_of_a_whole_study(tmp_path, study, capsys):
    folder = study.runs["path"].iloc[0].parent
    assert main([str(folder), "--out", str(tmp_path / "out")]) == 0
    assert sorted(os.listdir(tmp_path / "out")) == [
        "ladder.csv",
        "ladder.png",
        "ladder.svg",
        "report.html",
        "report.md",
    ]
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == f"Report: {tmp_path / 'out' / 'report.html'}"
    for name in NANO:
        assert name in printed
    page = (tmp_path / "out" / "report.html").read_text()
    for text in (
        "not the paper&#39;s ImageNet results",
        "8-4-2-1",
        "recipe.batch_size",
        "the whole test set",
        "the paper’s",
    ):
        assert text in page
    table = pd.read_csv(tmp_path / "out" / "ladder.csv")
    assert table["rung"].tolist() == list(NANO)
    assert table["top1_mean"].notna().all()


def test_page_fetches_nothing_and_escapes_what_records_say(tmp_path):
    hostile = '<script>alert(1)</script><img src="https://evil.example/x.png">|`$\\frac$'
    write_pair(tmp_path / "runs")
    write_run(tmp_path / "runs", "gelu", seed=8, status="failed", summary={"reason": hostile})
    write_run(tmp_path / "runs", "kernel_7", summary={"device": hostile}, config={"data": {"name": hostile}})
    write_run(tmp_path / "runs", None, config={"model": "timm:atto"}).rename(tmp_path / "runs" / "x")
    config = json.loads((tmp_path / "runs" / "x" / "config.json").read_text())
    (tmp_path / "runs" / "x" / "config.json").write_text(json.dumps(config | {"model": hostile, "rung": hostile}))
    (tmp_path / "runs" / "<script>b").mkdir()
    (tmp_path / "runs" / "<script>b" / "config.json").write_text("{")
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    found = References(page)
    assert found.fetched == []
    assert found.tags.count("script") == 1
    assert "img" not in found.tags
    assert not re.search(r"@import|url\((?!#)|<link", page)
    assert page.count("&lt;script&gt;alert(1)") >= 4
    assert "<script>" not in (tmp_path / "out" / "report.md").read_text().replace(r"\<script\>", "")


def test_report_of_a_partial_study_says_what_is_missing(tmp_path):
    write_pair(tmp_path / "runs", gelu={0: 80.0, 1: 81.0})
    write_run(tmp_path / "runs", "gelu", seed=2, status="failed", summary={"reason": "out of\nmemory"})
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    for name in ("report.html", "report.md"):
        text = (tmp_path / "out" / name).read_text().replace("\\", "")
        assert "no finished run of seed 2: gelu" in text
        assert "failed (out of memory)" in text
        assert "no finished run: resnet" in text


@pytest.mark.parametrize("rung", ["gelu", None])
def test_report_of_no_finished_run_says_so(tmp_path, rung):
    write_run(tmp_path / "runs", rung, status="unfinished")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "ladder.png").write_text("of an earlier report")
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    assert "No run is finished" in (tmp_path / "out" / "report.html").read_text()
    assert (tmp_path / "out" / "ladder.png").exists() == (rung is not None)


@pytest.mark.parametrize("columns", [80, 120])
def test_terminal_table_fits(ladder, columns):
    console = Console(width=columns, file=io.StringIO())
    print_ladder(ladder, console)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= columns
    assert "…" not in "".join(lines)
    (line,) = [line for line in lines if "separate_downsampling" in line]
    assert line.split()[:4] == [
        "separate_downsampling",
        "3",
        f"{row(ladder, 'separate_downsampling')['top1_mean']:.2f}",
        "±",
    ]
    assert line.split()[-1] == "+0.50"
    assert ("not distinguishable" in line) == (columns == 120)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_nothing_to_report_is_one_line_and_exit_code_2(tmp_path, make, capsys):
    make(tmp_path / "runs")
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "runs") in line
    assert not (tmp_path / "out").exists()
    with pytest.raises(RecordsError):
        load(tmp_path / "runs")


def test_a_folder_that_cannot_be_written_is_one_line_and_exit_code_2(tmp_path, capsys):
    write_run(tmp_path / "runs")
    (tmp_path / "out").write_text("a file")
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--out" in line
