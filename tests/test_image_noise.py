"""What is noise of the test images: read from records and saved, against statsmodels and simulations of known truth."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from games import ROAD, comparison
from records import write_correct, write_run
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

import analysis
from analysis.report.__main__ import main
from analysis.report.findings import images_sentence
from analysis.sources.correct_images import Correct
from analysis.statistics.estimates import compare
from analysis.statistics.image_noise import image_error, image_noise

MEAN, OF_IMAGES, OF_NETWORK, OF_SEED, REST = 1.0, 1.5, 0.8, 0.02, 0.5
"""A simulated run is right about an image if these, each times a standard normal, sum to more than 0: an image's
difficulty, for all networks and for one; a seed's luck; and what is left."""


def draw(generator: np.random.Generator, networks: int, seeds: int, images: int) -> tuple[list, np.ndarray]:
    """Of each network, points by seed and image, and the chance of each image; half of what is left is the seed's on
    that image, whichever network."""
    shared, rest = generator.normal(size=(2, seeds, images))
    difficulty = OF_IMAGES * generator.normal(size=images) + MEAN
    answers, chances = [], []
    for _ in range(networks):
        own = difficulty + OF_NETWORK * generator.normal(size=images)
        rest = math.sqrt(0.5) * shared + math.sqrt(0.5) * generator.normal(size=(seeds, images))
        answers.append(100.0 * (own + OF_SEED * generator.normal(size=(seeds, 1)) + REST * rest > 0))
        chances.append(100 * stats.norm.cdf(own / math.hypot(OF_SEED, REST)))
    return answers, np.array(chances)


def squares(answers: np.ndarray) -> pd.Series:
    """Mean squares by statsmodels, of images, of seeds, and of what is left."""
    seeds, images = answers.shape
    table = pd.DataFrame({"x": answers.ravel(), "s": np.repeat(range(seeds), images), "i": [*range(images)] * seeds})
    result = anova_lm(ols("x ~ C(s) + C(i)", table).fit())
    return result["sum_sq"] / result["df"]


def test_the_images_part_is_that_of_an_analysis_of_variance() -> None:
    (one, other), _ = draw(np.random.default_rng(0), 2, 3, 40)
    result = squares(one - other)  # the variance component of images of the differences of the same seeds
    assert image_error([one, other], [1, -1], paired=True) == pytest.approx(
        math.sqrt((result["C(i)"] - result["Residual"]) / 3 / 40)
    )
    other = other[:2]
    by_image = (one.mean(axis=0) - other.mean(axis=0)).var(ddof=1)
    of_seeds = squares(one)["Residual"] / 3 + squares(other)["Residual"] / 2
    assert image_error([one, other], [1, -1], paired=False) == pytest.approx(math.sqrt((by_image - of_seeds) / 40))
    assert math.isnan(image_error([one, other[:1]], [1, -1], paired=False))


