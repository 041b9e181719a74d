"""`analysis.statistics.datasets`: the same effects on several datasets, and their mean."""

import numpy as np
import pandas as pd
import pytest
from records import write_run
from scipy import optimize, stats
from statsmodels.stats.oneway import anova_oneway

import analysis
from analysis.report.__main__ import main
from analysis.statistics.datasets import _heterogeneity, by_dataset

GELU = {"cifar10": 1.0, "cifar100": 2.5, "fashion_mnist": 0.5}
"""What GELU brings on each."""


@pytest.fixture
def study(tmp_path):
    noise = np.random.default_rng(0)
    for name, gain in GELU.items():
        for rung in ("move_up_depthwise", "kernel_7", "gelu"):
            for seed in range(4):
                top1 = round(70 + gain * (rung == "gelu") + noise.normal(0, 0.2), 2)
                write_run(tmp_path, rung, seed=seed, top1=top1, config={"data": {"name": name}})
    return tmp_path


def test_the_mean_is_that_of_paule_and_mandel_with_the_interval_of_hartung_and_knapp(study):
    table = analysis.across_datasets(analysis.comparisons(analysis.load(study)))
    of_gelu = table[table["effect"] == "ReLU to GELU"]
    single, (mean,) = of_gelu[of_gelu["dataset"] != "mean"], of_gelu[of_gelu["dataset"] == "mean"].itertuples()
    values, variances = single["value"].to_numpy(), single["error"].to_numpy() ** 2

    def excess(tau_squared):
        weights = 1 / (variances + tau_squared)
        return weights @ (values - np.average(values, weights=weights)) ** 2 - 2

    tau_squared = optimize.brentq(excess, 0, 10)
    weights = 1 / (variances + tau_squared)
    expected = np.average(values, weights=weights)
    error = np.sqrt(weights @ (values - expected) ** 2 / 2 / weights.sum())
    assert [mean.value, mean.tau] == pytest.approx([expected, np.sqrt(tau_squared)], rel=1e-3)
    assert mean.high - mean.low == pytest.approx(2 * stats.t.ppf(0.975, 2) * error, rel=1e-3)
    assert mean.verdict == "not distinguishable"  # though it is shown on each: three datasets are few
    assert mean.p_heterogeneity < 0.001


def test_effects_of_few_seeds_are_not_taken_to_differ():
    """Welch's test is that of statsmodels, where effects are means of runs; Cochran's Q is wrong for one in five."""
    generator, rejected = np.random.default_rng(0), []
    for _ in range(300):
        runs = [generator.normal(size=3) for _ in range(3)]
        errors, means = [run.std(ddof=1) / np.sqrt(3) for run in runs], [run.mean() for run in runs]
        p = _heterogeneity(pd.DataFrame({"value": means, "error": errors, "freedom": 2.0}))
        assert p == pytest.approx(anova_oneway(runs, use_var="unequal").pvalue)
        rejected.append(p < 0.05)
    assert np.mean(rejected) < 0.08


def test_only_the_dataset_may_differ(study):
    """Nor are two copies of the same images two datasets."""
    write_run(study, "gelu", config={"data": {"name": "svhn"}, "recipe": {"lr": 0.1}, "differs": {"recipe.lr": 0.1}})
    write_run(study, "gelu", config={"data": {"name": "fashion_mnist_sample"}})
    comparisons = analysis.comparisons(analysis.load(study))
    assert len(comparisons) == 5
    (group,) = by_dataset(comparisons)
    assert {comparison.context.data["name"] for comparison in group} == GELU.keys()
    with pytest.raises(ValueError, match="at least two datasets"):
        analysis.across_datasets(comparisons[:1])


def test_the_report_begins_with_what_holds_across_datasets(study, tmp_path, capsys):
    assert main([str(study), "--out", str(tmp_path / "report")]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Across 3 datasets")
    assert "The sign is the same on all datasets for 1 of 2 effects; chance alone gives that for 1 of 4." in " ".join(
        printed.split()
    )
    assert (tmp_path / "report" / "datasets.png").exists()


def test_signs_are_those_of_effects_that_each_dataset_has_with_an_error(study, tmp_path, capsys):
    """Not of one that a dataset lacks, of single seeds, or of what stopped runs leave."""
    for name in GELU:
        for rung, seeds in {
            "fewer_activations": 4 * (name != "cifar10"),
            "fewer_norms": 1 if name == "cifar10" else 4,
            "layer_norm": 4,
        }.items():
            for seed in range(seeds):
                top1 = 75 + 2 * (rung == "fewer_norms") + 0.1 * seed
                stops = (rung, name, seed) == ("layer_norm", "cifar10", 3)
                status = {"status": "stopped"} if stops else {"top1": top1}
                write_run(study, rung, seed=seed, config={"data": {"name": name}}, **status)
    assert main([str(study), "--out", str(tmp_path / "report")]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    sentence = "The sign is the same on all datasets for 1 of 2 effects; chance alone gives that for 1 of 4"
    assert f"{sentence} (not counted: 3 effects without an interval on each dataset)." in printed


@pytest.mark.parametrize(
    ("rungs", "effects"),
    [
        (("modern_recipe", "increase_width", "kernel_7", "gelu"), ["increase_width to kernel_7", "ReLU to GELU"]),
        (("resnet", "gelu"), ["resnet to gelu"]),
    ],
)
def test_a_study_that_skips_rungs_has_the_changes_from_the_nearest(tmp_path, rungs, effects):
    for name in GELU:
        for index, rung in enumerate(rungs):
            for seed in range(3):
                write_run(tmp_path, rung, seed=seed, top1=70 + index + seed / 10, config={"data": {"name": name}})
    table = analysis.across_datasets(analysis.comparisons(analysis.load(tmp_path)))
    means = table[table["dataset"] == "mean"].set_index("effect")["value"]
    assert means[effects].tolist() == pytest.approx([1.0] * len(effects))
