"""When does a step start to pay? Effects by budget: the number of epochs, or of training images at equal updates.

Within a budget, effects are estimated as in a ladder. Across budgets, an effect is described by a straight line in the
logarithm of the budget, whose slope is one weighted sum of the budgets' effects. docs/budgets.md has the simulations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from analysis.measures import measure
from analysis.statistics.comparison import Comparison, Steps, begins, longest, network_table
from analysis.statistics.context import Context, published_recipe
from analysis.statistics.estimates import CONFIDENCE, Estimate, estimate
from analysis.statistics.ladder import caption
from analysis.statistics.noise import Scores
from analysis.statistics.pairs import Pair, conclude_pairs, pairs_of
from roadmap.roads import Road

UNITS = {"epochs": "epochs", "images": "training images"}
"""By kind of study: the unit of its budgets."""
QUESTIONS = {"epochs": "Does it pay with more training?", "images": "Does it pay with more training images?"}
SAME_UPDATES = 1.05
"""Ratio of the numbers of updates below which runs on different numbers of images count as trained for equally long:
epochs are whole numbers."""
FEWEST_TO_BEND = 3
"""Budgets; two effects are always on a line."""
GRID = 2001
"""Points of the measured range at which the crossing of zero is tested: 0.2 % of a budget apart over four doublings."""
FEWEST_RESIDUALS = 6
"""Degrees of freedom of a budget's residuals below which their correlation is not tested: each budget is scaled by its
own, so that with one degree of freedom all that is left is a sign."""
POOR = 0.05
"""Below this p of a bend, not corrected, an effect is not described well enough by a line to say where it is zero."""
WITHIN, ABOVE, BELOW, EARLY, LATE, EITHER, ANYWHERE, BENT = (
    *("within", "above 0 throughout", "below 0 throughout", "at the smallest budget or before"),
    *("at the largest budget or later", "at either end", "anywhere", "not on a line"),
)
"""Where a line may cross zero: `WITHIN` what was measured; nowhere in it, since its sign is shown throughout; not only
within it, since its sign is not shown at the smallest budget, at the largest, at both, or at any; or not known, since
the effects are not on a line (`POOR`)."""


@dataclass(frozen=True)
class BudgetStudy:
    """Comparisons that differ in their budget alone."""

    kind: str
    """ "epochs", each number a complete schedule; or "images", of a subset of the training images, with as many updates
    for each."""
    comparisons: dict[int, Comparison]
    """By budget, in ascending order: a number of epochs, or of training images."""

    @property
    def budgets(self) -> list[int]:
        return [*self.comparisons]

    @property
    def largest(self) -> Comparison:
        """The comparison with the largest budget."""
        return self.comparisons[self.budgets[-1]]

    @property
    def road(self) -> Road:
        return self.largest.road

    @property
    def unit(self) -> str:
        return UNITS[self.kind]

    @property
    def looks(self) -> int:
        """The most planned looks that runs of a budget have."""
        return max(comparison.looks for comparison in self.comparisons.values())

    @property
    def question(self) -> str:
        """What it answers, as a title."""
        return QUESTIONS[self.kind]

    @cached_property
    def scores(self) -> dict[int, Scores]:
        """By budget: `Comparison.scores`."""
        return {budget: comparison.scores() for budget, comparison in self.comparisons.items()}

    @property
    def attrs(self) -> dict[str, Any]:
        """Words for captions, as in the `attrs` of other tables, and `kind`, `budgets`, `budget_unit`, `unit`,
        and `at`, the budget of effects that are reported without a budget: the largest of `complete`."""
        numbers = ", ".join(f"{budget:,}" for budget in self.budgets)
        counted = pd.concat([comparison.counted for comparison in self.comparisons.values()])
        fixed = {"epochs": "a complete schedule each", "images": "with the same number of updates"}[self.kind]
        if self.kind == "epochs" and self.largest.train_images:
            fixed += f" on {self.largest.train_images:,} images"
        batches, seeds = (", ".join(map(str, sorted(counted[name].unique()))) for name in ("batch_size", "seed"))
        about = f"{numbers} {self.unit}, {fixed} · batch {batches} · seeds {seeds}"
        words: dict[str, Any] = {"about": about, "kind": self.kind, "budgets": self.budgets, "budget_unit": self.unit}
        words["at"] = self.complete[-1]
        return caption(self.largest) | words | {"unit": measure(self.largest.metric).unit, "looks": self.looks}

    @cached_property
    def pairs(self) -> list[Pair]:
        """The pairs of networks whose difference is followed, each measured with at least two budgets."""
        networks = dict.fromkeys(key for scores in self.scores.values() for key in scores if not isinstance(key, str))
        return pairs_of(self.road, networks, lambda a, b: len(self._shared(a, b)) > 1)

    @cached_property
    def complete(self) -> list[int]:
        """The budgets with which most pairs were measured: all, unless a few networks alone were trained longer."""
        counts = dict.fromkeys(self.budgets, 0)
        for pair in self.pairs:
            for budget in self._shared(*pair[2:]):
                counts[budget] += 1
        return [budget for budget, count in counts.items() if 2 * count > max(counts.values())]

    def _shared(self, a: Steps, b: Steps) -> list[int]:
        """The budgets with which both were measured."""
        return [
            budget
            for budget, scores in self.scores.items()
            if a in scores and b in scores and self.comparisons[budget].same_code(a, b)
        ]


class Line(NamedTuple):
    """A straight line through an effect, over the binary logarithm of the budget."""

    slope: Estimate
    """Change of the effect per doubling of the budget."""
    curvature: Estimate
    """Departure from the line, of the effects' second differences; not known from fewer than three budgets."""
    level: float = math.nan
    """The line at log2 of the budget = 0."""
    crossing: float = math.nan
    """Where it is 0, as log2 of the budget; NaN where that is not within what was measured."""
    low: float = math.nan
    high: float = math.nan
    """The interval of the crossing (Fieller), as log2 of the budget; NaN for an end that is not within what was
    measured."""
    where: str = ""
    """`WITHIN`, ...; "" if the noise is unknown."""