def test_intervals_hold_for_other_images_and_other_seeds() -> None:
    """Four networks of one true accuracy: an interval of the seeds alone misses it far too often."""
    generator, sets = np.random.default_rng(1), [frozenset(rung.steps) for rung in ROAD.rungs[:4]]
    sums = [{one: 1.0, other: -1.0} for one, other in itertools.pairwise(sets)]
    covered, variances, truths = [], [], []
    for _ in range(60):
        answers, chances = draw(generator, 4, 3, 300)
        means = {steps: dict(enumerate(one.mean(axis=1))) for steps, one in zip(sets, answers, strict=True)}
        played = comparison(means)
        paths = [f"{steps} {seed}" for steps in sets for seed in range(3)]
        of_seeds = compare(played.scores(), sums)
        correct = {
            path: Correct("", 300, (), np.packbits(right > 0).tobytes())
            for path, right in zip(paths, np.concatenate(answers), strict=True)
        }
        table = image_noise(replace(played, runs=played.runs.assign(path=paths)), correct, sums, of_seeds)
        for low, high in ((of_seeds["low"], of_seeds["high"]), (table["other_low"], table["other_high"])):
            covered.append((low <= 0) & (high >= 0))
        variances += [*(table["image_error"] ** 2 * 300)]
        truths += [*np.diff(chances, axis=0).var(axis=1, ddof=1)]
        assert (table["other_low"] <= of_seeds["low"]).all()
        assert (table["other_p_holm"] >= of_seeds["p_holm"] - 1e-12).all()
    assert np.mean(covered[::2]) < 0.8
    assert np.mean(covered[1::2]) > 0.92
    assert np.mean(variances) == pytest.approx(np.mean(truths), rel=0.05)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two rungs, three seeds, 400 images of which the sixth is unread by one run: 70 and 90 % right, by the image."""
    generator = np.random.default_rng(2)
    difficulty = generator.random(400)
    for rung, share in (("kernel_7", 0.7), ("gelu", 0.9)):
        for seed in range(3):
            right = difficulty + generator.normal(0, 0.03, 400) < share
            unread = [5] if (rung, seed) == ("gelu", 1) else []
            right[unread] = False
            write_correct(write_run(tmp_path, rung, seed=seed), right, unread)
    return tmp_path


def gelu(folder: Path) -> pd.Series:
    runs = analysis.load(folder)
    table = analysis.ladder_table(analysis.comparisons(runs)[0], correct=runs.correct)
    return table.set_index("rung").loc["gelu"]


def test_ladder_and_report_say_what_the_images_add(study: Path, tmp_path: Path) -> None:
    result, runs = gelu(study), analysis.load(study)
    right = {path: one.right() for path, one in runs.correct.items()}
    means = [
        np.mean([right[path] for path in runs.runs["path"] if f"-{rung}-" in path], axis=0)
        for rung in ("gelu", "kernel_7")
    ]
    bootstrap = np.delete(100 * (means[0] - means[1]), 5)[np.random.default_rng(0).integers(0, 399, (4000, 399))]
    assert result["images"] == 399
    assert result["image_error"] == pytest.approx(bootstrap.mean(axis=1).std(), rel=0.05)  # seeds agree on nearly all
    assert result["other_low"] < result["low"] < result["high"] < result["other_high"]
    assert result["other_verdict"] == "up"
    assert main([str(study), "--out", str(tmp_path / "report")]) == 0
    text = (tmp_path / "report" / "report.md").read_text()
    assert "### On other images" in text
    assert f"that of the choice of images (median: {result['image_error']:.2f}), which more seeds do not reduce" in text
    assert "is still shown with the noise of images counted" in text
    kept = pd.read_csv(tmp_path / "report" / "ladder.csv").set_index("rung").loc["gelu"]
    assert kept["image_error"] == pytest.approx(result["image_error"])


def test_any_sum_can_be_asked(study: Path) -> None:
    runs = analysis.load(study)
    [result] = analysis.comparisons(runs)
    one, other = result.scores()
    table = image_noise(result, runs.correct, [{one: 1.0}, {one: 1.0, other: -1.0}])
    assert table["image_error"].notna().all()
    assert compare(result.scores(), [{one: 1.0}])["value"][0] == pytest.approx(
        (table["other_low"] + table["other_high"])[0] / 2
    )


def damaged(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = sorted(folder.glob("*gelu*"))[0] / "correct.json"
        file.write_text(json.dumps(change(json.loads(file.read_text()))))

    return damage


@pytest.mark.parametrize(
    ("damage", "note"),
    [
        (lambda folder: sorted(folder.glob("*gelu*"))[0].joinpath("correct.json").unlink(), ""),
        (damaged(lambda one: one | {"images": "folder b"}), ""),  # evaluated on others
        (damaged(lambda one: [one]), "is not a JSON object"),
        (damaged(lambda one: one | {"count": 10**12}), "is not of 400 evaluation images"),
        (damaged(lambda one: one | {"unread": [399]}), "is not of 400 evaluation images"),
        (damaged(lambda one: one | {"unread": "all"}), "'count' is no integer, or 'unread' no list of integers"),
        (damaged(lambda one: one | {"correct": "zz" * 50}), "'correct' is not in hexadecimal"),
        (damaged(lambda one: one | {"correct": "00" * 50}), "has 0.00 % of the images right, and top1 is "),
        (lambda folder: sorted(folder.glob("*gelu*"))[0].joinpath("correct.json").write_bytes(b"\0"), "is not JSON"),
    ],
)
def test_where_it_is_not_known_nothing_is_said(study: Path, damage: Callable[[Path], None], note: str) -> None:
    damage(study)
    runs = analysis.load(study)
    table = analysis.ladder_table(analysis.comparisons(runs)[0], correct=runs.correct)
    assert table[["image_error", "other_low", "other_p_holm"]].isna().all(axis=None)
    assert images_sentence(table) == ""
    assert len(runs.skipped) == bool(note)
    assert note in "".join(why for _, why in runs.skipped)


def test_saved_runs_keep_it(study: Path, tmp_path: Path) -> None:
    runs = analysis.load(study)
    runs.save(tmp_path / "kept")
    again = analysis.load(tmp_path / "kept")
    assert [*again.correct.values()] == [*runs.correct.values()]
    assert len(again.correct) == 6
    pd.testing.assert_series_equal(gelu(tmp_path / "kept"), gelu(study))
    runs.correct.clear()
    runs.save(tmp_path / "kept")
    assert not analysis.load(tmp_path / "kept").correct, "an earlier study's"
