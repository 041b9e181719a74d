"""The report says what was found, what is missing and where it comes from, in files that need nothing else."""

from __future__ import annotations

import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from records import NANO, road_of, write_run, write_study
from rich.console import Console
from scipy import stats
from studies import write_everything, write_pair

import analysis
from analysis.report.__main__ import main, report_name
from analysis.report.files import MOST_CHAPTERS
from analysis.report.findings import headline
from analysis.report.terminal import print_ladder
from analysis.sources.load import load
from analysis.sources.runs import RecordsError
from analysis.statistics.comparison import comparisons
from analysis.statistics.departures import departures, kernel_note
from analysis.statistics.ladder import ladder_table
from analysis.statistics.provenance import describe, warnings
from analysis.text import equals, interval, signed
from roadmap.conf import OURS

pytestmark = pytest.mark.xdist_group("report")  # written once

ROAD = OURS.road(regime="nano")
HOSTILE = '<script>alert(1)</script></style><img src="https://evil.example/x.png">|`$\\frac$ & 100 % _x_ #1 \u202e☃'


@pytest.fixture(scope="module")
def everything(tmp_path_factory) -> Path:
    return write_everything(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def out(everything, tmp_path_factory) -> Path:
    """The report of a study that has everything."""
    folder = tmp_path_factory.mktemp("report")
    assert main([str(everything), "--out", str(folder)]) == 0
    return folder


def only(folder: Path) -> analysis.Comparison:
    (found,) = comparisons(load(folder))
    return found


def test_analysis_imports_neither_torch_nor_experiments_nor_pyplot():
    """Nor does a figure that Jupyter shows."""
    code = (
        "import pkgutil, importlib, sys, analysis\n"
        "for one in pkgutil.walk_packages(analysis.__path__, 'analysis.'): importlib.import_module(one.name)\n"
        "for name in analysis.EXPORTS: getattr(analysis, name)\n"
        "figure = analysis.ladder_figure(analysis.published_ladder())\n"
        "assert figure._repr_png_().startswith(b'\\x89PNG')\n"
        "bad = {'torch', 'experiments', 'timm', 'hydra', 'wandb', 'matplotlib.pyplot'} & set(sys.modules)\n"
        "assert 'analysis.figures.ladder' in sys.modules and not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Departures and provenance


def test_departures_are_named_setting_by_setting(everything):
    found = departures(only(everything))
    assert [one.setting for one in found["original"]][:7] == [
        *("data", "resolution", "training crop", "evaluation crop"),
        *("recipe.epochs", "recipe.batch_size", "recipe.lr"),
    ]
    modern = {one.setting: (one.paper, one.here) for one in found["modern"]}
    assert modern["recipe.epochs"] == ("300", "3")
    assert modern["resolution"] == ("224 px", "32 px")
    assert "10,000 training images" in modern["data"][1]


@pytest.mark.parametrize(
    ("setting", "value", "texts"),
    [
        ("mixup", 0.0, ("0.8", "none")),
        ("warmup", "1/10", ("20/300", "1/10")),
        ("betas", [0.9, 0.95], ("0.9, 0.999", "0.9, 0.95")),
        ("ema_decay", 0.9999, ("none", "0.9999")),
        ("decay_norm_and_bias", True, ("none", "yes")),
    ],
)
def test_a_changed_setting_is_a_departure(tmp_path, setting, value, texts):
    write_run(tmp_path, "gelu", config={"recipe": {setting: value}})
    assert (f"recipe.{setting}", *texts) in departures(only(tmp_path))["modern"]


@pytest.mark.parametrize(("setting", "value"), [("warmup", "1/15"), ("momentum", 0.9), ("ema_decay", None)])
def test_another_spelling_or_an_unused_setting_is_no_departure(tmp_path, setting, value):
    write_run(tmp_path, "gelu", config={"recipe": {setting: value}})
    assert f"recipe.{setting}" not in [one.setting for one in departures(only(tmp_path))["modern"]]


def test_kernels_that_a_resolution_cannot_tell_apart():
    assert "8-4-2-1 pixels wide, so kernels above 7 differ in the first stage only" in kernel_note(32)
    assert "in the first 2 stages only" in kernel_note(64)
    assert "16-8-4-2 pixels wide, so kernels above 7 differ in the first 2 stages only" in kernel_note(32, 2)
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
    assert warnings(only(tmp_path)) == []
    write_run(tmp_path, seed=1, summary=changed)
    (found,) = warnings(only(tmp_path))
    assert words in found


# Sentences: never more than the seeds can show


def test_headline_names_what_is_shown_and_no_more(tmp_path, everything):
    ladder = ladder_table(only(everything))
    is_shown = ladder["verdict"].isin(["up", "down"])
    shown, others = ladder[is_shown], ladder[~is_shown][1:]
    text = headline(ladder)
    assert len(shown) > 0
    ends = analysis.contrast(only(everything), "separate_downsampling", "resnet")
    assert f"“separate d.s. conv (nano ConvNeXt)”: {signed(ends['change'])} points (95 % interval" in text
    road = text[text.index("Shown to") :]
    for row in ladder.itertuples():
        named = re.search(rf"(?:, |: | and ){re.escape(row.title.split(' (')[0])} \(", road) is not None
        assert named == (row.rung in set(shown["rung"])), row.rung
    least = f"a true difference of {others['detectable'].fillna(math.inf).median():.2f} points (median; "
    assert f"The other {16 - len(shown)} of 16 steps are not shown to make a difference, " in road
    assert least in road
    one = ladder_table(only(write_pair(tmp_path / "one", gelu={0: 99.0}, kernel_7={0: 1.0})))
    assert "more seeds are needed" in headline(one)
    none = ladder_table(only(write_pair(tmp_path / "none", gelu={}, kernel_7={0: 1.0})))
    assert "nothing can be said" in headline(none)


def ladder_of(shown: int, hints: int = 0, others: int = 0, single: int = 0) -> pd.DataFrame:
    """A ladder with so many changes that are shown; not shown, with an interval without 0; with it; of one seed."""
    ladder = analysis.published_ladder().iloc[1 : 1 + shown + hints + others + single].reset_index(drop=True)
    kinds = ["up"] * shown + ["hint"] * hints + ["none"] * others + ["one seed"] * single
    ladder["change"] = [float(9 - place) for place in range(len(ladder))]
    ladder["low"] = [{"none": -1.0, "one seed": math.nan}.get(kind, 0.5) for kind in kinds]
    ladder["high"] = ladder["low"] + 12
    ladder["p"] = [math.nan if kind == "one seed" else 0.5 for kind in kinds]
    ladder["detectable"], ladder["verdict"] = 2.5, kinds
    return ladder


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        (
            (0, 0, 1),
            "The one step that was tested is not shown to make a difference: a true difference of 2.50 points",
        ),
        (
            (0, 0, 2),
            "None of the 2 steps is shown to make a difference: a true difference of 2.50 points would be shown",
        ),
        (
            (1, 0, 0),
            "Shown to make a difference, with 95 % intervals: enhanced training recipe (+9.00, +0.50 to +12.50).",
        ),
        (
            (1, 0, 1),
            "(+9.00, +0.50 to +12.50). The other step is not shown to make a difference: a true difference of 2.50",
        ),
        (
            (2, 0, 2),
            "stage ratio (+8.00, +0.50 to +12.50). The other 2 of 4 steps are not shown to make a difference, which",
        ),
        (
            (1, 1, 3),
            "One of these has an uncorrected interval that excludes 0 (stage ratio +8.00); chance alone gives at most",
        ),
        (
            (0, 5, 9),
            "5 of these have an uncorrected interval that excludes 0 (enhanced training recipe +9.00, stage ratio "
            '+8.00, "patchify" stem +7.00 and 2 more); chance alone gives at most about 0.7.',
        ),
        ((0, 0, 2, 1), "four times in five. With one seed, one more step cannot be judged."),
        ((1, 0, 0, 2), "+12.50). With one seed, 2 more steps cannot be judged."),
    ],
)
def test_headline_is_english_for_none_one_and_many(counts, text):
    found = headline(ladder_of(*counts))
    assert text in found
    if not counts[1]:
        assert "excludes" not in found


