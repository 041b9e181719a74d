"""`analysis.paper`: agreement with the published ladder, against scipy and ladders that agree by design."""

import math

import numpy as np
import pandas as pd
import pytest
from games import play
from scipy import stats

from analysis.estimates import estimate
from analysis.ladder import ladder_table, published_ladder
from analysis.noise import Scores
from analysis.paper import agreement, kendall, paper_table, spearman
from roadmap.conf import ladder
from roadmap.roads import Road

RUNGS = {frozenset(rung.steps): rung for rung in ladder("nano")}
CLEAR = {
    *("stage_ratio", "depthwise_conv", "increase_width", "invert_dimensions", "move_up_depthwise"),
    *("kernel_5", "kernel_7", "kernel_9", "kernel_11", "fewer_activations", "separate_downsampling"),
}  # Table 10: 0.54, -1.23, 2.22, 0.14, -0.72, 0.43, 0.65, 0.65, 0.55, 0.65, 0.50, each beyond twice its own noise


def measured(accuracy, noise=0.0, **arguments):
    """The ladder whose rungs reach what a function says of their published accuracy."""
    return ladder_table(play(lambda steps: accuracy(RUNGS[steps].published.top1), RUNGS, noise, **arguments))


@pytest.fixture(scope="module")
def papers():
    return measured(lambda top1: top1)


def test_the_papers_own_ladder_agrees_with_itself(papers):
    table = paper_table(papers).set_index("rung")
    assert set(table.index[table["clear"].fillna(False)]) == CLEAR
    assert table.loc["gelu", "published_noise"] == pytest.approx(math.hypot(0.14, 0.14))
    assert table["clear"].isna()["modern_recipe"]  # of the first rung the paper has a single run
    assert agreement(papers)[:6] == (11, 11, 11, 11, 0, 1)
    assert agreement(papers)[6:] == pytest.approx((1, 0.9, 1, 1, 0.97, 1), abs=0.03)


def test_the_opposite_is_contradicted():
    found = agreement(measured(lambda top1: 160 - top1))
    assert found[:6] == (11, 11, 0, 0, 11, 1)
    assert (found.tau, found.rho) == pytest.approx((-1, -1))


def test_noise_confirms_and_contradicts_nothing():
    found = agreement(measured(lambda top1: 80, noise=1.0))
    assert found.clear == found.measured == 11
    assert found.confirmed == found.contradicted == 0


def test_table_11_tells_no_noise():
    found = agreement(published_ladder("resnet200"))
    assert (found.clear, found.unknown) == (0, 16)
    assert math.isnan(found.tau)


def test_a_road_with_few_published_numbers_is_compared_where_it_has_them():
    """None of them clear: no noise was published."""
    rungs = [
        {"name": "start"},
        *({"step": step, "published": {"top1": 80, "gflops": 4}} for step in "ab"),
        {"step": "c"},
    ]
    road = Road.from_json({"name": "mine", "rungs": rungs})
    ladder = ladder_table(play(len, [rung.steps for rung in road.rungs], 0.1, road=road))
    assert paper_table(ladder)["rung"].tolist() == ["b"]
    assert agreement(ladder)[:6] == (0, 0, 0, 0, 0, 1)
    assert math.isnan(agreement(ladder).tau)


def test_one_seed_has_a_rank_correlation_and_no_interval():
    found = agreement(measured(lambda top1: top1, noise=0.1, seeds=1))
    assert found.tau > 0.7
    assert math.isnan(found.tau_low)
    assert math.isnan(found.rho_high)


def test_rank_correlations_are_scipys_with_ties():
    one, other = np.random.default_rng(0).integers(0, 9, (2, 40, 17)).astype(float)
    assert kendall(one, other) == pytest.approx(
        [stats.kendalltau(*pair).statistic for pair in zip(one, other, strict=True)]
    )
    assert spearman(one, other) == pytest.approx(
        [stats.spearmanr(*pair).statistic for pair in zip(one, other, strict=True)]
    )


@pytest.mark.parametrize(("follows", "departs", "noise"), [(0.5, 0.8, 0.4), (0.8, 0.3, 0.8), (-0.8, 0.3, 0.8)])
def test_rank_intervals_cover(follows, departs, noise):
    """The paper's ladder followed half way with noise like that of nano scale, and closely with as much noise as steps,
    or turned round.

    Quantiles of draws alone would cover in a tenth of the last two.
    """
    generator = np.random.default_rng(0)
    ladder = published_ladder("resnet50")
    published = ladder["published_top1"].to_numpy()
    covered = []
    for _ in range(60):
        true = follows * published + departs * generator.normal(size=17)
        runs = true[:, None] + noise * generator.normal(size=(17, 3)) + 0.3 * generator.normal(size=3)
        means = estimate(
            Scores({rung: pd.Series(one) for rung, one in enumerate(runs)}), [{rung: 1.0} for rung in range(17)]
        )
        value, error, freedom = np.array([one[:3] for one in means]).T
        margin = stats.t.ppf(0.975, freedom) * error
        found = agreement(ladder.assign(mean=value, mean_low=value - margin, mean_high=value + margin))
        for name, correlation in (("tau", stats.kendalltau), ("rho", stats.spearmanr)):
            truth = correlation(true, published).statistic
            covered.append(getattr(found, f"{name}_low") <= truth <= getattr(found, f"{name}_high"))
    assert np.mean(covered) > 0.88