def budget_studies(comparisons: Iterable[Comparison]) -> list[BudgetStudy]:
    """The studies of budgets among comparisons: those that differ in the number of epochs alone, and those that differ
    in the number of training images at equal updates. At least two networks are measured with at least two budgets.

    A budget is the epochs of the runs themselves, equal for all networks; so a ladder whose first rung was trained for
    90 epochs and the others for 300, as in the paper, is two budgets.
    """
    studies = []
    for cells in _cells(comparisons):
        by_subset: dict[float, dict[int, Comparison]] = {}
        for (subset, epochs), comparison in sorted(cells.items()):
            by_subset.setdefault(subset, {})[epochs] = comparison
        studies += [BudgetStudy("epochs", by_epochs) for by_epochs in by_subset.values()]
        by_updates: list[dict[tuple[float, int], Comparison]] = []
        least = 0.0
        for cell, comparison in sorted(cells.items(), key=lambda entry: _updates(*entry)):
            if not by_updates or _updates(cell, comparison) > SAME_UPDATES * least:
                by_updates.append({})
                least = _updates(cell, comparison)
            by_updates[-1][cell] = comparison
        for group in by_updates:
            of_images = {each.train_images: each for _, each in sorted(group.items()) if each.train_images}
            studies.append(BudgetStudy("images", of_images))
    several = (_with_pairs(study) for study in studies if len(study.comparisons) > 1)
    return [study for study in several if len(study.comparisons) > 1]


def budget_table(study: BudgetStudy) -> pd.DataFrame:
    """One row per pair of networks and budget: their difference, as in a ladder.

    `title`, `kind` ("road", "ends" or "beside"), `network`, `reference`, the names of the two; `budget`; `n`, the seeds
    of the side with fewer; `mean`, `mean_reference`; `effect`, in units of the main metric, its 95 % interval `low`,
    `high`, `p`, `p_holm`, `detectable`, `error`, `freedom`, `method`, `verdict` (`conclude`; the pairs with one budget
    are a family of hypotheses, but for "ends", a claim of its own), "not measured" where a side has no finished run;
    `survivors`, whether some run of either side diverged or was stopped early; and `collapsed`, whether either side
    hardly trained (`Comparison.collapsed`).

    `attrs` has words for captions.
    """
    tables = []
    for budget, comparison in study.comparisons.items():
        scores = study.scores[budget]
        means = {key: values.mean() for key, values in scores.items()}
        sums = [{pair.network: 1.0, pair.reference: -1.0} for pair in study.pairs]
        table = conclude_pairs(study.pairs, estimate(scores, sums), study.looks).rename(columns={"value": "effect"})
        rows = [
            {
                "title": pair.title,
                "kind": pair.kind,
                "network": study.road.name_of(pair.network),
                "reference": study.road.name_of(pair.reference),
                "budget": budget,
                "n": min(len(scores.get(key, ())) for key in pair[2:]),
                "mean": means.get(pair.network, math.nan),
                "mean_reference": means.get(pair.reference, math.nan),
                "survivors": comparison.has_survivors(*pair[2:]),
                "collapsed": any(key in comparison.collapsed for key in pair[2:]),
            }
            for pair in study.pairs
        ]
        table = pd.DataFrame(rows).join(table)
        table["verdict"] = table["verdict"].replace("", "not measured")
        table["survivors"] &= table["effect"].notna()
        tables.append(table)
    table = pd.concat(tables, ignore_index=True)
    table.attrs = study.attrs
    return table


