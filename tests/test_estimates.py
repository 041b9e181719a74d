"""`analysis.estimates`: intervals and tests, against scipy, statsmodels and simulations with known answers."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from analysis.estimates import PRIOR, Estimate, adjust, compare, conclude, detectable, estimate, moderate, noise

A = pd.Series({0: 80.1, 1: 80.9, 2: 81.3})
B = pd.Series({0: 79.0, 1: 80.2, 2: 79.9})
CHANGE = {"a": 1.0, "b": -1.0}


def compare_two(a, b):
    return compare({"a": pd.Series(a, dtype=float), "b": pd.Series(b, dtype=float)}, [CHANGE]).iloc[0]


# Two networks: what a textbook says


def test_the_same_seeds_are_paired():
    found = compare_two(A, B)
    truth = stats.ttest_rel(A, B)
    assert found[["value", "p", "freedom"]].tolist() == pytest.approx([(A - B).mean(), truth.pvalue, 2])
    assert found[["low", "high"]].tolist() == pytest.approx(list(truth.confidence_interval(0.95)))
    assert found["method"] == "paired t"


def test_other_seeds_are_welchs():
    other = pd.Series({7: 79.0, 8: 80.2, 9: 79.9, 10: 79.4})
    found = compare_two(A, other)
    truth = stats.ttest_ind(A, other, equal_var=False)
    assert found[["p", "freedom"]].tolist() == pytest.approx([truth.pvalue, truth.df])
    assert found[["low", "high"]].tolist() == pytest.approx(list(truth.confidence_interval(0.95)))
    assert found["method"] == "Welch t"


def test_a_mean_is_students():
    found = compare({"a": A}, [{"a": 1.0}]).iloc[0]
    truth = stats.ttest_1samp(A, 0).confidence_interval(0.95)
    assert found[["low", "high"]].tolist() == pytest.approx(list(truth))
    assert found["method"] == "t"


def test_pairing_is_by_seed_not_by_order():
    pd.testing.assert_series_equal(compare_two(A, B[[2, 0, 1]]), compare_two(A, B))


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ({0: 81.0, 1: 82.0, 2: 83.0}, {0: 80.0, 1: 81.0, 2: 82.1}, "up"),
        ({0: 80.0, 1: 81.0, 2: 82.1}, {0: 81.0, 1: 82.0, 2: 83.0}, "down"),
        ({0: 80.0, 1: 82.0}, {0: 81.0, 1: 80.0}, "not distinguishable"),
        ({0: 80.0}, {0: 81.0}, "one seed"),
        ({0: 80.0}, {0: 81.0, 1: 82.0}, "one seed"),
        ({}, {0: 81.0}, ""),
    ],
)
def test_verdict(a, b, verdict):
    assert compare_two(a, b)["verdict"] == verdict


def test_what_never_varies_is_exact_also_with_one_seed():
    macs = {"a": pd.Series({0: 5e9, 1: 5e9}), "b": pd.Series({0: 4e9, 2: 4e9}), "c": pd.Series({0: 4e9})}
    found = compare(macs, [CHANGE, {"b": 1, "c": -1}])
    assert found[["value", "low", "high", "detectable"]].values.tolist() == [[1e9, 1e9, 1e9, 0], [0, 0, 0, 0]]
    assert found["verdict"].tolist() == ["up", "not distinguishable"]


def test_one_network_that_does_not_vary_among_others_that_do_is_not_taken_as_exact():
    """Two seeds that agree by chance, to the hundredth of a percent, prove nothing."""
    generator = np.random.default_rng(0)
    scores = {name: pd.Series(80 + generator.normal(size=2)) for name in "bcdef"} | {"a": pd.Series([80.0, 80.0])}
    mean, change = compare(scores, [{"a": 1.0}, CHANGE])[["low", "high"]].values.tolist()
    assert mean[1] - mean[0] > 0.5
    assert change[1] - change[0] > 0.5


# Noise


def test_noise_is_what_networks_and_seeds_leave_over():
    """Against the residuals of a least-squares fit, in a table with holes."""
    generator = np.random.default_rng(0)
    values = generator.normal(size=(3, 5)) + 3 * generator.normal(size=5)
    values[0, 1] = values[2, 4] = np.nan
    network, seed = np.nonzero(~np.isnan(values))
    design = np.column_stack([np.eye(3)[network], np.eye(5)[seed]])
    hat = design @ np.linalg.pinv(design)
    left = values[network, seed] - hat @ values[network, seed]
    found = noise(values, paired=True)
    freedom = np.array([(1 - np.diag(hat))[network == one].sum() for one in range(3)])
    assert found.freedom == pytest.approx(freedom)
    assert found.total == pytest.approx(len(seed) - np.linalg.matrix_rank(design))
    assert found.variance == pytest.approx([(left[network == one] ** 2).sum() / freedom[one] for one in range(3)])


def test_each_variance_is_drawn_towards_that_of_all():
    freedom = np.full(4, 2.0)
    found = moderate(np.array([2.0, 4.0, 6.0, 12.0]), freedom)
    assert found.variance == pytest.approx((PRIOR * 3 + np.array([2, 4, 6, 12])) / (PRIOR + 2))  # of all: 24 / 8
    assert found.freedom.tolist() == [PRIOR + 2] * 4
    many = moderate(np.array([2.0, 4.0, 6.0, 12.0]) * 1e3, freedom * 1e3)
    assert many.variance == pytest.approx([1, 2, 3, 6], rel=0.01)  # many seeds speak for themselves


def test_few_networks_stand_for_themselves_and_one_seed_says_nothing():
    squares, freedom = np.array([2.0, 4.0, 6.0, 0.0]), np.array([2.0, 2.0, 2.0, 0.0])
    found = moderate(squares, freedom)
    assert found.variance[:3].tolist() == [1, 2, 3]
    assert math.isnan(found.variance[3])
    assert found.freedom.tolist() == [2, 2, 2, 0]


def test_no_network_is_known_better_than_all_together():
    scores = {name: pd.Series(np.random.default_rng(index).normal(size=2)) for index, name in enumerate("abcd")}
    found = compare(scores, [CHANGE, {"a": 1.0}])
    assert (found["freedom"] <= [3, 4]).all()  # paired: a seed's worth goes to the effects of seeds


# Corrections and power


def test_holm_by_hand():
    p = pd.Series([0.01, 0.04, math.nan, 0.03, 0.005])
    assert adjust(p).tolist() == pytest.approx([0.03, 0.06, math.nan, 0.06, 0.02], nan_ok=True)
    assert adjust(pd.Series([math.nan])).isna().all()


def test_holm_decides_the_verdict_and_the_interval_is_its_own():
    estimates = [Estimate(0.7, 0.3, 20, "t"), *[Estimate(0.1, 0.3, 20, "t")] * 9, Estimate(-2.0, 0.3, 20, "t")]
    found = conclude(estimates)
    assert found["p"][0] < 0.05
    assert found["low"][0] > 0
    assert found["verdict"].tolist() == ["not distinguishable"] * 10 + ["down"]


@pytest.mark.parametrize("freedom", [2, 7, 40])
def test_detectable_has_the_power_that_statsmodels_gives_it(freedom):
    size = detectable(0.5, freedom) / 0.5 / math.sqrt(freedom + 1)  # its effect is of n = freedom + 1 values
    assert TTestPower().power(size, freedom + 1, 0.05, df=freedom) == pytest.approx(0.8, abs=1e-3)


# Simulations: do 95 % intervals cover in 95 of 100 studies, and are 95 of 100 free of false verdicts?

RUNGS, SEED_EFFECT = 17, 0.6
LADDER = [{rung: 1.0, rung - 1: -1.0} for rung in range(1, RUNGS)]
LEAVE_ONE_OUT = [{0: 1.0, rung: -1.0} for rung in range(1, RUNGS)]
MEANS = [{rung: 1.0} for rung in range(RUNGS)]
ALIKE = np.ones(RUNGS)
NOISY = np.where(np.arange(RUNGS) == 8, 3.0, 1.0)
VARIED = np.exp(0.5 * stats.norm.ppf((np.random.default_rng(1).permutation(RUNGS) + 0.5) / RUNGS))


def simulate(sums, noises, seeds=lambda rung: range(3), studies=300):
    """For each study, whose true means are all 0: which intervals cover that, and whether Holm shows anything."""
    generator = np.random.default_rng(0)
    covered, false = [], 0
    for _ in range(studies):
        effects = SEED_EFFECT * generator.normal(size=3 * RUNGS)
        scores = {
            rung: pd.Series(effects[seeds(rung)] + scale * generator.normal(size=len(seeds(rung))), seeds(rung))
            for rung, scale in enumerate(noises)
        }
        value, error, freedom = np.array([one[:3] for one in estimate(scores, sums)]).T
        p = 2 * stats.t.sf(np.abs(value / error), freedom)
        covered.append(p > 0.05)
        false += p.min() < 0.05 / len(p)  # Holm's first step: without it, none
    return np.mean(covered), np.mean(covered, axis=0), false / studies


@pytest.mark.parametrize(
    ("sums", "noises", "seeds"),
    [
        (LADDER, ALIKE, lambda rung: range(3)),
        (LADDER, ALIKE, lambda rung: range(2)),
        (LADDER, NOISY, lambda rung: range(3)),
        (LADDER, VARIED, lambda rung: range(3)),
        (LADDER, ALIKE, lambda rung: range(3 * rung, 3 * rung + 3)),  # Welch
        (LADDER, NOISY, lambda rung: range(5 if rung % 2 else 3)),
        (LEAVE_ONE_OUT, ALIKE, lambda rung: range(3)),
        (MEANS, ALIKE, lambda rung: range(3)),
        (LADDER[:3], ALIKE[:4], lambda rung: range(3)),
        (LADDER[:2], ALIKE[:3], lambda rung: range(3)),
    ],
)
def test_intervals_cover_and_verdicts_hold_for_the_family(sums, noises, seeds):
    """300 studies tell a family-wise error of 5 % from one of 10 %, and, of thousands of intervals, coverage to 1 %."""
    coverage, _, false = simulate(sums, noises, seeds)
    assert 0.93 < coverage < 0.985
    if len(sums[0]) > 1:
        assert false < 0.09


def test_a_noisy_networks_own_changes_are_covered_less_and_rarely_shown():
    """What drawing variances together costs where one network has thrice the noise of the others: docs/analysis.md."""
    _, each, _ = simulate(LADDER, NOISY)
    assert 0.82 < each[7:9].mean() < 0.93
    assert each[:6].mean() > 0.95


def test_conclude_is_empty_of_nothing():
    assert conclude([]).empty
    assert compare({}, [CHANGE])["verdict"].tolist() == [""]
