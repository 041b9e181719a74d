"""Tuned studies: each network with its best value, chosen on a holdout; by the launchers, and in the report."""

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from records import write_run

import analysis
from analysis.report.across import outline
from analysis.statistics.tuning import tuned_networks, tuned_table, tunings
from benchmarks.tuning import on_holdout, on_test, simulate
from roadmap.common.tuning import best_value
from roadmap.conf import OURS

ROAD = OURS.road()

RATES = {"resnet": (0.025, 0.05), "gelu": (2e-3, 4e-3), "separate_downsampling": (2e-3, 4e-3)}
BEST = {"resnet": 0.05, "gelu": 2e-3, "separate_downsampling": 4e-3}


def test_the_best_value_trains_with_most_seeds_and_has_the_highest_mean() -> None:
    assert best_value({1e-3: [70, 72], 2e-3: [71, 73], 4e-3: [90, math.nan]}) == 2e-3
    assert best_value({4e-3: [70.0], 1e-3: [70.0]}) == best_value({1e-3: [70.0], 4e-3: [70.0]}) == 1e-3
    assert best_value({1e-3: [math.nan], 2e-3: [math.nan]}) is None


def tuned_records(folder: Path) -> dict[tuple[str, float], list[float]]:
    """Three rungs with two rates each. Returns the accuracies on the test images, by rung and rate."""
    rng, finals = np.random.default_rng(0), {}
    for rung, rates in RATES.items():
        for rate in rates:
            differs = {} if rate == rates[1] else {"recipe.lr": rate}
            for seed in (100, 101):
                config = {"recipe": {"lr": rate}, "data": {"holdout": 0.1}, "differs": differs | {"data.holdout": 0.1}}
                config["tuning"] = {"setting": "recipe.lr", "values": [*rates], "seeds": [100, 101]}
                top1 = 80 + (rate == BEST[rung]) + 0.1 * (seed - 100)
                write_run(folder, rung, seed=seed, top1=top1, config=config, summary={"evaluated_on": "holdout"})
            if rate in (rates[1], BEST[rung]):
                finals[rung, rate] = [
                    *np.round(70 + 10 * (rung == "gelu") * (rate == rates[0]) + rng.normal(size=3), 2)
                ]
                for seed, top1 in enumerate(finals[rung, rate]):
                    config = {"recipe": {"lr": rate}, "differs": differs}
                    write_run(folder, rung, seed=seed, top1=top1, config=config)
    return finals


def test_ladder_is_reported_untuned_beside_tuned(tmp_path: Path) -> None:
    finals = tuned_records(tmp_path)
    runs = analysis.load(tmp_path)
    [tuning] = tunings(runs)
    chosen = tuning.search[tuning.search["best"]].set_index("network")["value"]
    assert chosen.to_dict() == BEST
    table, networks = tuned_table(tuning), tuned_networks(tuning).set_index("network")
    assert table["reference"].tolist() == ["resnet", "gelu", "resnet"]  # the nearest rung, and the first
    for which, rates in {"untuned": {rung: rates[1] for rung, rates in RATES.items()}, "tuned": BEST}.items():
        means = {rung: np.mean(finals[rung, rates[rung]]) for rung in RATES}
        assert networks[f"mean_{which}"].to_dict() == pytest.approx(means)
        changes = [means[row.network] - means[row.reference] for row in table.itertuples()]
        assert table[f"change_{which}"].tolist() == pytest.approx(changes)
    assert table["outcome"].tolist() == ["newly shown", "newly shown", "shown neither way"]
    sections, comparisons, _ = outline(runs, analysis.comparisons(runs))
    assert [section.name for section in sections] == ["tuned"]
    assert [comparison.context.differs for comparison in comparisons] == [{}]  # the untuned ladder has a chapter
    assert "Shown only tuned: resnet to gelu" in " ".join(sections[0].findings)


def test_ordinary_sweep_on_a_holdout_is_no_search(tmp_path: Path) -> None:
    for rate in (1e-3, 2e-3):
        differs = {"recipe.lr": rate}
        for data, more in (({"holdout": 0.1}, {"data.holdout": 0.1}), ({}, {})):
            write_run(tmp_path, "gelu", config={"recipe": {"lr": rate}, "data": data, "differs": differs | more})
    assert not tunings(analysis.load(tmp_path))


def test_each_budget_is_tuned_by_its_own_search(tmp_path: Path) -> None:
    """Also two networks that differ in their recipe alone are tuned apart."""
    best = {(1, 0.1): 2e-3, (1, 0.0): 4e-3, (2, 0.1): 4e-3, (2, 0.0): 2e-3}
    for (epochs, smoothing), winner in best.items():
        recipe = {"epochs": epochs, "label_smoothing": smoothing}
        steps = ROAD["gelu"].steps if smoothing else (*ROAD["gelu"].steps, "sharp")
        differs = {"recipe.epochs": epochs}
        for rate in (2e-3, 4e-3):
            of_rate = differs | ({} if rate == 4e-3 else {"recipe.lr": rate})
            config = {"recipe": recipe | {"lr": rate}, "differs": of_rate | {"data.holdout": 0.1}}
            config |= {
                "data": {"holdout": 0.1},
                "tuning": {"setting": "recipe.lr", "values": [2e-3, 4e-3], "seeds": [7]},
            }
            write_run(tmp_path, None, steps=steps, seed=7, top1=80 + (rate == winner), config=config)
            write_run(tmp_path, None, steps=steps, config={"recipe": recipe | {"lr": rate}, "differs": of_rate})
    found = tunings(analysis.load(tmp_path))
    assert len(found) == 2
    for tuning in found:
        [epochs] = tuning.untuned.runs["epochs"].unique()
        chosen = tuning.search[tuning.search["best"]].set_index("network")["value"].to_dict()
        assert chosen == {"gelu": best[epochs, 0.1], "gelu +sharp": best[epochs, 0.0]}
        assert tuning.search["n"].tolist() == [1, 1, 1, 1]


