"""`analysis.statistics.factors`: crossed studies, compared with the textbook's analysis and with simulations."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from games import comparison
from records import write_run, write_study

import analysis
from analysis.figures.factors import strongest
from analysis.report.__main__ import main
from analysis.statistics.crossing import Factor
from analysis.statistics.factors import Factorial, factors
from roadmap.roads import Road

RUNG = {"kernel_size": 7, "activation": "gelu"}
"""Of the rung "gelu", from which these studies start."""


def write_crossed(folder, value, seeds=3, **switches):
    """A run for every combination of the switches' levels and every seed, as `rung=gelu design.NAME=...` trains it."""
    for levels in product(*switches.values()):
        chosen = dict(zip(switches, levels, strict=True))
        differs = {f"design.{name}": level for name, level in chosen.items() if RUNG.get(name) != level}
        for seed in range(seeds):
            result = value(*levels, seed)
            status = {"status": "diverged"} if result is None else {"top1": round(result, 2)}
            write_run(folder, "gelu", seed=seed, config={"design": chosen, "differs": differs}, **status)
    return folder


def crossed(folder):
    (only,) = analysis.comparisons(analysis.load(folder))
    return factors(only)


@pytest.fixture
def study(tmp_path):
    """4 x 2, with five seeds: the kernel is worth up to 3 points, and GELU 1 with the largest kernel alone."""
    noise = np.random.default_rng(1)

    def value(kernel, activation, seed):
        return 70 + (kernel - 3) / 2 + (kernel == 9) * (activation == "gelu") + 0.3 * seed + noise.normal(0, 0.3)

    return write_crossed(tmp_path, value, 5, kernel_size=[3, 5, 7, 9], activation=["relu", "gelu"])


def test_a_balanced_study_agrees_with_analysis_of_variance(study):
    """Estimates are equal. Errors are those of seeds as blocks, but for noise that is estimated by network and then
    moderated, so that they are close only where all networks are in a sum."""
    factorial = crossed(study)
    runs = factorial.comparison.counted
    data = pd.DataFrame(
        {factor.name: runs["set"].fillna(runs["network"]).map(factor.level_of) for factor in factorial.factors}
    )
    data = data.assign(score=runs["score"], seed=runs["seed"])
    fit = smf.ols("score ~ C(kernel_size, Sum) * C(activation, Sum) + C(seed)", data).fit()
    simple = smf.ols("score ~ C(kernel_size, Treatment('3')) * C(activation, Treatment('relu')) + C(seed)", data).fit()
    additive = smf.ols(
        "score ~ C(kernel_size, Treatment('3')) + C(activation, Treatment('relu')) + C(seed)", data
    ).fit()
    pooled = np.sqrt(fit.mse_resid)
    effects = factorial.effects.set_index(["factor", "level"])
    for (factor, level), row in effects[effects["verdict"] != "reference"].iterrows():
        reference = {"kernel_size": "3", "activation": "relu"}[factor]
        assert row["effect"] == pytest.approx(additive.params[f"C({factor}, Treatment('{reference}'))[T.{level}]"])
        runs_per_level = 5 * {"kernel_size": 2, "activation": 4}[factor]
        of_all_networks = factor == "activation"
        expected = pytest.approx(pooled * np.sqrt(2 / runs_per_level), rel=0.05 if of_all_networks else 0.3)
        assert row["error"] == expected
    for row in factorial.interactions.itertuples():
        term = f"C(kernel_size, Treatment('3'))[T.{row.level}]:C(activation, Treatment('relu'))[T.{row.other_level}]"
        assert row.interaction == pytest.approx(simple.params[term])
    at_3 = factorial.simple_effects.query("factor == 'activation' and other_level == '3' and level == 'gelu'")
    assert at_3["effect"].item() == pytest.approx(simple.params["C(activation, Treatment('relu'))[T.gelu]"])
    assert len(factorial.simple_effects.query("factor == 'activation' and level == 'gelu'")) == 4
    differences = factorial.best.differences
    assert 7 < (differences["p_holm"] / differences["p"]).max() <= 28  # for all pairs, not for its own seven