def slope_table(study: BudgetStudy) -> pd.DataFrame:
    """One row per pair of networks: does their difference grow with the budget, what is it at the largest with which
    most pairs were measured, and where does it cross zero?

    `title`, `kind`, `network`, `reference` as in `budget_table`; `budgets`, how many the line is drawn through, and
    `missing`, those of the study that it is not, since a network has no finished run there, or the noise is unknown
    though that of two others is known. `slope`, in units of the main metric per doubling of the budget, its 95 %
    interval `low`, `high`, `p`, `p_holm`, `detectable`, `error`, `freedom`, `verdict`; `level`, the line at a budget of
    1. `curvature_p`: whether effects depart from a straight line, not corrected; NaN with fewer than three budgets.
    `effect`, `effect_low`, `effect_high`, `effect_p`, `effect_p_holm`, `effect_verdict`: at the budget `attrs["at"]`.
    The slopes are one family of hypotheses and these effects another; "ends" is a claim of its own. `where` the line
    may cross zero: `WITHIN` what was measured, or another of those constants; `crossing`, `crossing_low`,
    `crossing_high`: the budget there, and its 95 % interval (Fieller; not corrected), NaN as far as they are not within
    what was measured. `survivors`, `collapsed`: with some budget.

    A straight line over the logarithm of the budget describes what was measured; it is no law, and says nothing beyond.
    """
    effects = budget_table(study)
    rows, lines = [], []
    for index in range(len(study.pairs)):
        every = effects.iloc[index :: len(study.pairs)]
        known = every[every["error"].notna()]
        used = known if len(known) > 1 else every[every["effect"].notna()]
        columns = used[["effect", "error", "freedom", "method", "verdict"]]
        lines.append(fit(np.log2(used["budget"]), [Estimate(*row) for row in columns.itertuples(index=False)]))
        last = every[every["budget"] == study.complete[-1]].iloc[0]
        rows.append(
            {
                **{name: last[name] for name in ("title", "kind", "network", "reference")},
                "budgets": len(used),
                "missing": [int(budget) for budget in every["budget"] if budget not in used["budget"].to_numpy()],
                "level": lines[-1].level,
                "curvature_p": _p(lines[-1].curvature),
                "effect": last["effect"],
                **{f"effect_{name}": last[name] for name in ("low", "high", "p", "p_holm", "verdict")},
                "where": lines[-1].where,
                "crossing": 2 ** lines[-1].crossing,
                "crossing_low": 2 ** lines[-1].low,
                "crossing_high": 2 ** lines[-1].high,
                "survivors": bool(used["survivors"].any()),
                "collapsed": bool(used["collapsed"].any()),
            }
        )
    slopes = conclude_pairs(study.pairs, [line.slope for line in lines], study.looks).rename(columns={"value": "slope"})
    table = pd.DataFrame(rows).join(slopes.drop(columns="method"))
    table.attrs = study.attrs
    return table


def scaling_table(study: BudgetStudy) -> pd.DataFrame:
    """One row per network and budget, of the first rung, the road's base and its last adopted rung, as far as they were
    measured: `rung`, `title`, `budget`, `images`, the training images that a run sees, each as often as it is shown
    (kind "epochs"), or of which it is trained ("images"); `n`, `mean`, `std`, `mean_low`, `mean_high` as in
    `network_table`.
    """
    road = study.road
    last = next(rung for rung in reversed(road.rungs) if rung.adopted)
    rows = []
    for budget, comparison in study.comparisons.items():
        networks = network_table(comparison).dropna(subset="rung").set_index("rung")
        images = budget * (comparison.train_images or math.nan) if study.kind == "epochs" else budget
        for name in dict.fromkeys((road.rungs[0].name, road.base, last.name)):
            if name in networks.index and networks.loc[name, "n"] > 0:
                numbers = networks.loc[name, ["n", "mean", "std", "mean_low", "mean_high"]].to_dict()
                rows.append({"rung": name, "title": road[name].title, "budget": budget, "images": images} | numbers)
    columns = ["rung", "title", "budget", "images", "n", "mean", "std", "mean_low", "mean_high"]
    table = pd.DataFrame(rows, columns=columns)
    table.attrs = study.attrs
    return table


