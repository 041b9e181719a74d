"""What a group of steps is worth on average over all combinations of the others: Shapley values and interactions.

The players of the game are groups of steps. The value of a coalition is the accuracy (or a cost) of the network with
these steps (Shapley, "A value for n-person games", 1953).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, combinations, islice, takewhile
from math import comb, factorial

import pandas as pd

from analysis.statistics.comparison import Comparison, Steps
from analysis.statistics.estimates import NEGLIGIBLE, Estimate, Weights, compare, conclude
from analysis.statistics.ladder import caption, entitled
from analysis.statistics.noise import Scores
from roadmap.roads import MOST_ORDERS

Players = Mapping[str, Iterable[str]]
"""Disjoint groups of steps, by name."""

SHAPLEY = ("section", "steps", "value", "error", "low", "high", "p", "p_holm", "verdict", "n")
INTERACTION = ("one", "other", "interaction", "error", "low", "high", "p", "p_holm", "verdict")
ORDERS = ("step", "title", "section", "value", "error", "low", "high", "p", "p_holm", "detectable", "verdict", "orders")
FEW = 6
"""Up to this number of steps there are at most 720 orders, so that random ones would repeat each other."""
NAMED = 3
"""How many missing combinations are named; the others are counted."""


def shapley_table(comparison: Comparison, value: str | None = None) -> pd.DataFrame:
    """One row per section of the road: its Shapley value, exact except for the noise of training.

    `section`, its title; `steps`, a tuple; `value`, in units of the column `value`, by default the main metric; its
    standard error and 95 % interval, `error`, `low`, `high`; `p`, `p_holm` and `verdict` (`conclude`; the sections are
    a family of hypotheses); `n`, the fewest seeds of a combination. The values add up to what all steps gain over none.
    A combination with one seed is taken to be as noisy as the others. One that collapsed is not, and one seed does not
    show its noise: then, and without any replicates, the error is NaN.

    `attrs` has words for captions, and `missing`: if some of the 2^n combinations have no finished run, so that the
    table is empty, a line that names them; else "".
    """
    players = comparison.road.groups()
    scores, missing = _game(comparison, players, value)
    if missing:
        return _finish(comparison, pd.DataFrame(), SHAPLEY, missing)
    weights = shapley_weights(players)
    table = compare(scores, list(weights.values()), borrow=True)
    table = table.assign(section=list(players), steps=list(players.values()))
    table["n"] = min(len(scores[coalition]) for coalition, _ in coalitions(players))
    return _finish(comparison, table, SHAPLEY)


def interaction_table(comparison: Comparison, value: str | None = None) -> pd.DataFrame:
    """One row per pair of sections: how much more the two gain together than each by itself, on average over all
    combinations of the others.

    `one`, `other`; `interaction`, the Shapley interaction index, in units of the column `value`; `error`, `low`,
    `high`, `p`, `p_holm`, `verdict` and `attrs` as in `shapley_table`; the pairs are a family of their own.
    """
    players = comparison.road.groups()
    scores, missing = _game(comparison, players, value)
    if missing or len(players) < 2:
        return _finish(comparison, pd.DataFrame(), INTERACTION, missing)
    weights = interaction_weights(players)
    table = compare(scores, list(weights.values()), borrow=True).rename(columns={"value": "interaction"})
    table["one"], table["other"] = zip(*weights, strict=True)
    return _finish(comparison, table, INTERACTION)


def shapley_from_orders(
    comparison: Comparison, value: str | None = None, order_seed: int = 0, margin: float | None = None
) -> pd.DataFrame:
    """One row per adopted step: its mean change over random orders, an unbiased estimate of its Shapley value.

    The orders are the first m of `Road.orderings(m, order_seed)` whose networks are all measured, and had no run
    stopped early; a network's value is its mean over seeds. `step`, `title`, `section`; `value`, in units of the column
    `value`; `error`, the standard error over orders, if there are at least two; its 95 % interval `low`, `high`; `p`,
    `p_holm`, `detectable` and `verdict` (`conclude`); `orders`, m. With a margin, also `NEGLIGIBLE`.

    The changes contain the noise of training, so `error` does too, as far as it differs between orders. It does not
    contain what all orders share, the noise of the first and the last network: that is negligible among 16 orders, but
    with hundreds the noise of training should be checked. Without any measured order the table is empty, and
    `attrs["missing"]` says so.

    A road of at most FEW steps has too few orders for a sample: there the values are exact, over all orders, and the
    intervals show the noise of training; if a network is missing, the table is empty.
    """
    if len(comparison.road.adopted) <= FEW:
        return _over_all_orders(comparison, value, margin)
    columns = ORDERS if margin is None else (*ORDERS, *NEGLIGIBLE)
    scores = comparison.scores(value)
    means = {steps: values.mean() for steps, values in scores.items() if steps not in scores.stopped}
    adopted = comparison.road.adopted
    drawn = comparison.road.orderings(MOST_ORDERS, order_seed)
    orders = list(takewhile(lambda order: all(steps in means for steps in _prefixes(order)), drawn))
    changes = pd.DataFrame([_changes(order, means) for order in orders], columns=list(adopted), dtype=float)
    table = conclude([_mean_of_orders(changes[step]) for step in adopted], comparison.looks, margin=margin)
    table = entitled(table.assign(step=list(adopted), orders=len(orders)), comparison)
    missing = "" if orders else f"the first order of seed {order_seed} has networks without a finished run"
    return _finish(comparison, table, columns, missing)


def _over_all_orders(comparison: Comparison, value: str | None, margin: float | None) -> pd.DataFrame:
    players = {step: (step,) for step in comparison.road.adopted}
    scores = comparison.scores(value)
    columns = ORDERS if margin is None else (*ORDERS, *NEGLIGIBLE)
    if not all(steps in scores for steps, _ in coalitions(players)):
        return _finish(comparison, pd.DataFrame(), columns, "some sets of steps have no finished run")
    table = compare(scores, list(shapley_weights(players).values()), borrow=True, margin=margin)
    table = entitled(table.assign(step=list(players), orders=factorial(len(players))), comparison)
    return _finish(comparison, table, columns)


def shapley_weights(players: Players) -> dict[str, Weights]:
    """By player, the weights of coalitions' values in its Shapley value: |S|! (n - |S| - 1)! / n! for joining S."""
    count = len(players)
    by_player: dict[str, Weights] = {}
    for player, steps in players.items():
        weights: dict[Steps, float] = {}
        for size, without in _coalitions_without(players, player):
            share = 1 / (count * comb(count - 1, size))
            weights[without | set(steps)] = share
            weights[without] = -share
        by_player[player] = weights
    return by_player


