"""`analysis.statistics.paper`: agreement with the published ladder, against scipy and ladders that agree by design."""

import math

import numpy as np
import pandas as pd
import pytest
from games import play
from scipy import stats

from analysis.report.findings import agreement_sentence
from analysis.report.tables import format_agreement, format_paper
from analysis.statistics.estimates import estimate
from analysis.statistics.ladder import ladder_table, published_ladder
from analysis.statistics.noise import Scores
from analysis.statistics.paper import agreement, agreement_table, kendall, paper_table, spearman
from roadmap.conf import ladder
from roadmap.roads import Road

RUNGS = {frozenset(rung.steps): rung for rung in ladder("nano")}
UP = {
    *("modern_recipe", "stage_ratio", "increase_width", "invert_dimensions", "kernel_5", "kernel_7", "kernel_9"),
    *("kernel_11", "fewer_activations", "separate_downsampling"),
}  # Table 10: 2.69, 0.54, 2.22, 0.14, 0.43, 0.65, 0.65, 0.55, 0.65, 0.50, each beyond twice its own noise
DOWN = {"depthwise_conv", "move_up_depthwise"}  # -1.23, -0.72
ABOUT_0 = {"patchify_stem", "gelu", "fewer_norms", "layer_norm"}


def measured(accuracy, noise=0.0, **arguments):
    """The ladder whose rungs reach what a function says of their published accuracy."""
    return ladder_table(play(lambda steps: accuracy(RUNGS[steps].published.top1), RUNGS, noise, **arguments))


def found_here(regime="resnet50", rest="not distinguishable", **shown):
    """A ladder on which these steps are shown to bring so much. Of the others, `rest` is the verdict on a change of
    +0.1; None: they are not measured."""
    table = published_ladder(regime)
    changes = {rung: shown.get(rung, math.nan if rest is None else 0.1) for rung in table["rung"][1:]}
    verdicts = dict.fromkeys(changes, rest or "no finished run")
    verdicts |= {rung: "up" if change > 0 else "down" for rung, change in shown.items()}
    return table.assign(change=table["rung"].map(changes), verdict=table["rung"].map(verdicts).fillna("start"))


@pytest.fixture(scope="module")
def papers():
    return measured(lambda top1: top1, noise=0.005)


def test_the_papers_own_ladder_agrees_with_itself(papers):
    table = paper_table(papers).set_index("rung")
    for verdict, rungs in {"up": UP, "down": DOWN, "about 0": ABOUT_0}.items():
        assert {*table.index[table["published_verdict"] == verdict]} == rungs
    assert table.loc["gelu", "published_noise"] == pytest.approx(math.hypot(0.14, 0.14))
    assert agreement(papers)[:8] == (16, 16, 16, 12, 0, 4, 12, 12)
    assert agreement(papers)[9:] == pytest.approx((1, 0.9, 1, 1, 0.97, 1), abs=0.03)


def test_a_deviation_that_is_not_printed_is_the_ladders_largest():
    """Of the first rung the paper has a single run; 0.18 is that of the "patchify" stem."""
    table = paper_table(found_here())
    assert table["rung"][table["noise_assumed"]].tolist() == ["modern_recipe"]
    assert table["published_noise"][0] == pytest.approx(math.hypot(0.07, 0.18))
    formatted = format_paper(table)
    assert [row[2].text for row in formatted.rows][:2] == ["0.19*", "0.10"]
    assert "* Where the paper prints no deviation, the largest of its ladder is assumed." in formatted.note


def test_the_opposite_way_is_opposite():
    result = agreement(measured(lambda top1: 160 - top1, noise=0.005))
    assert result[:9] == (16, 16, 16, 0, 12, 4, 12, 0, 1)
    assert (result.tau, result.rho) == pytest.approx((-1, -1), abs=0.01)


def test_noise_confirms_and_contradicts_nothing():
    assert agreement(measured(lambda top1: 80, noise=1.0))[:6] == (16, 16, 0, 0, 0, 0)


def test_the_table_counts_what_is_measured_by_what_was_found_there_and_here():
    table = paper_table(found_here(modern_recipe=-1.75, stage_ratio=1, gelu=-3, fewer_norms=2))
    assert agreement_table(table).to_numpy().tolist() == [[1, 1, 8], [0, 0, 2], [1, 1, 2]]
    formatted = format_agreement(table)
    assert [cell.text for cell in formatted.rows[2]] == ["about 0", "1", "1", "2"]
    few = paper_table(found_here(rest=None, gelu=-3))
    assert agreement_table(few).to_numpy().tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_table_11_tells_no_noise():
    table, result = paper_table(published_ladder("resnet200")), agreement(published_ladder("resnet200"))
    assert not table["published_verdict"].any()
    assert result[:2] == (16, 0)
    assert math.isnan(result.tau)
    assert math.isnan(result.chance)


def test_a_road_with_few_published_numbers_is_compared_where_it_has_them():
    rungs = [
        {"name": "start"},
        *({"step": step, "published": {"top1": 80, "gflops": 4}} for step in "ab"),
        {"step": "c"},
    ]
    road = Road.from_json({"name": "mine", "rungs": rungs})
    ladder = ladder_table(play(lambda steps: 60 + len(steps), [rung.steps for rung in road.rungs], 0.1, road=road))
    result = agreement(ladder)
    assert paper_table(ladder)["rung"].tolist() == ["b"]
    assert (result.measured, result.judged) == (1, 0)  # a change of 0 has no sign
    assert math.isnan(result.tau)