def test_search_that_goes_on_chooses_nothing(tmp_path: Path) -> None:
    tuned_records(tmp_path)
    summary = next(path for path in tmp_path.glob("nano-gelu-seed100-*/summary.json"))
    summary.write_text(summary.read_text().replace('"done"', '"unfinished"'))
    [tuning] = tunings(analysis.load(tmp_path))
    assert {*tuning.search[tuning.search["best"]]["network"]} == {"resnet", "separate_downsampling"}


def test_intervals_of_a_tuned_ladder_cover() -> None:
    """And choosing by the images that are reported shows up as means that are too high."""
    fair, naive = simulate(on_holdout, 60), simulate(on_test, 60)
    assert fair.coverage == pytest.approx(0.95, abs=0.04)
    assert abs(fair.bias) < 0.1 < 0.25 < naive.bias


TUNED = ("tune=[1e-3,4e-3]", "tuning_seeds=[7]", "tuning_holdout=0.02", "seed=0,1")


def records(here: Path) -> list[tuple[dict, dict]]:
    paths = here.glob("runs/*/config.json")
    return [(json.loads(path.read_text()), json.loads((path.parent / "summary.json").read_text())) for path in paths]


def assert_tuned(here: Path) -> None:
    """Each network was tried with both rates on the holdout, and trained with the better one on all images."""
    runs, networks = records(here), {"resnet": (0.0125, 0.05), "gelu": (1e-3, 4e-3)}
    assert {summary["status"] for _, summary in runs} == {"done"}
    for rung, rates in networks.items():
        of_rung = [(config, summary) for config, summary in runs if config["network"].startswith(rung)]
        search = {c["recipe"]["lr"]: s["top1"] for c, s in of_rung if c["data"]["holdout"]}
        finals = Counter(c["recipe"]["lr"] for c, s in of_rung if not c["data"]["holdout"])
        assert {*search} == {*rates}
        best = max(sorted(search), key=lambda rate: search[rate])
        assert finals == dict.fromkeys({best, rates[1]}, 2)
        assert {s["evaluated_on"] for c, s in of_rung if not c["data"]["holdout"]} == {"test"}


def test_tuned_study_is_one_command(command: Callable, small: tuple[str, ...], here: Path) -> None:
    arguments = ("-m", *small, "rung=resnet,gelu", *TUNED)
    code, out, _ = command(*arguments)
    assert code == 0, out
    assert_tuned(here)
    weights = {path: path.stat().st_mtime_ns for path in here.glob("runs/*/weights.pt")}
    assert command(*arguments).code == 0
    assert weights == {path: path.stat().st_mtime_ns for path in here.glob("runs/*/weights.pt")}
    assert command("-m", "rung=gelu", *TUNED, "recipe.lr=1").err == "error: tune sets recipe.lr; leave it out\n"


def test_runs_that_diverged_are_counted_as_such_and_both_phases_are_one_look(
    command: Callable, small: tuple[str, ...], here: Path
) -> None:
    """Also if more seeds come later, when the best value has results already."""

    def out(*arguments: str) -> str:
        study = ("-m", *small, "rung=gelu", *TUNED[1:], "tune=[1e12,2e-3]", "fail_fast=1", *arguments)
        code, out, _ = command(*study)
        assert code == 0
        return out

    first = out()
    assert "3 of 4 runs are done, 1 diverged, after" in first
    assert "6 runs, 3 of them done already, 1 diverged" in first
    assert "5 of 6 runs are done, 1 diverged, after" in first
    file = here / "runs" / "studies" / "custom.json"
    assert "warning: look 2 at this study" in out("seed=0,1,2")
    assert len(json.loads(file.read_text())["looks"]) == 2


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("tune=[1e-3]",), "tune=[0.001] must be several different values of recipe.lr"),
        (("tune=[1e-3,2e-3]", "data.holdout=0.1"), "tune sets data.holdout; leave it out"),
        (("tune=[1e-3,2e-3]", "seed=100"), "tuning_seeds=[100, 101]: the study has seed 100, too; take others"),
        (
            ("tune=[1,2]", "tuning_setting=recipe.lrr"),
            "tuning_setting=recipe.lrr: a recipe has no such setting; did you mean 'lr'?",
        ),
        (("tune=[1e-3,-1]",), "recipe.lr must be in [0, 1e30], not -1.0"),
    ],
)
def test_impossible_tuning_is_refused_before_anything_trains(
    words: tuple[str, ...], error: str, command: Callable, here: Path
) -> None:
    code, _, err = command("-m", "rung=gelu", *words)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"error: {error}")
    assert not (here / "runs").exists()