def interaction_weights(players: Players) -> dict[tuple[str, str], Weights]:
    """By pair, the weights of coalitions' values in its Shapley interaction index.

    |S|! (n - |S| - 2)! / (n - 1)! for v(S and both) - v(S and one) - v(S and the other) + v(S): Grabisch and Roubens,
    "An axiomatic approach to the concept of interaction among players in cooperative games", 1999.
    """
    count = len(players)
    by_pair: dict[tuple[str, str], Weights] = {}
    for pair in combinations(players, 2):
        first, second = (frozenset(players[player]) for player in pair)
        weights: dict[Steps, float] = {}
        for size, without in _coalitions_without(players, *pair):
            share = 1 / ((count - 1) * comb(count - 2, size))
            weights |= {without | first | second: share, without: share}
            weights |= {without | first: -share, without | second: -share}
        by_pair[pair] = weights
    return by_pair


def coalitions(players: Players) -> Iterator[tuple[Steps, tuple[str, ...]]]:
    """The steps of every combination of players, from none to all, and the names of these players."""
    choices = chain.from_iterable(combinations(players, size) for size in range(len(players) + 1))
    return ((frozenset(chain.from_iterable(players[name] for name in chosen)), chosen) for chosen in choices)


def is_union(steps: Steps, groups: Iterable[Iterable[str]]) -> bool:
    """Whether these are exactly the steps of some of the groups."""
    return steps == frozenset(chain.from_iterable(group for group in groups if steps.issuperset(group)))


def _coalitions_without(players: Players, *excluded: str) -> Iterator[tuple[int, Steps]]:
    """The coalitions of the other players: how many players, which steps."""
    rest = {name: steps for name, steps in players.items() if name not in excluded}
    return ((len(chosen), steps) for steps, chosen in coalitions(rest))


def measured_unions(comparison: Comparison) -> list[Steps]:
    """The combinations of the road's sections that have finished runs."""
    groups = comparison.road.groups().values()
    return [steps for steps in comparison.scores() if not isinstance(steps, str) and is_union(steps, groups)]


def has_sections(comparison: Comparison) -> bool:
    """Whether a study of the sections was run: at least half of the combinations. Other studies train some of them."""
    return 2 * len(measured_unions(comparison)) >= 2 ** len(comparison.road.groups())


def _game(comparison: Comparison, players: Players, value: str | None) -> tuple[Scores, str]:
    """The values of every network, and a line that names the missing coalitions. A road of many sections has too many
    to go through."""
    scores, total = comparison.scores(value), 2 ** len(players)
    count = total - sum(not isinstance(steps, str) and is_union(steps, players.values()) for steps in scores)
    if not count:
        return scores, ""
    missing = (" + ".join(names) or "none of them" for steps, names in coalitions(players) if steps not in scores)
    named = "; ".join(islice(missing, NAMED)) + (f"; and {count - NAMED} more" if count > NAMED else "")
    return scores, f"{count} of {total} combinations of sections have no finished run: {named}"


def _finish(comparison: Comparison, table: pd.DataFrame, columns: Iterable[str], missing: str = "") -> pd.DataFrame:
    """These columns of a table, without rows if something is missing, and words for captions."""
    table = table.reindex(columns=list(columns)).iloc[: 0 if missing else None]
    table.attrs = caption(comparison) | {"missing": missing}
    return table


def _prefixes(order: tuple[str, ...]) -> list[Steps]:
    """The sets of the first steps of an order, from none to all."""
    return [frozenset(order[:length]) for length in range(len(order) + 1)]


def _changes(order: tuple[str, ...], means: Mapping[Steps, float]) -> dict[str, float]:
    values = [means[steps] for steps in _prefixes(order)]
    return {step: after - before for step, before, after in zip(order, values, values[1:], strict=False)}


def _mean_of_orders(changes: pd.Series) -> Estimate:
    if len(changes) < 2:
        return Estimate(changes.mean(), lacking="one order")
    return Estimate(changes.mean(), changes.sem(), len(changes) - 1, "t")