@pytest.mark.parametrize(
    ("ladder", "words"),
    [
        (
            found_here(
                **{"modern_recipe": -1.75, "invert_dimensions": 2.28, "separate_downsampling": 2.1},
                **{"patchify_stem": -3.41, "fewer_norms": -2.71},
            ),
            "Of the paper’s 16 changes, 5 are shown here. 2 go the paper’s way (inverting dimensions and separate d.s. "
            "conv); 1 goes the opposite way (enhanced training recipe: +2.69 there, −1.75 here); 2 are losses where "
            'the paper finds no clear change ("patchify" stem: +0.15 there, −3.41 here; fewer norms: +0.14 there, '
            "−2.71 here). The other 11 are not shown, so they neither confirm nor contradict the paper. The sign is "
            "the same in 9 of the 12 changes that are clear in the paper, shown or not; if the order of the rungs were",
        ),
        (
            found_here(rest="one seed"),
            "Of the paper’s 16 changes, none is shown here. So nothing here confirms or contradicts the paper. The "
            "sign is the same in 10 of the 12 changes that are clear in the paper; if the order of the rungs were "
            "random, 5 % of ladders would agree in as many or more.",
        ),
        (
            found_here(rest=None, gelu=1.5),
            "Of the paper’s 16 changes, 1 is measured here, and it is shown. It is a gain where the paper finds no "
            "clear change (ReLU to GELU: +0.05 there, +1.50 here).",
        ),
        (
            found_here(rest=None, stage_ratio=1.5, depthwise_conv=-1),
            "Of the paper’s 16 changes, 2 are measured here, both shown. 2 go the paper’s way (stage ratio and "
            "depthwise conv). The sign is the same in both changes that are clear in the paper; if the order of the "
            "rungs were random, 25 % of ladders would agree in as many or more.",
        ),
        (
            found_here("resnet200", **dict.fromkeys(UP | DOWN | ABOUT_0, 1.0) | {"stage_ratio": -1}),
            "The paper gives no standard deviations for this ladder, so none of its changes is clear. Of the paper’s "
            "16 changes, all are shown here. By sign alone, 12 go the paper’s way (enhanced training recipe, "
            '"patchify" stem, '
            "increase width, inverting dimensions, kernel size 5, kernel size 7 and 6 more); 4 go the opposite "
            "way (stage ratio and increase width: +0.19 there, −1.00 here; depthwise conv: −1.05 there, +1.00 here; "
            "move up depthwise conv: −0.60 there, +1.00 here; ReLU to GELU: −0.11 there, +1.00 here). The sign is the "
            "same in 12 of the 16 changes; if the order of the rungs were random, 7 % of ladders would agree in as "
            "many or more.",
        ),
        (found_here("resnet200", modern_recipe=1)[:2], "By sign alone, it goes the paper’s way (enhanced training"),
        (
            found_here(**dict.fromkeys(UP | DOWN | ABOUT_0, 1.0))[:4],
            "Of the paper’s 3 changes, all are shown here.",
        ),
        (found_here(rest=None), ""),
    ],
    ids=["some", "none", "one", "two", "no noise", "one without noise", "all", "nothing measured"],
)
def test_what_was_shown_here_is_told_first(ladder, words):
    text = agreement_sentence(ladder)
    assert words in text
    assert bool(text) == bool(words)


def test_signs_that_share_rungs_agree_by_chance_more_often_or_less_than_coins_do():
    """Of five rungs in a random order the four kernels are all above their parent once in 5, four in a row once in 120:
    coins agree once in 16. And all of Table 10, against accuracies that are noise."""
    kernels = ("kernel_5", "kernel_7", "kernel_9", "kernel_11")
    chain = ("gelu", "fewer_activations", "fewer_norms", "layer_norm")
    for steps, expected in {kernels: 1 / 5, chain: 1 / 120}.items():
        table = found_here(rest=None, **dict.fromkeys(steps, 1.0)).assign(published_std=0.001)
        assert agreement(table).judged == 4
        assert agreement(table).chance == pytest.approx(expected, abs=0.006)
    table = published_ladder().set_index("rung")
    accuracy = pd.DataFrame(np.random.default_rng(1).normal(size=(20_000, 17)), columns=table.index)
    same = sum(
        np.sign(accuracy[rung] - accuracy[table["parent"][rung]]) == np.sign(table["published_change"][rung])
        for rung in UP | DOWN
    )
    for lost in range(4):
        here = {rung: -table["published_change"][rung] for rung in sorted(UP)[:lost]}
        result = agreement(found_here(**dict.fromkeys(DOWN, -1.0) | here))
        assert result.same_sign == 12 - lost
        assert result.chance == pytest.approx((same >= 12 - lost).mean(), abs=0.01)


def test_one_seed_has_a_rank_correlation_and_no_interval():
    result = agreement(measured(lambda top1: top1, noise=0.1, seeds=1))
    assert result.tau > 0.7
    assert math.isnan(result.tau_low)
    assert math.isnan(result.rho_high)


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
        result = agreement(ladder.assign(mean=value, mean_low=value - margin, mean_high=value + margin))
        for name, correlation in (("tau", stats.kendalltau), ("rho", stats.spearmanr)):
            truth = correlation(true, published).statistic
            covered.append(getattr(result, f"{name}_low") <= truth <= getattr(result, f"{name}_high"))
    assert np.mean(covered) > 0.88
