"""Studies of budgets: which comparisons they are, slopes and crossings against independent ones, and the report."""

import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from records import write_run
from scipy import stats

import analysis
from analysis.report.across import outline
from analysis.report.budgets import budget_findings
from analysis.report.files import write_report
from analysis.statistics import budgets
from analysis.statistics.budgets import budget_studies, budget_table, correlation, fit, shared_noise, slope_table
from analysis.statistics.estimates import Estimate, estimate
from analysis.statistics.noise import Scores
from roadmap.conf import OURS

RUNGS = ("resnet", "modern_recipe", "kernel_7", "separate_downsampling")
NOISE = (0.3, -0.1, -0.2)


def write_budget(folder, epochs, top1, *, seeds=(0, 1, 2), subset=1.0, regime="nano", lr=None, more=None):
    """Runs of these rungs, each with its accuracy and a noise that differs between rungs and budgets."""
    for index, (rung, mean) in enumerate(top1.items()):
        for seed in seeds:
            noise = (1 + 0.1 * index) * NOISE[(seed + index + epochs) % 3]
            differs = {"recipe.epochs": epochs} | ({"data.subset": subset} if subset < 1 else {})
            differs |= {} if lr is None else {"recipe.lr": lr}
            changed = {"epochs": epochs} | ({} if lr is None else {"lr": lr})
            config = {"recipe": changed, "data": {"subset": subset}, "differs": differs}
            write_run(folder, rung, seed=seed, top1=mean + noise, regime=regime, config=config, **(more or {}))


