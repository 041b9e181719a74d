"""The uncertainty of weighted sums of networks' means for other images of the same kind as the evaluation images.

The intervals of `estimates` contain the noise of seeds: what other seeds would give on these images. The choice of
images adds noise that is the same for every seed, so that more seeds do not remove it. The score of a run on an image,
0 or 100 points, is modelled as its network's mean plus effects of the seed, the image, and both together
(docs/analysis.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from analysis.measures import VERDICTS
from analysis.sources.correct_images import Correct
from analysis.sources.rows import TOP1
from analysis.statistics.comparison import Comparison
from analysis.statistics.estimates import CONFIDENCE, Weights, adjust, compare

COLUMNS = ("images", "image_error", "other_low", "other_high", "other_p", "other_p_holm", "other_verdict")


def image_noise(
    comparison: Comparison,
    correct: Mapping[str, Correct],
    sums: Sequence[Weights],
    of_seeds: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Intervals, p-values and verdicts of weighted sums of mean top-1 for other images of the same kind.

    Args:
        correct: `Runs.correct`.
        sums: a family of hypotheses: the weights of networks' means, by their keys in `Comparison.scores`.
        of_seeds: the result of `compare` for them, if it is at hand.

    Returns:
        One row per sum: `images`, their number; `image_error`, the standard error (points) due to the choice of images,
        which more seeds do not remove; `other_low`, `other_high`, the 95 % interval for other seeds and other images;
        `other_p`, of the hypothesis that the sum is 0 for these; `other_p_holm` and `other_verdict` as in `conclude`.
        NaN and "" if a record does not say which images a run gets right, if runs were evaluated on different images,
        or if a network has one seed.
    """
    answers = _answers(comparison, correct)
    if not answers:
        return pd.DataFrame(index=range(len(sums)), columns=list(COLUMNS), dtype=float).assign(other_verdict="")
    seeds = compare(comparison.scores(), sums) if of_seeds is None else of_seeds
    rows = [_image_error(answers, weights) for weights in sums]
    table = pd.DataFrame(rows, columns=["images", "image_error"], dtype=float, index=seeds.index)
    value, error, freedom = (seeds[name].to_numpy(float) for name in ("value", "error", "freedom"))
    noise = error, freedom, table["image_error"].to_numpy(), table["images"].to_numpy()
    margin = reach(1 - CONFIDENCE, *noise)
    table["other_low"], table["other_high"] = value - margin, value + margin
    table["other_p"] = _p_value(np.abs(value), *noise)
    known = table["other_p"].notna()
    hypotheses = table["other_p"].fillna(seeds["p"])  # as many as for other seeds alone
    table["other_p_holm"] = adjust(hypotheses, comparison.looks).where(known)
    lost = seeds["verdict"].isin(VERDICTS) & (table["other_p_holm"] >= 1 - CONFIDENCE)
    table["other_verdict"] = seeds["verdict"].mask(lost, "not distinguishable").where(known, "")
    return table


def reach(
    level: float | np.ndarray, error: np.ndarray, freedom: np.ndarray, image_error: np.ndarray, images: np.ndarray
) -> np.ndarray:
    """The half width of an interval for other images at this level (0.05 for 95 %), from the standard errors due to
    seeds and due to images.

    The half widths for each of the two alone are added in squares: unlike Welch and Satterthwaite's, such an interval
    is never narrower than that of the seeds, whose variance is less certain than that of the images.
    """
    quantile = 1 - np.asarray(level) / 2
    return np.hypot(stats.t.ppf(quantile, freedom) * error, stats.t.ppf(quantile, images - 1) * image_error)


def _p_value(distance: np.ndarray, *noise: np.ndarray) -> np.ndarray:
    """The level at which an interval has this half width, by bisection."""
    low, high = np.zeros(len(distance)), np.ones(len(distance))
    for _ in range(50):
        middle = (low + high) / 2
        beyond = reach(middle, *noise) > distance
        low, high = np.where(beyond, middle, low), np.where(beyond, high, middle)
    return np.where(np.isnan(reach(0.5, *noise)), np.nan, high)


def image_error(answers: Sequence[np.ndarray], weights: Sequence[float], paired: bool) -> float:
    """The standard error that images add to a weighted sum of means, beyond what seeds add.

    The variance between images of their means over seeds is due to the images and to the interaction of seeds and
    images. The latter is estimated from how far seeds differ on the same image, and subtracted: the noise of the seeds
    contains it already.

    Args:
        answers: for each network, (seeds, images).
        paired: the seeds of all networks are the same, in the same order, so that interactions that all networks share
            cancel as their weights say.
    """
    if paired:
        answers, weights = [np.tensordot(weights, np.stack(answers), 1)], [1.0]
    if min(map(len, answers)) < 2 or answers[0].shape[1] < 2:
        return math.nan
    count = answers[0].shape[1]
    networks = list(zip(weights, answers, strict=True))
    by_image = sum(weight * runs.mean(axis=0) for weight, runs in networks)
    of_seeds = sum(weight**2 * _interaction(runs) / len(runs) for weight, runs in networks)
    return math.sqrt(max(0.0, by_image.var(ddof=1) - of_seeds) / count)


def _interaction(answers: np.ndarray) -> float:
    """The mean square of the interaction of seeds and images, which neither's means explain."""
    seeds, images = answers.shape
    rest = answers - answers.mean(axis=0) - answers.mean(axis=1, keepdims=True) + answers.mean()
    return float((rest**2).sum()) / ((seeds - 1) * (images - 1))


Answers = dict[int, Correct]
"""By seed."""


def _answers(comparison: Comparison, correct: Mapping[str, Correct]) -> dict[object, Answers]:
    """The answers of the networks for which those of every run are known."""
    if not correct or comparison.metric != TOP1:
        return {}
    runs = comparison.counted
    networks = runs.groupby(runs["set"].where(runs["set"].notna(), runs["network"]).to_numpy(), sort=False)
    return {
        key: dict(zip(of_network["seed"], (correct[path] for path in of_network["path"]), strict=True))
        for key, of_network in networks
        if all(path in correct for path in of_network["path"])
    }


def _image_error(answers: Mapping[object, Answers], weights: Weights) -> tuple[float, float]:
    """The number of images that a sum is based on, and the standard error that they add; NaN if unknown."""
    if not all(key in answers for key in weights):
        return math.nan, math.nan
    networks = [dict(sorted(answers[key].items())) for key in weights]
    runs = [run for by_seed in networks for run in by_seed.values()]
    if len({(run.images, run.count) for run in runs}) > 1:
        return math.nan, math.nan
    read = np.ones(runs[0].count, bool)
    read[[image for run in runs for image in run.unread]] = False
    values = [np.array([100.0 * run.right()[read] for run in by_seed.values()]) for by_seed in networks]
    paired = all(by_seed.keys() == networks[0].keys() for by_seed in networks)
    return float(read.sum()), image_error(values, [*weights.values()], paired)