def test_a_report_of_a_crossed_study_answers_which_switch_mattered(study, tmp_path, capsys):
    """Beside a ladder in the same folder, which neither hides it nor is repeated; titles tell its sections apart."""
    write_study(study / "ladder", ["fewer_norms", "layer_norm", "separate_downsampling"])
    assert main([str(study), "--out", str(tmp_path / "report")]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert (
        "Shown to matter, averaged over the other switch, in points, with 95 % intervals: kernel_size 9 against 3 +3."
        in printed
    )
    assert "Best mean of 8 networks: kernel_size 9, activation gelu" in printed
    text = (tmp_path / "report" / "report.md").read_text()
    titles = [line for line in text.splitlines() if line.startswith("#")]
    assert len(titles) == len({*titles})
    assert {"### Which switch mattered", "### How the switches depend on each other", "### Step by step"} <= {*titles}
    assert text.count("activation gelu against relu | kernel") == 4


def test_a_ladder_and_its_variations_are_not_crossed(tmp_path):
    write_study(tmp_path, seeds=[0, 1])
    write_run(tmp_path, "gelu", config={"design": {"kernel_size": 13}, "differs": {"design.kernel_size": 13}})
    assert crossed(tmp_path) is None


def test_what_a_missing_network_leaves_is_still_estimated(tmp_path):
    """Of 2 x 2 x 2 networks that add up, one diverged: the others determine main effects, but not every interaction."""

    def value(kernel, activation, scale, seed):
        missing = (kernel, activation, scale) == (3, "relu", 0.0)
        return None if missing else 70 + kernel + 2 * (activation == "gelu") + scale + 0.01 * seed * kernel

    factorial = crossed(
        write_crossed(tmp_path, value, kernel_size=[3, 7], activation=["relu", "gelu"], layer_scale=[0.0, 1.0])
    )
    effects = factorial.effects.dropna(subset="effect").set_index("factor")["effect"].to_dict()
    assert effects == pytest.approx({"kernel_size": 4, "activation": 2, "layer_scale": 1}, abs=0.05)
    two = Factorial(factorial.comparison, factorial.factors[:1], "top1")
    assert (factorial.interactions["interaction"].abs() < 0.05).all()
    assert two.best.among == 7


def test_two_by_two_with_one_network_missing_has_no_interaction(tmp_path):
    def value(kernel, activation, seed):
        return None if (kernel, activation) == (3, "relu") else 70 + kernel + seed

    factorial = crossed(write_crossed(tmp_path, value, kernel_size=[3, 7], activation=["relu", "gelu"]))
    assert factorial.interactions["verdict"].tolist() == ["networks missing"]


def test_steps_crossed_with_a_switch_are_one_study(tmp_path):
    """Though a switch that several sets of steps share makes a context of its own, for whole ladders at a width."""
    for rung, kernel, seed in product(("fewer_norms", "layer_norm"), (5, 7), range(3)):
        config = {"design": {"kernel_size": kernel}, "differs": {"design.kernel_size": kernel} if kernel != 7 else {}}
        top1 = 70 + 2 * (rung == "layer_norm") + (kernel == 7) + 0.1 * seed
        write_run(tmp_path, rung, seed=seed, top1=top1, config=config)
    comparisons = analysis.comparisons(analysis.load(tmp_path))
    assert len(comparisons) == 2
    (joined,) = analysis.join_crossed(comparisons)
    effects = factors(joined).effects.dropna(subset="effect")
    assert dict(zip(effects["level"], effects["effect"], strict=True)) == pytest.approx({"7": 1, "with layer_norm": 2})


def test_steps_are_factors_too(tmp_path):
    """Each of two steps of one's own on and off: named after the steps, though these set several switches."""
    layer = {"at": "hidden", "_target_": "my.Layer"}
    for steps in ((), ("grn",), ("wide",), ("grn", "wide")):
        design = {"layers": {"grn": layer} if "grn" in steps else {}, "width": 32 if "wide" in steps else 24}
        for seed in range(3):
            top1 = 70 + 3 * ("grn" in steps) + 0.1 * seed
            road = Road.from_json({"name": "mine", "rungs": [{"name": "start"}]})
            write_run(tmp_path, steps=steps, road=road, seed=seed, top1=top1, config={"design": design})
    factorial = crossed(tmp_path)
    assert [(factor.name, factor.levels) for factor in factorial.factors] == [
        ("wide", ("without wide", "with wide")),
        ("grn", ("without grn", "with grn")),
    ]
    assert factorial.effects["effect"].dropna().tolist() == pytest.approx([0, 3])


def test_what_stopped_runs_leave_is_not_called_noise_and_is_not_the_best(tmp_path, capsys):
    """One of 18 runs: of the network that would be the best. So one switch is tested at some levels, the other not."""
    noise = np.random.default_rng(3)
    write_crossed(
        tmp_path / "runs",
        lambda kernel, activation, seed: 70 + (kernel == 7) * (activation == "gelu") + noise.normal(0, 0.3),
        kernel_size=[3, 5, 7],
        activation=["relu", "gelu"],
    )
    for path in (tmp_path / "runs").glob("*-seed2-*/config.json"):
        if (config := json.loads(path.read_text()))["design"] | RUNG == config["design"]:
            summary = json.loads((path.parent / "summary.json").read_text())
            (path.parent / "summary.json").write_text(json.dumps(summary | {"status": "stopped", "finished": None}))
    assert crossed(tmp_path / "runs").best.among == 5
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "report")]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for sentence in (
        "kernel_size is not shown to matter: 5 against 3 ",
        "With some of their runs stopped early, the effects of kernel_size 7 against 3 and activation gelu against "
        "relu cannot be judged: those have to be trained to the end.",
        "No interaction is shown (the largest of 1 is",
        "With some of their runs stopped early, 1 more interaction cannot be judged: those",
        "Best mean of 5 networks",
        "Stopped early, for being far below the finished runs: 1 of 3 of kernel_size 7, activation gelu. The mean",
    ):
        assert sentence in printed, printed
    assert "None of" not in printed
    assert "more seeds" not in printed