def shared_noise(study: BudgetStudy) -> tuple[float, float]:
    """How far a seed does the same to a network with every budget of `complete`, beyond what it does to all networks,
    for instance since the initial weights are the same: the correlation between budgets, and the p-value of the
    hypothesis that there is none (`correlation`). NaN where `complete` has one budget, or fewer than two networks have
    two seeds in common with all.

    Intervals across budgets take their results to be independent. With such a correlation those of slopes are too wide,
    and those of crossings too narrow.
    """
    of_budgets = [
        {key: values for key, values in scores.items() if key not in scores.separate}
        for scores in (study.scores[budget] for budget in study.complete)
    ]
    networks = [key for key in of_budgets[0] if all(key in scores for scores in of_budgets)]
    runs = [scores[key] for scores in of_budgets for key in networks]
    seeds = sorted(set.intersection(*({*values.index} for values in runs))) if runs else []
    if min(len(of_budgets), len(networks), len(seeds)) < 2:
        return math.nan, math.nan
    return correlation(np.reshape([values[seeds] for values in runs], (len(of_budgets), len(networks), len(seeds))))


def correlation(values: np.ndarray) -> tuple[float, float]:
    """The mean correlation between budgets of the residuals of networks and seeds, and the p-value of an F test that it
    is not positive, of values by budget, network and seed."""
    residuals = values - values.mean(axis=1, keepdims=True) - values.mean(axis=2, keepdims=True)
    residuals += values.mean(axis=(1, 2), keepdims=True)
    scales = np.sqrt((residuals**2).mean(axis=(1, 2), keepdims=True))
    count, freedom = len(values), (values.shape[1] - 1) * (values.shape[2] - 1)
    if freedom < FEWEST_RESIDUALS or not scales.all():
        return math.nan, math.nan
    residuals /= scales
    means = residuals.mean(axis=0)
    between = count * (means**2).sum() / freedom
    within = ((residuals - means) ** 2).sum() / (freedom * (count - 1))
    p = stats.f.sf(between / within, freedom, freedom * (count - 1))
    return float((between - within) / (between + (count - 1) * within)), float(p)


def fit(x: Sequence[float] | np.ndarray, effects: Sequence[Estimate]) -> Line:
    """The least-squares line through independent effects at these values of log2 of the budget, in ascending order.

    The weights of the slope depend on the budgets alone, not on the results; its error is from those of the effects,
    with Satterthwaite's degrees of freedom.
    """
    x, lacking = np.asarray(x, float), next((each.lacking for each in effects if math.isnan(each.error)), "")
    if len(x) < 2:
        return Line(Estimate(), Estimate())
    centred = x - x.mean()
    weights = centred / (centred**2).sum()
    slope, mean = _weighted(weights, effects, lacking), float(np.mean([each.value for each in effects]))
    level = mean - slope.value * x.mean()
    bend = centred**2 - np.polyval(np.polyfit(centred, centred**2, 1), centred)
    straight = len(x) < FEWEST_TO_BEND
    curvature = Estimate() if straight else _weighted(bend / (bend**2).sum(), effects, lacking)
    crossing = -level / slope.value if slope.value else math.nan
    crossing = crossing if x[0] <= crossing <= x[-1] else math.nan
    if math.isnan(slope.error):
        return Line(slope, curvature, level)
    if _p(curvature) < POOR:
        return Line(slope, curvature, level, where=BENT)
    return Line(slope, curvature, level, crossing, *_fieller(x, weights, effects))


def _weighted(weights: np.ndarray, effects: Sequence[Estimate], lacking: str) -> Estimate:
    """A weighted sum of independent estimates."""
    value, error, freedom = (np.array([each[index] for each in effects], float) for index in range(3))
    parts = (weights * error) ** 2
    total = float(weights @ value)
    if lacking:
        return Estimate(total, lacking=lacking)
    satterthwaite = parts.sum() ** 2 / (parts**2 / freedom).sum() if parts.any() else math.inf
    return Estimate(total, math.sqrt(parts.sum()), satterthwaite, "Welch t")


def _p(estimate: Estimate) -> float:
    """The p-value of the hypothesis that it is 0; NaN if its noise is unknown."""
    if not estimate.error:
        return float(abs(estimate.value) < 1e-9)
    return float(2 * stats.t.sf(abs(estimate.value) / estimate.error, estimate.freedom))