def studies(folder):
    return budget_studies(analysis.comparisons(analysis.load(folder)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One, two, four and eight epochs; and one epoch's updates on an eighth, a quarter and a half of the images."""
    folder = tmp_path_factory.mktemp("budgets")
    for doublings, epochs in enumerate((1, 2, 4, 8)):
        means = 70 + 3 * doublings + np.cumsum([0, -2 + 1.0 * doublings, 0.5, 1 - 0.5 * doublings])
        write_budget(folder, epochs, dict(zip(RUNGS, means, strict=True)))
    for doublings, subset in enumerate((0.125, 0.25, 0.5)):
        means = 60 + 4 * doublings + np.cumsum([0, -3, 0.2, 2.5 * doublings])
        write_budget(folder, round(1 / subset), dict(zip(RUNGS, means, strict=True)), subset=subset)
    return folder


def test_a_report_says_whether_each_step_pays_with_more_training(folder, tmp_path):
    runs = analysis.load(folder)
    report = write_report(runs, analysis.comparisons(runs), tmp_path)
    by_epochs, by_images = report.across
    assert [section.title for section in report.across] == [
        "Does it pay with more training?",
        "Does it pay with more training images?",
    ]
    ends, rise, fall, *_ = by_epochs.findings
    assert ends.startswith(
        "From the first rung to the last, resnet to separate_downsampling: −0.50 points at 1 epoch, "
    )
    assert "+0.50 per doubling" in ends
    assert rise.startswith("Effects that are shown to rise: enhanced training recipe, by +1.00 points per doubling (")
    assert fall.startswith("Effects that are shown to fall: Micro design, by −0.50 points per doubling (")
    assert any(
        sentence.startswith("The line of enhanced training recipe crosses zero at 4 epochs") and "beyond" in sentence
        for sentence in by_epochs.findings
    )
    assert any("modern_recipe to kernel_7" in sentence and "Not shown" in sentence for sentence in by_epochs.findings)
    assert "1,250, 2,500, 5,000, 10,000 training images, with the same number of updates" in by_images.paragraphs[0]
    chapters = [(chapter.comparison.context.epochs, chapter.comparison.train_images) for chapter in report.chapters]
    assert sorted(chapters) == [(1, 10_000), (8, 10_000)]  # the largest budgets alone: of epochs, and of images
    page = (tmp_path / "report.html").read_text()
    assert "Where these cross zero, if they do, is not within what was measured" in page
    assert {path.name for path in tmp_path.glob("*.csv")} >= {"budgets-slopes.csv", "subsets-by-budget.csv"}


def test_a_slope_is_that_of_least_squares_with_each_budgets_own_noise():
    x, errors = np.array([0.0, 1.0, 2.0, 4.0]), np.array([0.4, 0.3, 0.2, 0.1])
    values, freedom = np.array([-1.0, 0.3, 0.9, 4.2]), np.array([2.0, 4.0, 5.0, 6.0])
    line = fit(x, [Estimate(*row) for row in zip(values, errors, freedom, strict=True)])
    model = sm.OLS(values, sm.add_constant(x))
    weights = model.fit().normalized_cov_params @ model.exog.T
    assert line.slope.value == pytest.approx(model.fit().params[1])
    assert line.level == pytest.approx(model.fit().params[0])
    assert line.slope.error == pytest.approx(math.sqrt((weights @ np.diag(errors**2) @ weights.T)[1, 1]))
    parts = (weights[1] * errors) ** 2
    assert line.slope.freedom == pytest.approx(parts.sum() ** 2 / (parts**2 / freedom).sum())
    curved = sm.OLS(values, np.column_stack([np.ones(4), x, x**2])).fit().params[2]
    assert line.curvature.value == pytest.approx(curved)


def test_a_crossing_is_fiellers():
    x, values, error = np.array([0.0, 1.0, 2.0, 3.0]), np.array([-1.9, -0.4, 0.7, 2.3]), 0.3
    line = fit(x, [Estimate(value, error, 1e9) for value in values])
    slope, mean, z2 = line.slope.value, values.mean(), stats.norm.ppf(0.975) ** 2
    of_slope, of_mean = error**2 / ((x - x.mean()) ** 2).sum(), error**2 / 4
    roots = np.roots([slope**2 - z2 * of_slope, 2 * mean * slope, mean**2 - z2 * of_mean])
    assert line.where == budgets.WITHIN
    assert [line.low, line.high] == pytest.approx(sorted(roots + x.mean()), abs=2e-3)
    assert line.crossing == pytest.approx(x.mean() - mean / slope)


@pytest.mark.parametrize(
    ("values", "error", "where"),
    [
        ((1, 2, 3), 0.2, budgets.ABOVE),
        ((-1, -2, -3), 0.2, budgets.BELOW),
        ((-0.1, 1, 2), 0.2, budgets.EARLY),
        ((-2, -1, 0.1), 0.2, budgets.LATE),
        ((0.5, 0.45, 0.5), 0.3, budgets.EITHER),  # the set is unbounded, with a gap in what was measured
        ((0.1, -0.1, 0.2), 0.5, budgets.ANYWHERE),
        ((-3, 3, -3), 0.2, budgets.BENT),
    ],
)
def test_a_crossing_that_was_not_measured_is_not_invented(values, error, where):
    line = fit([0, 1, 2], [Estimate(value, error, 1e9) for value in values])
    assert (line.where, math.isnan(line.low) or math.isnan(line.high)) == (where, True)


def test_intervals_of_slopes_and_crossings_cover():
    """Two networks, so that the degrees of freedom are few; the smallest budget is the noisiest."""
    generator = np.random.default_rng(0)
    x, scales, studies = np.arange(3.0), np.array([1.0, 0.7, 0.5])[:, None, None], 500
    covered, wrong, bent = np.zeros((3, studies), bool)
    for study in range(studies):
        values = scales * generator.normal(size=(3, 2, 3)) + generator.normal(size=(3, 1, 3))
        values[:, 1] += 3 * (x - 0.8)[:, None]
        effects = [estimate(Scores(dict(enumerate(map(pd.Series, row)))), [{1: 1.0, 0: -1.0}])[0] for row in values]
        line = fit(x, effects)
        covered[study] = abs(line.slope.value - 3) <= stats.t.ppf(0.975, line.slope.freedom) * line.slope.error
        wrong[study] = line.low > 0.8 or line.high < 0.8 or line.where in (budgets.ABOVE, budgets.BELOW)
        bent[study] = line.where == budgets.BENT
    assert 0.935 < covered.mean() < 0.98  # with the normal distribution instead of Student's t: 0.90
    assert wrong.mean() < 0.06
    assert bent.mean() < 0.06


def test_a_seed_that_does_the_same_with_every_budget_is_noticed():
    generator = np.random.default_rng(0)
    independent = [correlation(generator.normal(size=(4, 5, 3)))[1] for _ in range(1000)]
    assert stats.kstest(independent, "uniform").pvalue > 0.01
    shared = [
        correlation(np.sqrt(0.5) * (generator.normal(size=(4, 5, 3)) + generator.normal(size=(1, 5, 3))))
        for _ in range(300)
    ]
    assert np.mean([value for value, _ in shared]) == pytest.approx(0.5, abs=0.06)


def test_what_is_missing_is_said_and_not_used(tmp_path):
    """The last rung lacks a budget, and has one seed with another."""
    for doublings, epochs in enumerate((1, 2, 4, 8)):
        means = dict(zip(RUNGS, 70 + np.cumsum([0, doublings, 1.0, 1.0]), strict=True))
        last = {"separate_downsampling": means.pop("separate_downsampling")}
        write_budget(tmp_path, epochs, means)
        write_budget(tmp_path, epochs, last, seeds={1: (), 2: (0,)}.get(epochs, (0, 1, 2)))
    (study,) = studies(tmp_path)
    slopes = slope_table(study).set_index("title")
    assert slopes["missing"].to_dict() == {
        "enhanced training recipe": [],
        "modern_recipe to kernel_7": [],
        "Micro design": [1, 2],
        "all steps": [1, 2],
    }
    assert slopes.loc["Micro design", ["budgets", "slope"]].tolist() == pytest.approx([2, 0], abs=0.3)
    cells = budget_table(study).set_index(["title", "budget"])["verdict"]
    assert (cells["Micro design", 1], cells["Micro design", 2]) == ("not measured", "one seed")
    folder = tmp_path / "one_seed"
    for epochs in (1, 2):
        write_budget(folder, epochs, {"resnet": 70.0, "modern_recipe": 71.0}, seeds=(0,))
    (study,) = studies(folder)
    assert slope_table(study)[["slope", "verdict"]].iloc[0].tolist() == [pytest.approx(0, abs=0.7), "one seed"]


def test_what_is_left_of_a_network_with_stopped_runs_is_flagged_and_its_spread_not_used(tmp_path):
    for epochs in (1, 2):
        write_budget(
            tmp_path, epochs, {"resnet": 70.0, "modern_recipe": 71.0, "increase_width": 71.5, "kernel_7": 72.0}
        )
    before = shared_noise(*studies(tmp_path))
    for epochs in (1, 2):
        write_budget(tmp_path, epochs, {"separate_downsampling": 73.0}, seeds=(0, 1))
        write_budget(tmp_path, epochs, {"separate_downsampling": 73.0}, seeds=(2,), more={"status": "stopped"})
    (study,) = studies(tmp_path)
    table = budget_table(study).set_index("title")
    assert set(table["verdict"][table["survivors"]]) == {"some stopped"}
    assert {*table.index[table["survivors"]]} == {"Micro design", "all steps"}
    assert shared_noise(study) == pytest.approx(before)
    assert not np.isnan(before).any()


def test_a_smaller_budget_keeps_its_chapter_if_some_of_its_networks_are_not_followed(tmp_path):
    for epochs in (1, 3):
        write_budget(tmp_path, epochs, {"kernel_7": 71.0, "gelu": 72.0})
    runs = analysis.load(tmp_path)
    (_, chapters, _) = outline(runs, analysis.comparisons(runs))
    assert [chapter.context.epochs for chapter in chapters] == [3]
    for epochs in (1, 3):
        differs = {"recipe.epochs": epochs, "design.activation": "silu"}
        config = {"recipe": {"epochs": epochs}, "design": {"activation": "silu"}, "differs": differs}
        for seed in range(3):
            write_run(tmp_path, "gelu", seed=seed, top1=72.5 + seed / 10, config=config)
    runs = analysis.load(tmp_path)
    (_, chapters, _) = outline(runs, analysis.comparisons(runs))
    assert sorted(chapter.context.epochs for chapter in chapters) == [1, 3]


def test_steps_beside_the_road_are_followed_too(tmp_path):
    """One left out, and one that is on no rung: added to a rung, and to that network as well."""
    last = OURS.road().adopted
    networks = {
        last: 80.0,
        tuple(step for step in last if step != "gelu"): 79.0,
        (*last, "grn"): 80.5,
        tuple(step for step in (*last, "grn") if step != "gelu"): 78.0,
        ("modern_recipe",): 75.0,
    }
    for epochs in (1, 4):
        for steps, top1 in networks.items():
            config = {"recipe": {"epochs": epochs}, "differs": {"recipe.epochs": epochs}}
            for seed in (0, 1):
                write_run(tmp_path, None, seed=seed, steps=steps, top1=top1 * epochs**0.02 + 0.1 * seed, config=config)
    (study,) = studies(tmp_path)
    slopes = slope_table(study).set_index("title")["slope"] / (4**0.02 - 1) * 2
    assert slopes.round(6).to_dict() == {
        "modern_recipe to separate_downsampling": 5.0,
        "ReLU to GELU on separate_downsampling -gelu": 1.0,
        "grn on separate_downsampling": 0.5,
        "grn on separate_downsampling -gelu": -1.0,
    }


def test_budgets_are_equal_for_both_recipes_of_the_paper(tmp_path):
    """Whose batch sizes and numbers of epochs differ. The paper's ladder alone is no study of budgets."""
    pair = {"resnet": 76.0, "modern_recipe": 78.0}
    write_budget(tmp_path, 90, {"resnet": 76.0}, regime="resnet50")
    write_budget(tmp_path, 300, {"modern_recipe": 78.8, "kernel_7": 80.6}, regime="resnet50")
    assert studies(tmp_path) == []
    write_budget(tmp_path, 90, {"modern_recipe": 77.0}, regime="resnet50")
    write_budget(tmp_path, 300, {"resnet": 76.5}, regime="resnet50")
    (study,) = studies(tmp_path)
    assert study.budgets == [90, 300]
    (row,) = slope_table(study).to_dict("records")
    assert (row["network"], row["reference"]) == ("modern_recipe", "resnet")
    assert row["slope"] == pytest.approx((2.3 - 1.0) / math.log2(300 / 90), abs=0.3)
    other = tmp_path / "other"  # a learning rate of its own is another context, with one budget
    write_budget(other, 1, pair)
    write_budget(other, 2, pair, lr=0.5)
    assert studies(other) == []
    write_budget(other, 4, pair)
    assert [study.budgets for study in studies(other)] == [[1, 4]]


def test_a_budget_of_the_two_ends_alone_lengthens_their_line_and_leaves_the_other_effects_as_they_were(tmp_path):
    means = dict(zip(RUNGS, (70, 72, 71, 73), strict=True))
    for epochs in (1, 2, 4):
        write_budget(tmp_path / "runs", epochs, means)
    (before,) = studies(tmp_path / "runs")
    write_budget(tmp_path / "runs", 16, {rung: means[rung] + 9 for rung in (RUNGS[0], RUNGS[-1])})
    (after,) = studies(tmp_path / "runs")
    assert (after.budgets, after.complete) == ([1, 2, 4, 16], [1, 2, 4])
    old, new = slope_table(before), slope_table(after)
    effect = ["effect", "effect_low", "effect_high", "effect_p_holm"]
    pd.testing.assert_frame_equal(old[effect], new[effect])
    assert new["budgets"].tolist() == [*old["budgets"][:-1], old["budgets"].iloc[-1] + 1]
    sentences = budget_findings(new, budget_table(after))
    assert any(
        sentence.startswith("At 4 epochs, the largest budget with which most effects were measured, ")
        for sentence in sentences
    )
    assert "at 16 epochs" in sentences[0]


def test_a_network_that_lacks_the_largest_budget_does_not_hide_the_others_there(tmp_path):
    rungs = ("resnet", "modern_recipe", "increase_width", "kernel_7", "gelu", "separate_downsampling")
    for doublings, epochs in enumerate((1, 2, 4)):
        means = dict(zip(rungs, 70 + np.cumsum([0, doublings, 2.0 + 3 * doublings, -1.0, 2.0, 1.0]), strict=True))
        if epochs == 4:
            del means["increase_width"]
        write_budget(tmp_path, epochs, means)
    (study,) = studies(tmp_path)
    assert study.complete == [1, 2, 4]
    slopes, by_budget = slope_table(study), budget_table(study)
    lacking = ["modern_recipe to increase_width", "increase_width to kernel_7"]
    assert slopes["title"][slopes["effect"].isna()].tolist() == lacking
    findings = budget_findings(slopes, by_budget)
    assert any("At 4 epochs, the largest budget, 3 of 3 effects measured there are shown" in each for each in findings)
    assert f"The lines of these effects are without 4 epochs: {' and '.join(lacking)}." in findings
    (rise,) = [each for each in findings if each.startswith("Effects that are shown to rise: ")]
    assert "to –" not in rise
    assert "modern_recipe to increase_width, by +3.00 points per doubling (" in rise
    assert not np.isnan(shared_noise(study)).any()


def test_noise_is_not_known_to_be_shared_where_one_budget_has_most_networks(tmp_path):
    """Pairs at either end have two budgets, that between them all three."""
    rungs = ("resnet", "modern_recipe", "kernel_7", "gelu", "separate_downsampling")
    means = dict.fromkeys(rungs, 70.0)
    write_budget(tmp_path, 1, {rung: means[rung] for rung in rungs[:2]})
    write_budget(tmp_path, 2, means)
    write_budget(tmp_path, 4, {rung: means[rung] for rung in rungs[3:]})
    (study,) = studies(tmp_path)
    assert study.complete == [2]
    assert np.isnan(shared_noise(study)).all()
