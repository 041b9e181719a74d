"""`analysis`: from synthetic records to statistics, ladder, figure and report."""

import io
import json
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from records import NANO, write_run, write_study
from rich.console import Console
from scipy import stats

from analysis import figures, style
from analysis.departures import departures, kernel_note
from analysis.ladder import agreement, ladders, others
from analysis.provenance import missing, unfinished, warnings
from analysis.records import RecordsError, load
from analysis.report import main
from analysis.statistics import change
from analysis.tables import agreement_sentence, print_ladder, signed

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


def test_analysis_imports_neither_torch_nor_experiments_nor_pyplot():
    code = (
        "import pkgutil, importlib, sys, analysis\n"
        "for module in pkgutil.iter_modules(analysis.__path__): importlib.import_module(f'analysis.{module.name}')\n"
        "bad = {'torch', 'experiments', 'timm', 'hydra', 'matplotlib.pyplot'} & set(sys.modules)\n"
        "assert 'analysis.report' in sys.modules and not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Statistics


def test_paired_interval():
    found = change(pd.Series(A), pd.Series(B))
    truth = stats.ttest_rel(list(A.values()), list(B.values())).confidence_interval(0.95)
    assert found.change == pytest.approx(np.mean(list(A.values())) - np.mean(list(B.values())))
    assert (found.low, found.high) == pytest.approx(tuple(truth))
    assert found.method == "paired t"


def test_welch_interval_where_seeds_do_not_pair():
    other = {7: 79.0, 8: 80.2, 9: 79.9, 10: 79.4}
    found = change(pd.Series(A), pd.Series(other))
    truth = stats.ttest_ind(list(A.values()), list(other.values()), equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx(tuple(truth))
    assert found.method == "Welch t"


def test_pairing_is_by_seed_not_by_order():
    shuffled = pd.Series({2: B[2], 0: B[0], 1: B[1]})
    assert change(pd.Series(A), shuffled)[:3] == pytest.approx(change(pd.Series(A), pd.Series(B))[:3])


@pytest.mark.parametrize(
    ("values", "before", "verdict"),
    [
        ({0: 81.0, 1: 82.0, 2: 83.0}, {0: 80.0, 1: 81.0, 2: 82.1}, "up"),
        ({0: 80.0, 1: 81.0, 2: 82.1}, {0: 81.0, 1: 82.0, 2: 83.0}, "down"),
        ({0: 80.0, 1: 82.0}, {0: 81.0, 1: 80.0}, "not distinguishable"),
        ({0: 80.0}, {0: 81.0}, "one seed"),
        ({0: 80.0}, {0: 81.0, 1: 82.0}, "one seed"),
        ({0: 81.0, 1: 81.0}, {2: 80.0, 3: 80.0}, "up"),
        ({}, {0: 81.0}, ""),
    ],
)
def test_verdict(values, before, verdict):
    assert change(pd.Series(values, dtype=float), pd.Series(before, dtype=float)).verdict == verdict


# Ladder


def test_ladder_has_every_rung_in_the_papers_order_with_its_statistics(ladder, study):
    assert ladder.table["rung"].tolist() == list(NANO)
    top1 = study.runs[study.runs["rung"] == "layer_norm"]["top1"]
    found = row(ladder, "layer_norm")
    assert found["n"] == 3
    assert found["top1_mean"] == pytest.approx(np.mean(top1))
    assert found["top1_std"] == pytest.approx(np.std(top1, ddof=1))
    assert found["macs"] == 6.41e6
    assert (found["published_top1"], found["published_change"]) == (81.47, 0.06)


def test_change_is_from_the_parent_not_the_previous_row(ladder):
    means = ladder.table.set_index("rung")["top1_mean"]
    for rung, parent in {
        **dict.fromkeys(("kernel_5", "kernel_7", "kernel_9", "kernel_11"), "move_up_depthwise"),
        "gelu": "kernel_7",
        "stage_ratio": "modern_recipe",
    }.items():
        assert row(ladder, rung)["change"] == pytest.approx(means[rung] - means[parent]), rung
    assert row(ladder, "gelu")["published_change"] == 0.05
    assert row(ladder, "kernel_11")["published_change"] == 0.55
    assert row(ladder, "resnet")["verdict"] == "start"


def test_only_finished_runs_count_and_their_last_epoch(tmp_path):
    write_pair(tmp_path)
    write_run(tmp_path, "gelu", seed=3, status="running")
    write_run(tmp_path, "gelu", seed=4, status="diverged")
    (found,) = ladders(load(tmp_path))
    assert row(found, "gelu")["top1_mean"] == pytest.approx(np.mean(list(A.values())))
    assert row(found, "gelu")[["n", "left_out"]].tolist() == [3, 2]
    assert row(found, "gelu")["method"] == "paired t"
    assert unfinished(found.runs)[0].endswith(": running")
    assert unfinished(found.runs)[1].endswith("diverged (loss is nan at epoch 2)")
    assert "no finished run of seed 4: kernel_7, gelu" in missing(found)


def test_missing_rungs_stay_as_empty_rows(tmp_path):
    (found,) = ladders(load(write_pair(tmp_path)))
    assert len(found.table) == 17
    assert row(found, "resnet")["n"] == 0
    assert math.isnan(row(found, "resnet")["top1_mean"])
    assert row(found, "resnet")["verdict"] == "no finished run"
    assert row(found, "kernel_7")["verdict"] == "parent missing"
    assert missing(found)[0].startswith("no finished run: resnet, modern_recipe")


def test_another_series_of_a_rung_is_never_averaged_in(tmp_path):
    write_pair(tmp_path)
    write_run(tmp_path, "gelu", seed=0, top1=20.0, config={"recipe": {"weight_decay": 0.3}})
    write_run(tmp_path, "gelu", seed=9, top1=20.0, config={"recipe": {"weight_decay": 0.3}})
    runs = load(tmp_path)
    (found,) = ladders(runs)
    assert row(found, "gelu")[["n", "top1_mean"]].tolist() == [3, pytest.approx(np.mean(list(A.values())))]
    rest = others(runs, [found])
    assert rest[["name", "n", "top1_mean"]].values.tolist() == [["gelu, another series", 2, 20.0]]


def test_a_copy_of_a_run_is_no_replicate(tmp_path):
    write_pair(tmp_path / "one")
    write_pair(tmp_path / "two")
    write_run(tmp_path / "three", "gelu", seed=0, status="failed", summary={"started": "2026-01-01T00:00:00+00:00"})
    (found,) = ladders(load(tmp_path))
    assert row(found, "gelu")[["n", "left_out"]].tolist() == [3, 0]


@pytest.mark.parametrize(
    "changed",
    [
        {"data": {"name": "fashion_mnist"}},
        {"data": {"holdout": 0.1}},
        {"resolution": 28},
        {"precision": "bfloat16"},
        {"recipe": {"epochs": 10}},
        {"recipe": {"batch_size": 32}},
        {"recipe": {"lr": 0.1}, "differs": {"recipe.lr": 0.1}},
    ],
)
def test_runs_that_may_not_be_compared_are_in_another_context(tmp_path, changed):
    write_pair(tmp_path / "plain")
    write_pair(tmp_path / "changed", gelu={0: 10.0}, kernel_7={}, config=changed)
    plain, other = ladders(load(tmp_path))
    assert row(plain, "gelu")["n"] == 3
    assert row(other, "gelu")[["n", "top1_mean", "verdict"]].tolist() == [1, 10.0, "parent missing"]


def test_the_papers_own_epochs_are_one_context(tmp_path):
    """Rung 0 trains 90 epochs at batch 256, the others 300 at 4,096: the paper's ladder all the same."""
    data = {"data": {"name": "imagenet", "num_classes": 1000}}
    for rung in ("resnet", "modern_recipe"):
        write_run(tmp_path, rung, regime="resnet50", config=data)
    (found,) = ladders(load(tmp_path))
    assert found.counted["epochs"].tolist() == [90, 300]
    assert departures(found) == {"original": [], "modern": []}
    assert "not the paper's" not in found.context.scale


def test_agreement_counts_clear_published_changes(ladder):
    found = agreement(ladder.table)
    published = ladder.table.set_index("rung")
    clear = [
        rung
        for rung, parent in published["parent"].items()
        if parent in published.index
        and abs(published["published_top1"][rung] - published["published_top1"][parent])
        > 2 * math.sqrt(published["published_std"][rung] ** 2 + published["published_std"][parent] ** 2)
    ]
    same = [rung for rung in clear if published["change"][rung] * published["published_change"][rung] > 0]
    assert found == (len(clear), len(clear), len(same), 1)
    assert f"Measured here: {len(clear)} of them; with the same sign: {len(same)}." in agreement_sentence(ladder)
    assert "fewer_activations" in clear
    assert "layer_norm" not in clear


def test_timm_models_and_free_sets_of_steps_are_other_runs(tmp_path):
    write_pair(tmp_path)
    for seed in (0, 1):
        write_run(tmp_path, None, seed=seed, top1=80.0 + seed, config={"model": "timm:convnext_atto"})
    steps = [name for name in NANO if name not in ("resnet", "stage_ratio", "kernel_5", "kernel_9", "kernel_11")]
    write_run(tmp_path, None, config={"steps": steps})
    runs = load(tmp_path)
    rest = others(runs, ladders(runs)).set_index("name")
    assert rest.loc["timm:convnext_atto", ["n", "top1_mean"]].tolist() == [2, 80.5]
    assert rest.loc["timm:convnext_atto", "top1_std"] == pytest.approx(math.sqrt(0.5))
    assert rest.loc["all steps but stage_ratio", "n"] == 1


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
    folder = Path(study.runs["path"].iloc[0]).parent
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