def _fieller(x: np.ndarray, weights: np.ndarray, effects: Sequence[Estimate]) -> tuple[float, float, str]:
    """Fieller's set of the crossing, as far as it was measured: where the line's value is not shown to differ from 0.

    The line's value at a point is a weighted sum as well, so it has its own degrees of freedom.
    """
    grid = np.linspace(x[0], x[-1], GRID)
    value, error, freedom = (np.array([each[index] for each in effects], float) for index in range(3))
    of_points = 1 / len(x) + np.outer(grid - x.mean(), weights)
    parts = (of_points * error) ** 2
    line, variance = of_points @ value, parts.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        satterthwaite = variance**2 / (parts**2 / freedom).sum(axis=1)
        margin = np.where(variance > 0, stats.t.ppf((1 + CONFIDENCE) / 2, satterthwaite) * np.sqrt(variance), 0.0)
    possible = np.abs(line) <= margin
    if not possible.any():
        if line[0] * line[-1] > 0:
            return math.nan, math.nan, ABOVE if line[0] > 0 else BELOW
        possible = np.abs(line) == np.abs(line).min()  # without noise, between two points of the grid
    if possible[0] and possible[-1]:
        return math.nan, math.nan, ANYWHERE if possible.all() else EITHER
    low, high = grid[possible][[0, -1]].tolist()
    return (math.nan, high, EARLY) if possible[0] else (low, math.nan, LATE) if possible[-1] else (low, high, WITHIN)


def _with_pairs(study: BudgetStudy) -> BudgetStudy:
    """The study without the budgets with which no two networks of a pair were measured."""
    useful = {
        budget: comparison
        for budget, comparison in study.comparisons.items()
        if any(study.scores[budget].keys() >= {*pair[2:]} for pair in study.pairs)
    }
    return replace(study, comparisons=useful)


def _cells(comparisons: Iterable[Comparison]) -> list[dict[tuple[float, int], Comparison]]:
    """The comparisons by part of the training images and epochs, for each road and all other settings."""
    alike: dict[str, list[tuple[float, int, Comparison]]] = {}
    for comparison in comparisons:
        subset = comparison.context.data.get("subset", 1)
        if not isinstance(subset, int | float) or subset <= 0:
            continue
        for epochs, runs in comparison.runs.groupby("epochs"):
            context = _without_budget(comparison.context, runs)
            part = Comparison(replace(comparison.context, epochs=int(epochs), batch_size=context.batch_size), runs)
            alike.setdefault(context.key, []).append((subset, int(epochs), part))
    results = []
    for parts in alike.values():
        for road in longest(dict.fromkeys(part.road for *_, part in parts)):
            of_road: dict[tuple[float, int], list[Comparison]] = {}
            for subset, epochs, part in parts:
                if begins(road, part.road):
                    of_road.setdefault((subset, epochs), []).append(part)
            results.append({budget: _united(members, road) for budget, members in of_road.items()})
    return results


def _updates(cell: tuple[float, int], comparison: Comparison) -> float:
    """Of a run, on this part of the images and for so many epochs; the last images that fill no batch are left out."""
    subset, epochs = cell
    images, batch = comparison.train_images, int(comparison.runs["batch_size"].min())
    return images // batch * epochs if images else subset * epochs


def _without_budget(context: Context, runs: pd.DataFrame) -> Context:
    """The context without epochs and part of the images; and where all recipes have the paper's batch size, which
    differs between recipes, without that, too, so that its two recipes are compared at any number of epochs."""
    recipes = zip(runs["recipe_name"], runs["batch_size"], strict=True)
    as_published = all(published_recipe(name).get("batch_size") == size for name, size in recipes)
    return replace(
        context,
        epochs=None,
        batch_size=None if as_published else int(runs["batch_size"].iloc[0]),
        data={key: value for key, value in context.data.items() if key != "subset"},
        differs={key: value for key, value in context.differs.items() if key != "data.subset"},
    )


def _united(parts: list[Comparison], road: Road) -> Comparison:
    """One comparison of the runs of all parts; of several series of the same steps, the first."""
    runs = pd.concat([part.runs for part in parts]).drop_duplicates("path")
    first = dict(zip(runs["set"][::-1], runs["series"][::-1], strict=True))
    kept = [steps is None or first[steps] == series for steps, series in zip(runs["set"], runs["series"], strict=True)]
    return Comparison(replace(parts[0].context, road=road), runs[kept])
