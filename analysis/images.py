"""How sure weighted sums of networks' means are if the images are others, of the same kind, than those of the evaluation.

The intervals of `estimates` are the noise of seeds: of what other seeds would give on these images. An image adds a
noise of its own, which is the same for every seed, so that more seeds do not remove it. A run's answer to an image, 0
or 100 points, is its network's mean, and what the seed, the image, and both together add to it (docs/analysis.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.comparison import Comparison
from analysis.correct import Correct
from analysis.estimates import Estimate, Weights, conclude, estimate

COLUMNS = ("images", "image_error", "other_low", "other_high", "other_p_holm", "other_verdict")


def image_noise(comparison: Comparison, correct: Mapping[str, Correct], sums: Sequence[Weights]) -> pd.DataFrame:
    """What can be said of these weighted sums of mean top-1 for other images of the same kind.

    Args:
        correct: `Runs.correct`.
        sums: a family of hypotheses; the weights of networks' means, by their keys in `Comparison.scores`.

    Returns:
        A row a sum: `images`, how many it is of; `image_error`, the standard error (points) that the images add to that
        of the seeds, and that more seeds do not remove; `other_low`, `other_high`, the 95 % interval for other images
        and seeds; `other_p_holm` and `other_verdict`, as `conclude` has them. NaN and "" where a record does not say
        which images a run gets right, where runs were evaluated on others, and where a network has one seed.
    """
    table = pd.DataFrame(index=range(len(sums)), columns=list(COLUMNS)).astype(dict.fromkeys(COLUMNS[:-1], float))
    table["other_verdict"] = ""
    answers = _answers(comparison, correct)
    if not answers:
        return table
    totals = []
    for row, (weights, of_seeds) in enumerate(zip(sums, estimate(comparison.scores(), sums), strict=True)):
        error, images = _image_error(answers, weights)
        table.loc[row, ["images", "image_error"]] = images, error
        totals.append(with_images(of_seeds, error, images) if error == error else Estimate())
    found = conclude(totals)
    names = {"low": "other_low", "high": "other_high", "p_holm": "other_p_holm", "verdict": "other_verdict"}
    return table.assign(**{name: found[column] for column, name in names.items()})


def with_images(of_seeds: Estimate, image_error: float, images: int) -> Estimate:
    """An estimate with the noise of so many images in its error, too."""
    value, error, freedom, method = of_seeds
    total = math.hypot(error, image_error)
    if not total > 0:
        return Estimate(value, total, freedom, method)
    return Estimate(value, total, total**4 / (error**4 / freedom + image_error**4 / (images - 1)), method)


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
    if comparison.metric != "top1" or "path" not in comparison.runs:
        return {}
    runs = comparison.counted
    networks = runs.groupby(runs["set"].where(runs["set"].notna(), runs["network"]).to_numpy(), sort=False)
    return {
        key: dict(zip(of_network["seed"], map(correct.get, of_network["path"]), strict=True))
        for key, of_network in networks
        if all(path in correct for path in of_network["path"])
    }


def _image_error(answers: Mapping[object, Answers], weights: Weights) -> tuple[float, float]:
    """That of a sum, and of how many images it is; NaN where it is not known."""
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
    return image_error(values, [*weights.values()], paired), float(read.sum())