def test_settings_of_one_layer_are_factors_of_their_own(tmp_path):
    """With their values as levels, numbers in order; a layer that is there or not is one factor."""
    layer = {"_target_": "my.Layer", "p": 0.5}
    for at, p, norm, seed in product(("hidden", "output"), (0.25, 0.1, 0.5), (None, "my.Norm"), range(2)):
        other = {"_target_": norm, "at": "spatial"} if norm else None
        design = {"layers": {"x": layer | {"at": at, "p": p}} | ({"y": other} if norm else {})}
        differs = {"design.layers.x.at": at, "design.layers.x.p": p} | ({"design.layers.y": other} if norm else {})
        write_run(tmp_path / "runs", "gelu", seed=seed, config={"design": design, "differs": differs})
    factorial = crossed(tmp_path / "runs")
    assert {factor.name: factor.levels for factor in factorial.factors} == {
        "layers.x.at": ("hidden", "output"),
        "layers.x.p": ("0.1", "0.25", "0.5"),
        "layers.y": ("none", "Norm"),
    }
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "report")]) == 0


def test_a_figure_has_the_other_switch_beside_each_also_if_no_interaction_is_tested(tmp_path):
    def value(kernel, activation, seed):
        return 70 + kernel + (activation == "gelu")

    factorial = crossed(write_crossed(tmp_path, value, 1, kernel_size=[3, 7], activation=["relu", "gelu"]))
    assert factorial.interactions["p"].isna().all()
    assert strongest(factorial, "kernel_size") == "activation"
    assert strongest(factorial, "activation") == "kernel_size"


def test_a_switch_that_is_newer_than_some_records_has_its_default_there(tmp_path):
    write_crossed(tmp_path, lambda kernel, seed: 70 + kernel + 0.1 * seed, kernel_size=[3, 5, 7, 9])
    for path in tmp_path.glob("*/config.json"):
        config = json.loads(path.read_text())
        if config["design"]["kernel_size"] < 7:
            del config["design"]["layers"]
            path.write_text(json.dumps(config))
    (factor,) = crossed(tmp_path).factors
    assert (factor.name, factor.levels) == ("kernel_size", ("3", "5", "7", "9"))


def test_a_level_is_named_whatever_its_letters():
    factor = Factor("norm", ("batch", "my.batchnorm.Norm"), "batch", {})
    assert factor.named("my.batchnorm.Norm") == "norm my.batchnorm.Norm"
    assert Factor("grn", ("without grn", "with grn"), "without grn", {}).named("with grn") == "with grn"


def test_networks_that_are_alike_are_rarely_shown_to_differ(monkeypatch):
    """Of 2 x 3 networks without any effect, in each of three families: the best network, main effects, interactions."""
    monkeypatch.setattr("gc.collect", int)  # statsmodels calls it for every family
    generator, shown, rounds = np.random.default_rng(0), np.zeros(3), 60
    sets = {frozenset({f"a{i}", f"b{j}"}): (f"{i}", f"{j}") for i in range(2) for j in range(3)}
    two = tuple(
        Factor(name, levels, "0", {steps: pair[index] for steps, pair in sets.items()})
        for index, (name, levels) in enumerate([("a", ("0", "1")), ("b", ("0", "1", "2"))])
    )
    played = comparison({steps: dict.fromkeys(range(3), 80.0) for steps in sets})
    for _ in range(rounds):
        noise = generator.normal(0, 0.5, len(played.runs))
        factorial = Factorial(replace(played, runs=played.runs.assign(score=80 + noise)), two, "top1")
        tables = factorial.best.differences, factorial.effects, factorial.interactions
        shown += [table["verdict"].isin(("up", "down")).any() for table in tables]
    assert (shown / rounds < 0.12).all()