# Files


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


def test_a_study_that_has_everything_is_told_in_full(out):
    figures = {
        "curves",
        "effects",
        "interactions",
        "ladder",
        "paper",
        "pareto-images_per_second",
        "pareto-macs",
        "speed",
    }
    tables = {"agreement", "departures-modern", "departures-original", "effects", "ladder", "networks", "paper"}
    tables |= {"sections"}
    expected = {f"{name}.{kind}" for name in figures for kind in ("png", "svg")}
    expected |= {f"{name}.{kind}" for name in tables for kind in ("csv", "tex")}
    assert {name for name in os.listdir(out) if not name.startswith(".")} == expected | {"report.html", "report.md"}
    page, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    for words in ("Which step matters", "What each section is worth", "What it costs", "Learning curves", "16-8-4-2"):
        assert words in page
        assert words in text
    assert "not the paper&#39;s ImageNet results" in page
    assert len(re.findall(r"<svg ", page)) == len(figures)
    assert {f"]({name}.png)" for name in figures} <= set(re.findall(r"\]\([\w.-]+\)", text))


def test_tables_hold_the_numbers_of_the_frames(out, everything):
    ladder = ladder_table(only(everything))
    table = pd.read_csv(out / "ladder.csv")
    assert table["rung"].tolist() == list(NANO)
    assert table["mean"].tolist() == pytest.approx(ladder["mean"].tolist())
    latex = (out / "ladder.tex").read_text()
    rows = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 17 + 2
    assert len({line.count(" & ") for line in rows[1:]}) == 1
    first = ladder.iloc[0]
    assert rows[2].startswith(f"nano ResNet, original recipe & 3 & {first['mean']:.2f} $\\pm$ {first['std']:.2f} &")
    line, *_ = [
        line for line in (out / "report.md").read_text().splitlines() if line.startswith("| ReLU to GELU | 3 |")
    ]
    assert f"{ladder.set_index('rung')['mean']['gelu']:.2f} ±" in line


