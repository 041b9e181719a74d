"""How sure weighted sums of networks' means are for other images of the same kind than those of the evaluation.

The intervals of `estimates` are the noise of seeds: of what other seeds would give on these images. An image adds a
noise of its own, which is the same for every seed, so that more seeds do not remove it. A run's answer to an image, 0
or 100 points, is its network's mean, and what the seed, the image, and both together add to it (docs/analysis.md).
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
    """What can be said of these weighted sums of mean top-1 for other images of the same kind.

    Args:
        correct: `Runs.correct`.
        sums: a family of hypotheses: the weights of networks' means, by their keys in `Comparison.scores`.
        of_seeds: what `compare` says of them, if that is at hand.

    Returns:
        A row per sum: `images`, how many it is of; `image_error`, the standard error (points) of those, which more
        seeds do not remove; `other_low`, `other_high`, the 95 % interval for other seeds and other images, and
        `other_p`, that the sum is 0 for these; `other_p_holm` and `other_verdict` as of `conclude`. NaN and "" where a
        record does not say which images a run gets right, where runs were evaluated on others, and where a network has
        one seed.
    """
    answers = _answers(comparison, correct)
    if not answers:
        return pd.DataFrame(index=range(len(sums)), columns=list(COLUMNS), dtype=float).assign(other_verdict="")
    found = compare(comparison.scores(), sums) if of_seeds is None else of_seeds
    rows = [_image_error(answers, weights) for weights in sums]
    table = pd.DataFrame(rows, columns=["images", "image_error"], dtype=float, index=found.index)
    noise = [
        *(found[name].to_numpy(float) for name in ("error", "freedom")),
        *table[["image_error", "images"]].to_numpy().T,
    ]
    margin = reach(1 - CONFIDENCE, *noise)
    table["other_low"], table["other_high"] = found["value"] - margin, found["value"] + margin
    table["other_p"] = _chance(np.abs(found["value"].to_numpy(float)), *noise)
    known = table["other_p"].notna()
    table["other_p_holm"] = adjust(table["other_p"].fillna(found["p"])).where(known)  # the same number of hypotheses
    lost = found["verdict"].isin(VERDICTS) & (table["other_p_holm"] >= 1 - CONFIDENCE)
    table["other_verdict"] = found["verdict"].mask(lost, "not distinguishable").where(known, "")
    return table


def reach(
    level: float | np.ndarray, error: np.ndarray, freedom: np.ndarray, image_error: np.ndarray, images: np.ndarray
) -> np.ndarray:
    """How far an interval for other images reaches to each side at this level (0.05 for 95 %), of the standard errors
    of seeds and of images.

    The reaches of the two alone add up by their squares: unlike Welch and Satterthwaite's, such an interval is never
    narrower than that of the seeds, whose variance is known worse than that of the images.
    """
    quantile = 1 - np.asarray(level) / 2
    return np.hypot(stats.t.ppf(quantile, freedom) * error, stats.t.ppf(quantile, images - 1) * image_error)


def _chance(distance: np.ndarray, *noise: np.ndarray) -> np.ndarray:
    """The p at which an interval reaches so far, found by halving."""
    low, high = np.zeros(len(distance)), np.ones(len(distance))
    for _ in range(50):
        middle = (low + high) / 2
        beyond = reach(middle, *noise) > distance
        low, high = np.where(beyond, middle, low), np.where(beyond, high, middle)
    return np.where(np.isnan(reach(0.5, *noise)), np.nan, high)


def image_error(answers: Sequence[np.ndarray], weights: Sequence[float], paired: bool) -> float:
    """The standard error that images add to a weighted sum of means, beyond what seeds add.

    An image's mean over seeds scatters among images by what is the image's own, and by what a seed and an image do
    together; that part is known from how far seeds differ on the same image, and taken off. It is in the noise of the
    seeds already.

    Args:
        answers: of each network, (seeds, images).
        paired: the seeds of all networks are the same, in the same order. What a seed and an image do together to all
            networks alike is then counted once.
    """
    if paired:
        answers, weights = [np.tensordot(weights, np.stack(answers), 1)], [1.0]
    if min(map(len, answers)) < 2 or answers[0].shape[1] < 2:
        return math.nan
    count = answers[0].shape[1]
    by_image = sum(weight * one.mean(axis=0) for weight, one in zip(weights, answers, strict=True))
    of_seeds = sum(weight**2 * _interaction(one) / len(one) for weight, one in zip(weights, answers, strict=True))
    return math.sqrt(max(0.0, by_image.var(ddof=1) - of_seeds) / count)


def _interaction(answers: np.ndarray) -> float:
    """The mean square of seeds and images together, which neither the seeds' means nor the images' explain."""
    seeds, images = answers.shape
    rest = answers - answers.mean(axis=0) - answers.mean(axis=1, keepdims=True) + answers.mean()
    return float((rest**2).sum()) / ((seeds - 1) * (images - 1))


Answers = dict[int, Correct]
"""By seed."""


def _answers(comparison: Comparison, correct: Mapping[str, Correct]) -> dict[object, Answers]:
    """Those of the networks of which every run's are known."""
    if not correct or comparison.metric != TOP1:
        return {}
    runs = comparison.counted
    networks = runs.groupby(runs["set"].where(runs["set"].notna(), runs["network"]).to_numpy(), sort=False)
    return {
        key: dict(zip(of_network["seed"], map(correct.get, of_network["path"]), strict=True))
        for key, of_network in networks
        if all(path in correct for path in of_network["path"])
    }


def _image_error(answers: Mapping[object, Answers], weights: Weights) -> tuple[float, float]:
    """Of how many images a sum is, and the standard error that they add; NaN where it is not known."""
    if not all(key in answers for key in weights):
        return math.nan, math.nan
    own = [dict(sorted(answers[key].items())) for key in weights]
    known = [one for by_seed in own for one in by_seed.values()]
    if len({(one.images, one.count) for one in known}) > 1:
        return math.nan, math.nan
    read = np.ones(known[0].count, bool)
    read[[place for one in known for place in one.unread]] = False
    values = [np.array([100.0 * one.right()[read] for one in by_seed.values()]) for by_seed in own]
    paired = all(by_seed.keys() == own[0].keys() for by_seed in own)
    return float(read.sum()), image_error(values, [*weights.values()], paired)
