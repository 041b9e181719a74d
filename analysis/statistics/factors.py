"""What each switch of a crossed study is worth: main effects, how they depend on each other, the best network.

The means of networks are fitted by least squares (Yates, "The analysis of multiple classifications with unequal numbers
in the different classes", 1934). If all networks are there, an adjusted mean is simply the mean of its networks, each
of the same weight. Every number is a weighted sum of networks' means, so `compare` judges it, with the same noise as
everywhere.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.measures import VERDICTS, measure
from analysis.statistics.comparison import Comparison
from analysis.statistics.crossing import Factor, Network, crossed_factors
from analysis.statistics.estimates import Weights, compare
from analysis.statistics.ladder import caption
from analysis.statistics.noise import Scores

EFFECTS = ("factor", "level", "reference", "n", "mean", "effect")
SIMPLE = ("factor", "level", "reference", "other", "other_level", "mean", "effect")
INTERACTIONS = ("factor", "level", "reference", "other", "other_level", "other_reference", "interaction")
JUDGED = ("low", "high", "p", "p_holm", "detectable", "error", "freedom", "method", "verdict")
NOT_ESTIMABLE = "networks missing"
"""The verdict where the finished networks do not determine a number."""


class Best(NamedTuple):
    """The network with the best mean, which was chosen among all."""

    network: Network
    """Its key."""
    mean: float
    among: int
    """How many networks it was chosen among: those with finished runs, unless some of their runs were stopped early,
    since the mean of the others is too high."""
    differences: pd.DataFrame
    """One row per other network, the best first: `network`, its key; `mean`; `difference`, by how much the best one
    exceeds it; and the columns of `compare`, corrected for all pairs of networks, as any could have been the best."""

    @property
    def shown(self) -> pd.DataFrame:
        """The networks that it is shown to be better than."""
        return self.differences[self.differences["verdict"].isin(VERDICTS)]

    @property
    def rivals(self) -> pd.DataFrame:
        """The networks that may be as good."""
        return self.differences[~self.differences["verdict"].isin(VERDICTS)]


@dataclass(frozen=True)
class Factorial:
    """A crossed study. Its tables have `attrs` with words for captions, `value` and `unit`."""

    comparison: Comparison
    factors: tuple[Factor, ...]
    value: str
    """The column of runs that the tables are about."""

    @property
    def networks(self) -> tuple[Network, ...]:
        """The keys of the networks, finished or not."""
        return tuple(self.factors[0].level_of)

    @property
    def pairs(self) -> list[tuple[Factor, Factor]]:
        """Every two factors."""
        return list(combinations(self.factors, 2))

    @cached_property
    def scores(self) -> Scores:
        return self.comparison.scores(self.value)

    @cached_property
    def measured(self) -> list[Network]:
        """The networks with finished runs."""
        return [network for network in self.networks if network in self.scores]

    def factor(self, name: str) -> Factor:
        """The factor of this name.

        Raises:
            ValueError: if there is none.
        """
        by_name = {factor.name: factor for factor in self.factors}
        if name not in by_name:
            raise ValueError(f"no factor {name!r} (factors: {', '.join(by_name)})")
        return by_name[name]

    def levels(self, network: Network) -> str:
        """A network by its levels: "kernel_size 7, activation gelu"."""
        return ", ".join(factor.named(factor.level_of[network]) for factor in self.factors)

    def change(self, row: Any) -> str:
        """What a row of one of the tables is about: "kernel_size 7 against 3", "with grn"."""
        named = self.factor(row.factor).named(row.level)
        return named if named == row.level else f"{named} against {row.reference}"

    @cached_property
    def effects(self) -> pd.DataFrame:
        """One row per factor and level: what the level is worth, averaged over the levels of the other factors.

        `factor`, `level`, `reference`; `n` networks with finished runs; `mean`, adjusted for the other factors;
        `effect`, the difference from the reference's, in units of `value`; and the columns of `compare`: its 95 %
        interval `low`, `high`, `p`, `p_holm`, `detectable`, `error`, `freedom`, `method`, `verdict`. All effects of all
        factors are one family of hypotheses. Rows of references have no effect; `verdict` is "reference".
        """
        rows: list[dict[str, Any]] = []
        sums: list[Weights | None] = []
        for factor in self.factors:
            model = self._model([factor])
            for level in factor.levels:
                row = {"factor": factor.name, "level": level, "reference": factor.reference}
                n = sum(factor.level_of[network] == level for network in self.measured)
                rows.append(row | {"n": n, "mean": self._sum(model.weights({(level,): 1.0}))})
                is_reference = level == factor.reference
                sums.append({} if is_reference else model.weights({(level,): 1.0, (factor.reference,): -1.0}))
        table = self._judged(rows, sums, "effect", EFFECTS)
        table.loc[table["level"] == table["reference"], "verdict"] = "reference"
        return table

    @cached_property
    def simple_effects(self) -> pd.DataFrame:
        """One row per level of a factor and level of another one: the factor's effect there.

        `factor`, `level`, `reference`, `other`, `other_level`; `mean` of these two levels, averaged over those of the
        remaining factors; `effect`, the difference from the reference at the same level of the other factor, and the
        columns of `compare`. Every two factors are there in both orders, and each order is a family of hypotheses.
        """
        tables = []
        for pair in self.pairs:
            for factor, other in (pair, pair[::-1]):
                model = self._model([factor, other])
                rows: list[dict[str, Any]] = []
                sums: list[Weights | None] = []
                for level in factor.levels:
                    for other_level in other.levels:
                        row = {"factor": factor.name, "level": level, "reference": factor.reference}
                        mean = self._sum(model.weights({(level, other_level): 1.0}))
                        rows.append(row | {"other": other.name, "other_level": other_level, "mean": mean})
                        contrast = {(level, other_level): 1.0, (factor.reference, other_level): -1.0}
                        sums.append({} if level == factor.reference else model.weights(contrast))
                table = self._judged(rows, sums, "effect", SIMPLE)
                table.loc[table["level"] == table["reference"], "verdict"] = "reference"
                tables.append(table)
        return self._concat(tables, SIMPLE)

    @cached_property
    def interactions(self) -> pd.DataFrame:
        """One row per two levels of two factors: by how much the effect of one depends on the other.

        `factor`, `level`, `reference`, `other`, `other_level`, `other_reference`; `interaction`, the effect of the
        level at the other factor's level minus that at the other factor's reference, averaged over the levels of the
        remaining factors, and the columns of `compare`. All are one family of hypotheses. 0 where the two add up.
        """
        rows: list[dict[str, Any]] = []
        sums: list[Weights | None] = []
        for factor, other in self.pairs:
            model = self._model([factor, other])
            for level in factor.others:
                for other_level in other.others:
                    row = {"factor": factor.name, "level": level, "reference": factor.reference}
                    rows.append(row | {"other": other.name, "other_level": other_level})
                    rows[-1]["other_reference"] = other.reference
                    contrast = {(level, other_level): 1.0, (factor.reference, other_level): -1.0}
                    contrast |= {(level, other.reference): -1.0, (factor.reference, other.reference): 1.0}
                    sums.append(model.weights(contrast))
        return self._judged(rows, sums, "interaction", INTERACTIONS)

    @cached_property
    def best(self) -> Best | None:
        """The network with the best mean; None if there are fewer than two to choose from (`Best.among`)."""
        means = {
            network: self.scores[network].mean() for network in self.measured if network not in self.scores.stopped
        }
        if len(means) < 2:
            return None
        ranked = sorted(means, key=lambda network: -means[network])
        pairs = list(combinations(ranked, 2))  # the pairs of the best come first
        table = compare(self.scores, [{first: 1.0, second: -1.0} for first, second in pairs], borrow=True)
        table = table.head(len(ranked) - 1).rename(columns={"value": "difference"})
        table.insert(0, "network", ranked[1:])
        table.insert(1, "mean", [means[network] for network in ranked[1:]])
        table.attrs = dict(self._attrs)
        return Best(ranked[0], means[ranked[0]], len(ranked), table)

    def _model(self, crossed: Sequence[Factor]) -> _Model:
        """Means of the cells of these factors, adjusted for the others."""
        cells = {network: tuple(factor.level_of[network] for factor in crossed) for network in self.measured}
        others = [factor for factor in self.factors if factor not in crossed]
        return _Model(cells, others)

    def _sum(self, weights: Weights | None) -> float:
        if weights is None:
            return np.nan
        return float(sum(weight * self.scores[network].mean() for network, weight in weights.items()))

    def _judged(
        self, rows: list[dict], sums: Sequence[Weights | None], name: str, columns: Iterable[str]
    ) -> pd.DataFrame:
        """The rows with the estimates of their sums, which form one family. None: it is not estimable; {}: no claim."""
        index = [number for number, weights in enumerate(sums) if weights]
        estimates = compare(self.scores, [weights for weights in sums if weights], borrow=True)
        table = pd.DataFrame(rows).join(estimates.rename(columns={"value": name}).set_axis(index))
        table = table.reindex(columns=[*columns, *JUDGED])
        table["verdict"] = table["verdict"].where(table["verdict"].notna(), NOT_ESTIMABLE)
        table.attrs = dict(self._attrs)
        return table

    def _concat(self, tables: Sequence[pd.DataFrame], columns: Iterable[str]) -> pd.DataFrame:
        for table in tables:
            table.attrs = {}  # pandas would compare them
        table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=[*columns, *JUDGED])
        table.attrs = dict(self._attrs)
        return table

    @cached_property
    def _attrs(self) -> dict[str, Any]:
        return caption(self.comparison) | {"value": self.value, "unit": measure(self.value).unit}


def factors(comparison: Comparison, value: str | None = None) -> Factorial | None:
    """The crossed study among these networks (`crossed_factors`), None if there is none.

    `value`: the main metric, or any numeric column of a run.

    Raises:
        ValueError: if runs have no such number.
    """
    crossed = crossed_factors(comparison)
    factorial = Factorial(comparison, crossed, value or comparison.metric) if crossed else None
    return factorial if factorial and factorial.measured else None


class _Model:
    """Least squares: a mean for each cell, plus effects of other factors, which add up to 0 over a factor's levels."""

    def __init__(self, cells: Mapping[Network, Hashable], others: Sequence[Factor]) -> None:
        self._networks = list(cells)
        self._cells = list(dict.fromkeys(cells.values()))
        columns = [[float(cells[network] == cell) for network in cells] for cell in self._cells]
        for factor in others:
            *levels, last = factor.levels
            columns += [
                [
                    float(factor.level_of[network] == level) - float(factor.level_of[network] == last)
                    for network in cells
                ]
                for level in levels
            ]
        self._design = np.array(columns).reshape(len(columns), len(cells)).T
        self._inverse = np.linalg.pinv(self._design)

    def weights(self, contrast: Mapping[Any, float]) -> Weights | None:
        """The weights of networks' means in a sum of cells' means; None if the networks do not determine it."""
        if any(cell not in self._cells for cell in contrast):
            return None
        of_columns = np.zeros(self._design.shape[1])
        for cell, weight in contrast.items():
            of_columns[self._cells.index(cell)] = weight
        weights = of_columns @ self._inverse
        if not np.allclose(weights @ self._design, of_columns):
            return None
        return {network: weight for network, weight in zip(self._networks, weights, strict=True) if abs(weight) > 1e-9}