def test_latex_sets_every_table(out, tmp_path):
    """With a real engine, where there is one."""
    if not shutil.which("pdflatex"):
        pytest.skip("no pdflatex here")
    tables = "".join(f"\\input{{{file}}}\n\n" for file in out.glob("*.tex"))
    (tmp_path / "all.tex").write_text(
        f"\\documentclass{{article}}\\usepackage[T1]{{fontenc}}\\usepackage{{booktabs}}\\begin{{document}}{tables}\\end{{document}}"
    )
    subprocess.run(["pdflatex", "-halt-on-error", "all.tex"], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)


def test_pages_fetch_nothing_and_escape_what_records_say(tmp_path):
    runs = write_pair(tmp_path / "runs")
    write_run(runs, "gelu", seed=8, status="failed", summary={"reason": HOSTILE})
    write_run(runs, "kernel_7", summary={"device": HOSTILE}, config={"data": {"name": HOSTILE}})
    write_run(runs, None, config={"model": "timm:atto"}).rename(runs / "x")
    config = json.loads((runs / "x" / "config.json").read_text())
    (runs / "x" / "config.json").write_text(json.dumps(config | dict.fromkeys(("model", "network", "rung"), HOSTILE)))
    (runs / "<script>b").mkdir()
    (runs / "<script>b" / "config.json").write_text("{")
    assert main([str(runs), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    found = References(page)
    assert found.fetched == []
    assert found.tags.count("script") == 1
    assert "img" not in found.tags
    assert not re.search(r"@import|url\((?!#)|<link", page)
    assert page.count("&lt;script&gt;alert(1)") >= 4
    text = (tmp_path / "out" / "report.md").read_text()
    assert "<script>" not in text.replace(r"\<script\>", "")
    assert "<img" not in text.replace(r"\<img", "")
    latex = (tmp_path / "out" / "networks.tex").read_text()
    assert r"\textless{}script\textgreater{}alert(1)" in latex
    assert r"\$\textbackslash{}frac\$ \& 100 \% \_x\_ \#1 \textbackslash{}u202e?" in latex


def test_a_partial_study_says_what_is_missing(tmp_path, capsys):
    """In the page, whose path is the last line."""
    write_pair(tmp_path / "runs", gelu={0: 80.0, 1: 81.0})
    write_run(tmp_path / "runs", "gelu", seed=2, status="failed", summary={"reason": "out of\nmemory"})
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"Report: {tmp_path / 'out' / 'report.html'}"
    for name in ("report.html", "report.md"):
        text = (tmp_path / "out" / name).read_text().replace("\\", "")
        assert "no finished run of seed 2: gelu" in text
        assert "failed (out of memory)" in text
        assert "1 of 6 runs is left out: 1 failed." in text
        assert "resnet" not in text.lower().replace("from resnet to convnext", ""), "it was not asked for"


def test_first_rung_last_rung_and_two_seeds_are_a_report(tmp_path, capsys):
    """No parent is measured: changes are from the first, and the first sentence says what the road did."""
    ends = {"resnet": (79.0, 79.4), "separate_downsampling": (84.1, 84.7)}
    for rung, values in ends.items():
        for seed, top1 in enumerate(values):
            write_run(tmp_path / "runs", rung, seed=seed, top1=top1)
    truth = stats.ttest_rel(*reversed(ends.values()))
    low, high = truth.confidence_interval(0.95)
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.md").read_text().replace("\\", "")
    words = (
        "**From the first rung, “nano ResNet, original recipe”, to the last, “separate d.s. conv (nano ConvNeXt)”: "
        f"+5.20 points (95 % interval {interval(low, high)}), shown to differ (p {equals(truth.pvalue)}; a single "
        "test, not corrected).**"
    )
    assert words in text
    assert "Differences are from “nano ResNet, original recipe”, as no rung here has its parent measured too." in text
    table = pd.read_csv(tmp_path / "out" / "ladder.csv")
    assert table["rung"].tolist() == list(ends)
    assert table["change"].tolist() == pytest.approx([math.nan, 5.2], nan_ok=True)
    assert "What is missing" not in text
    assert "change: from “nano ResNet, original recipe”" in " ".join(capsys.readouterr().out.split())
    reverse = ladder_table(only(tmp_path / "runs"), "separate_downsampling")
    assert headline(reverse) == words.strip("*"), "the same two networks are not told twice"


@pytest.mark.parametrize(("seeds", "empty"), [((0,), True), ((0, 1), False)])
def test_columns_with_nothing_in_them_are_left_out(tmp_path, capsys, seeds, empty):
    write_pair(tmp_path / "runs", *({seed: 80.0 + seed for seed in seeds} for _ in range(2)))
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.md").read_text()
    head = next(line for line in text.splitlines() if line.startswith("| step | "))
    assert ("95 % interval" not in capsys.readouterr().out) == empty
    assert ("p (Holm)" not in head) == ("interval" not in head) == empty
    assert "detectable" not in head, "of two seeds"


def test_a_reference_is_any_network_that_is_measured(tmp_path, capsys):
    write_pair(tmp_path / "runs")
    arguments = [str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--reference"]
    assert main([*arguments, "gelu"]) == 0
    table = pd.read_csv(tmp_path / "out" / "ladder.csv").set_index("rung")
    assert table.loc["kernel_7", "change"] == pytest.approx(table.loc["kernel_7", "mean"] - table.loc["gelu", "mean"])
    assert "Differences are from “ReLU to GELU”." in (tmp_path / "out" / "report.html").read_text()
    capsys.readouterr()
    assert main([*arguments[:2], str(tmp_path / "none"), "--reference", "resnet"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: no finished run of 'resnet' (measured: kernel_7, gelu)"
    assert not (tmp_path / "none").exists()


def test_diverged_seeds_are_told_wherever_their_network_is(tmp_path, capsys):
    """And copies of a run that disagree are, too."""
    write_pair(tmp_path / "runs", kernel_7={0: 79.0, 1: 79.2}, gelu={0: 84.0, 1: 84.2})
    write_run(tmp_path / "runs", "kernel_7", seed=2, status="diverged", summary={"finished": "2025-11-01T00:00:00"})
    write_run(tmp_path / "again", "kernel_7", seed=2, top1=79.1)
    for seed, top1 in enumerate((80.0, 80.2)):
        write_run(tmp_path / "runs", steps=(*ROAD["kernel_7"].steps, "grn"), seed=seed, top1=top1)
    for seed in range(2):
        write_run(tmp_path / "runs", "fewer_activations", seed=seed, status="diverged")
    assert main([str(tmp_path / "runs"), str(tmp_path / "again"), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.md").read_text().replace("\\", "")
    assert re.search(r"ReLU to GELU \(\+5\.00, \+4\.\d\d to \+5\.\d\d, of those that finished\)\.", text)
    assert "Not every seed trained: 2 of 3 of kernel size 7 and 0 of 2 of fewer activations." in text
    assert re.search(r"grn, added to kernel_7, \+1\.00 \(\S+ to \S+\), shown, of those that finished\.", text)
    assert "| kernel size 7 | 2 of 3 trained |" in text
    assert "| fewer activations | 0 of 2 trained |" in text
    assert text.count("▲ up, of those that finished") == 2
    printed = " ".join(capsys.readouterr().out.split())
    for told in (text, printed):
        assert re.search(r"2 copies of nano-kernel_7-seed2\S+ disagree: diverged \(.*which counts\) and 79.1 \(", told)
    assert "kernel_7 2 of 3 79.10" in printed


def test_unfinished_runs_by_the_thousand_are_counted(tmp_path):
    for seed in range(60):
        write_run(tmp_path / "runs", "gelu", seed=seed, status="queued")
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.md").read_text()
    assert text.count(": queued\n") == 20
    assert "and 40 more: 40 queued" in text


@pytest.mark.parametrize("rung", ["gelu", None])
def test_report_of_no_finished_run_says_so_and_keeps_nothing_of_an_earlier_one(out, tmp_path, rung):
    shutil.copytree(out, tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    write_run(tmp_path / "runs", rung, status="unfinished")
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    assert "No run is finished" in (tmp_path / "out" / "report.html").read_text()
    assert not (tmp_path / "out" / "ladder.png").exists()
    assert (tmp_path / "out" / "notes.txt").exists()


def test_a_sweep_is_a_few_sections_and_a_row_for_each_of_the_rest(tmp_path):
    for number in range(MOST_CHAPTERS + 3):
        differs = {"config": {"recipe": {"lr": 0.1 + number}, "differs": {"recipe.lr": 0.1 + number}}}
        write_pair(tmp_path / "runs" / str(number), gelu={0: 80.0 + number}, kernel_7={0: 79.0}, **differs)
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    rest = pd.read_csv(tmp_path / "out" / "contexts.csv")
    assert len(rest) == 3
    page = (tmp_path / "out" / "report.html").read_text()
    for number in range(MOST_CHAPTERS + 3):
        assert f"recipe.lr={0.1 + number}" in page
    assert (tmp_path / "out" / "2-ladder.svg").exists()


# The terminal


@pytest.mark.parametrize("columns", [80, 120])
def test_terminal_table_fits(everything, columns):
    ladder = ladder_table(only(everything))
    console = Console(width=columns, file=io.StringIO())
    print_ladder(ladder, console)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= columns
    assert "…" not in "".join(lines)
    (line,) = [line for line in lines if "fewer_norms" in line]
    assert line.split()[:4] == ["fewer_norms", "3", f"{ladder.set_index('rung')['mean']['fewer_norms']:.2f}", "±"]
    assert line.split()[-1] == "+0.14"
    assert (ladder.set_index("rung")["verdict"]["fewer_norms"] in line) == (columns == 120)


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


# Somebody else's runs


MIXER = road_of(
    *("overlap", "mixer", "wide"),
    **{"title": "From a baseline to MixNet", "sections": {"own": "Mixing what is near, and then what is far away"}},
)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory) -> Path:
    """Runs on a road, in a regime and by a recipe that this checkout has never heard of; and a step on no rung."""
    folder = tmp_path_factory.mktemp("foreign")
    sets = {*(rung.steps for rung in MIXER.rungs), *MIXER.leave_one_out(), (*MIXER.adopted, "grn"), ("overlap", "grn")}
    for number, steps in enumerate(sorted(sets)):
        for seed in range(3):
            top1 = 60 + 2 * len(steps) + 3 * ("grn" in steps) + (seed * number % 4) / 9
            write_run(folder, steps=steps, seed=seed, top1=top1, regime="mini", road=MIXER)
    write_run(folder, steps=("overlap", "mixer", "wide", "star", "grn"), status="failed", regime="mini", road=MIXER)
    return folder


def test_a_folder_of_somebody_elses_is_reported_in_full(foreign, tmp_path, capsys):
    assert main([str(foreign), "--out", str(tmp_path)]) == 0
    text, printed = (tmp_path / "report.md").read_text(), " ".join(capsys.readouterr().out.split())
    for words in ("Step by step", "Steps that are on no rung of the road", "Which step matters", "What it costs"):
        assert f"### {words}\n" in text
    for absent in ("paper", "Departures", "ConvNeXt", "published"):
        assert absent not in text + printed
    assert "Added steps, on no rung of the road: grn, added to" in printed
    assert "Nothing can be said about star yet" in text
    table = pd.read_csv(tmp_path / "besides.csv")
    assert table[["step", "on"]].to_numpy().tolist() == [["grn", "overlap"], ["grn", "wide"]]
    assert table["effect"].tolist() == pytest.approx((table["with"] - table["without"]).tolist())
    assert set(table["verdict"]) == {"up"}
    (line,) = [line for line in text.splitlines() if line.startswith("| grn | overlap |")]
    assert "▲ up" in line


def test_on_another_road_only_the_papers_rungs_depart_from_the_paper(foreign, tmp_path):
    assert departures(only(foreign)) == {}
    road = road_of("modern_recipe", "star")
    write_run(tmp_path, "modern_recipe", road=road, config={"recipe": {"mixup": 0.0}})
    write_run(tmp_path, "star", road=road, config={"recipe": {"decay_norm_and_bias": True}})
    settings = [one.setting for one in departures(only(tmp_path))["modern"]]
    assert "recipe.mixup" in settings
    assert "recipe.decay_norm_and_bias" not in settings


def test_models_that_are_no_rungs_are_reported_without_the_road(tmp_path, capsys):
    for model, top1 in {"resnet18": 70.0, "vit_tiny_patch16_224": 72.0}.items():
        write_run(tmp_path / "runs", None, top1=top1, config={"model": f"timm:{model}"})
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    assert "None of these networks is a rung of the road" in capsys.readouterr().out
    text = (tmp_path / "out" / "report.md").read_text().replace("\\", "")
    assert "timm:vit_tiny_patch16_224 | 1 | 72.00" in text
    for absent in ("Published numbers", "Step by step", "Compared with the paper", "Departures"):
        assert absent not in text


@pytest.mark.parametrize("rungs", [("kernel_7", "gelu"), tuple(NANO)])
@pytest.mark.parametrize("lacking", [(), ("macs", "params", "images_per_second", "train_seconds", "evaluated_on")])
def test_table_11_and_what_records_lack_stop_no_report(tmp_path, rungs, lacking, capsys):
    """Where the paper prints no deviation, and where a record has no counts."""
    write_study(tmp_path / "runs", rungs, regime="resnet200", summary=dict.fromkeys(lacking))
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "The paper gives no standard deviations for this ladder" in printed
    text = (tmp_path / "out" / "report.md").read_text()
    assert "The paper gives no standard deviations for these changes." in text
    assert "nan" not in text.lower().replace("nano", "")
    assert ("images that no record names" in text) == bool(lacking)


def test_a_study_of_the_ends_of_sections_is_reported_by_section(tmp_path):
    """Each end is compared with the nearest end before it, not only the two whose parents are ends too."""
    write_study(tmp_path / "runs", OURS.road().section_ends())
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    table = pd.read_csv(tmp_path / "out" / "ladder.csv")
    assert table["title"].tolist()[2:4] == ["Macro design", "ResNeXt-ify"]
    means = table["mean"]
    assert table["change"].tolist()[1:] == pytest.approx([after - before for before, after in pairwise(means)])
    text = (tmp_path / "out" / "report.md").read_text()
    assert "Changes are from the nearest rung in the study" in text
    assert "6 changes" in text


@pytest.mark.parametrize(
    ("data", "images"),
    [
        ({"reader": "sample"}, "the whole test set"),  # of Fashion-MNIST
        ({"name": "birds", "reader": "folder", "val": "val"}, "the whole val split"),
        ({"name": "birds", "reader": "wds", "val": "validation|100"}, "the whole validation split"),
        ({"holdout": 0.1}, "a hold-out of the training images"),
    ],
)
def test_captions_say_on_which_images_accuracies_were_measured(tmp_path, data, images):
    for rung in ("kernel_7", "gelu"):
        write_run(tmp_path, rung, config={"data": data})
    (comparison,) = comparisons(load(tmp_path))
    assert f"last epoch, on {images} (10,000 images)" in describe(comparison)


@pytest.mark.parametrize(
    ("studies", "sources", "name"),
    [
        (["budget", "budget"], ["runs"], "budget"),
        (["ladder", "sections"], ["archive/fungi/"], "fungi"),
        (["ladder", "sections"], ["team/project"], "project"),
        (["ladder", "sections"], ["runs/a", "runs/b"], "runs"),
        ([], ["runs/*"], "runs"),
        (["../../.ssh"], ["runs"], "ssh"),
        ([".."], ["runs"], "runs"),
        (["a/b\x1b[31m"], ["runs"], "a_b__31m"),
    ],
)
def test_a_report_is_in_a_folder_named_after_its_study(studies, sources, name):
    assert report_name(studies, sources) == name
