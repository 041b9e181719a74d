"""`statistics.shapley`: games whose values are known, every order of six players, and coverage by simulation."""

from itertools import permutations
from math import comb

import numpy as np
import pandas as pd
import pytest
from games import ROAD, comparison, play
from scipy import stats
from statsmodels.stats.multitest import multipletests

from analysis.statistics.estimates import estimate
from analysis.statistics.noise import Scores
from analysis.statistics.shapley import (
    coalitions,
    interaction_table,
    interaction_weights,
    shapley_from_orders,
    shapley_table,
    shapley_weights,
)
from roadmap.roads import Road

SIX = {name: (name,) for name in "abcdef"}
SECTIONS = ROAD.groups()
SETS = ROAD.unions(SECTIONS.values())


def value_of(weights, game):
    return sum(weight * game(steps) for steps, weight in weights.items())


def drawn_game(seed=0, players=SIX):
    """A number for every coalition, with no order in them."""
    generator = np.random.default_rng(seed)
    values = {steps: generator.normal() for steps, _ in coalitions(players)}
    return values.__getitem__


# Games with known answers


def test_shapley_is_the_mean_over_all_720_orders():
    game = drawn_game()
    gains = dict.fromkeys(SIX, 0.0)
    for order in permutations(SIX):
        for place, player in enumerate(order):
            gains[player] += game(frozenset(order[: place + 1])) - game(frozenset(order[:place]))
    for player, weights in shapley_weights(SIX).items():
        assert value_of(weights, game) == pytest.approx(gains[player] / 720)


def test_shapley_values_add_up_to_what_all_gain_over_none():
    game = drawn_game()
    total = sum(value_of(weights, game) for weights in shapley_weights(SIX).values())
    assert total == pytest.approx(game(frozenset(SIX)) - game(frozenset()))


@pytest.mark.parametrize(
    ("players", "game", "values"),
    [
        ("abcdef", lambda team: 3 + sum("abcdef".index(one) for one in team), [0, 1, 2, 3, 4, 5]),  # additive
        ("abcdef", lambda team: float({"a", "c", "f"} <= team), [1 / 3, 0, 1 / 3, 0, 0, 1 / 3]),  # unanimity
        ("lmr", lambda team: float("r" in team and len(team) > 1), [1 / 6, 1 / 6, 2 / 3]),  # two left gloves, one right
    ],
)
def test_shapley_of_known_games(players, game, values):
    weights = shapley_weights({name: (name,) for name in players})
    assert [value_of(one, game) for one in weights.values()] == pytest.approx(values)


def test_interaction_of_known_games():
    """Additive: none. Unanimity of t players: 1 / (t - 1) for a pair of them (Grabisch and Roubens). Two: all of it."""
    weights = interaction_weights(SIX)
    assert [value_of(one, lambda team: len(team)) for one in weights.values()] == pytest.approx([0] * comb(6, 2))
    for team in ({"a", "b"}, {"a", "b", "c"}, {"a", "b", "c", "d"}):
        result = {pair: value_of(one, lambda have, team=team: float(team <= have)) for pair, one in weights.items()}
        assert result == pytest.approx({pair: 1 / (len(team) - 1) * (set(pair) <= team) for pair in result})


def test_interaction_is_how_much_a_partner_adds_to_a_shapley_value():
    """I(i, j) is i's Shapley value among the others with j always there, minus with j never there."""
    game = drawn_game()
    five = {name: steps for name, steps in SIX.items() if name != "f"}
    with_f = value_of(shapley_weights(five)["a"], lambda team: game(team | {"f"}))
    without = value_of(shapley_weights(five)["a"], game)
    assert value_of(interaction_weights(SIX)["a", "f"], game) == pytest.approx(with_f - without)


# Tables


def test_sections_study_gives_sections_their_values():
    game = drawn_game(players=SECTIONS)
    played = play(game, SETS)
    table = shapley_table(played)
    assert table.columns.tolist() == [
        "section",
        "steps",
        "value",
        "error",
        "low",
        "high",
        "p",
        "p_holm",
        "verdict",
        "n",
    ]
    weights = shapley_weights(SECTIONS)
    assert dict(zip(table["section"], table["value"], strict=True)) == pytest.approx(
        {name: value_of(one, game) for name, one in weights.items()}
    )
    assert table["steps"].tolist() == list(SECTIONS.values())
    assert (table["n"] == 3).all()
    pairs = interaction_table(played)
    assert pairs.columns.tolist() == ["one", "other", "interaction", "error", "low", "high", "p", "p_holm", "verdict"]
    assert pairs["interaction"].tolist() == pytest.approx(
        [value_of(one, game) for one in interaction_weights(SECTIONS).values()]
    )


def test_missing_combinations_are_told_instead_of_a_table():
    lacking = [SECTIONS["Macro design"], SECTIONS["Macro design"] + SECTIONS["Micro design"]]
    played = play(len, [steps for steps in SETS if steps not in lacking])
    for table in (shapley_table(played), interaction_table(played)):
        assert table.empty
        words = "combinations of sections have no finished run: Macro design; Macro design + Micro design"
        assert table.attrs["missing"] == f"2 of 64 {words}"
    assert shapley_table(play(len, SETS)).attrs["missing"] == ""


def test_one_seed_borrows_the_noise_of_other_sets_and_of_none_has_no_error():
    assert shapley_table(play(len, SETS, noise=1, seeds=1))["error"].isna().all()
    generator = np.random.default_rng(0)
    rung, single = (
        {steps: dict(enumerate(60 + generator.normal(size=seeds))) for steps in sets}
        for sets, seeds in ((ROAD.prefixes([ROAD.adopted]), 3), (SETS, 1))
    )
    assert (shapley_table(comparison(single | rung))["error"] > 0).all()


def test_what_a_collapsed_network_with_one_seed_enters_is_unknown_but_not_what_it_costs():
    generator = np.random.default_rng(0)
    fails = frozenset(SECTIONS["Macro design"])
    values = {steps: {0: 10.0 if steps == fails else 60 + generator.normal()} for steps in map(frozenset, SETS)}
    ladder = {steps: {seed: 60 + generator.normal() for seed in range(3)} for steps in ROAD.prefixes([ROAD.adopted])}
    played = comparison(values | ladder)
    assert played.collapsed == {fails: 10.0}
    for table in (shapley_table(played), interaction_table(played)):
        assert (table["verdict"] == "one seed").all()
    assert (shapley_table(played, "macs")["verdict"] == "not distinguishable").all()
    again = comparison(values | ladder | {fails: {0: 10.0, 1: 14.0, 2: 10.0}})
    assert shapley_table(again)["error"].notna().all()


def test_sections_and_pairs_are_families_of_hypotheses():
    played = play(drawn_game(players=SECTIONS), SETS, noise=1.0)
    for table, count in ((shapley_table(played), 6), (interaction_table(played), 15)):
        assert table["p_holm"].tolist() == pytest.approx(multipletests(table["p"], method="holm")[1])
        assert len(table) == count
        assert table["verdict"].isin(["up", "down"]).tolist() == (table["p_holm"] < 0.05).tolist()


@pytest.mark.parametrize(("noise", "seed_effect"), [(1.0, 0.0), (0.5, 2.0)])
def test_intervals_cover_in_95_of_100_studies(noise, seed_effect):
    """The effect of a seed, which all sets share, leaves no trace: values are sums of differences."""
    generator = np.random.default_rng(0)
    game = drawn_game(players=SECTIONS)
    sums = [*shapley_weights(SECTIONS).values(), *interaction_weights(SECTIONS).values()]
    truth = [value_of(weights, game) for weights in sums]
    covered = []
    for _ in range(150):
        effects = seed_effect * generator.normal(size=3)
        scores = {
            steps: game(steps) + pd.Series(effects + noise * generator.normal(size=3)) for steps in map(frozenset, SETS)
        }
        value, error, freedom = np.array([one[:3] for one in estimate(Scores(scores), sums, borrow=True)]).T
        covered.append(np.abs(value - truth) < stats.t.ppf(0.975, freedom) * error)
    assert 0.93 < np.mean(covered) < 0.98


# Orders

WORTH = dict(zip(ROAD.adopted, np.arange(13) - 4.0, strict=True))


def two_help_each_other(steps):
    """A game that adds up but for one pair, whose extra worth the two share."""
    return 70 + sum(WORTH[step] for step in steps) + 6.0 * ({"gelu", "layer_norm"} <= steps)


def test_orders_that_are_measured_are_averaged_and_no_others():
    steps = ROAD.prefixes(ROAD.orderings(5))
    last = set(steps) - set(ROAD.prefixes(ROAD.orderings(4)))
    played = play(two_help_each_other, [one for one in steps if one != max(last, key=len)])
    table = shapley_from_orders(played)
    assert (table["orders"] == 4).all()
    first = [order.index("gelu") > order.index("layer_norm") for order in ROAD.orderings(4)]
    gelu = table.set_index("step").loc["gelu"]
    assert gelu["value"] == pytest.approx(WORTH["gelu"] + 6 * np.mean(first))
    assert gelu["error"] == pytest.approx(stats.sem([6.0 * one for one in first]))
    assert table.set_index("step").loc["kernel_7", ["value", "error"]].tolist() == pytest.approx([WORTH["kernel_7"], 0])
    assert table["value"].sum() == pytest.approx(two_help_each_other(set(ROAD.adopted)) - 70)
    assert shapley_from_orders(played, order_seed=1).attrs["missing"].startswith("the first order of seed 1")


def test_orders_are_unbiased_and_their_intervals_cover():
    played = {
        order_seed: play(two_help_each_other, ROAD.prefixes(ROAD.orderings(16, order_seed)), noise=0.3, seeds=1)
        for order_seed in range(24)
    }
    tables = pd.concat(shapley_from_orders(one, order_seed=seed) for seed, one in played.items()).set_index("step")
    truth = pd.Series(WORTH) + 3.0 * pd.Series({"gelu": 1, "layer_norm": 1}).reindex(ROAD.adopted, fill_value=0)
    errors = tables["value"] - truth.reindex(tables.index)
    assert errors.groupby("step").mean().abs().max() < 0.5  # three standard errors of the mean of 24
    covered = (tables["low"] <= truth.reindex(tables.index)) & (truth.reindex(tables.index) <= tables["high"])
    assert 0.92 < covered.mean() < 0.99


def test_one_order_has_no_error():
    table = shapley_from_orders(play(two_help_each_other, ROAD.prefixes(ROAD.orderings(1))))
    assert table["value"].notna().all()
    assert table["error"].isna().all()
    assert set(table["verdict"]) == {"one order"}
    assert ROAD.in_order(table["step"]) == ROAD.adopted


# Roads of somebody else's


def test_sections_of_any_road_have_values():
    sections = {"x": "First", "y": "Second"}
    rungs = [{"name": "start"}, *({"step": step, "section": key} for step, key in (("a", "x"), ("b", "y"), ("c", "y")))]
    road = Road.from_json({"name": "mine", "rungs": rungs, "sections": sections})
    played = play(
        lambda steps: 3.0 * ("a" in steps) + len({"b", "c"} & steps), road.unions(road.groups().values()), road=road
    )
    assert shapley_table(played).set_index("section")["value"].to_dict() == {"First": 3.0, "Second": 2.0}
    assert interaction_table(played)["interaction"].tolist() == [0.0]


def test_what_costs_the_same_everywhere_is_worth_nothing_to_the_last_bit():
    road = road_with_sections(3)
    played = play(len, road.unions(road.groups().values()), road=road)
    played.runs["macs"] = 5e6
    assert (shapley_table(played, "macs")[["value", "error"]] == 0).all(axis=None)


def test_a_road_of_many_sections_is_counted_and_not_written_out():
    road = road_with_sections(60)
    table = shapley_table(play(len, [(), road.adopted], road=road))
    assert table.attrs["missing"].startswith(f"{2**60 - 2} of {2**60} combinations of sections")
    assert table.attrs["missing"].endswith(f": section 0; section 1; section 2; and {2**60 - 5} more")


def road_with_sections(count):
    rungs = [{"name": "start"}, *({"step": f"s{one}", "section": f"section {one}"} for one in range(count))]
    return Road.from_json({"name": "mine", "rungs": rungs})


def test_a_short_road_has_its_few_orders_and_the_noise_of_training():
    """Random ones repeat each other: a thousand draws of six orders are no thousand orders."""
    rungs = [{"name": "plain"}, *({"step": step} for step in ("one", "two", "three"))]
    road = Road.from_json({"name": "short", "rungs": rungs})
    worth = {"one": 1.0, "two": -2.0, "three": 4.0}
    sets = road.unions([(step,) for step in worth])
    table = shapley_from_orders(
        play(lambda steps: 60 + sum(worth[one] for one in steps), sets, seeds=2, noise=1, road=road)
    )
    assert table["orders"].tolist() == [6, 6, 6]
    assert table["value"].tolist() == pytest.approx([*worth.values()], abs=2)
    assert ((table["high"] - table["low"]) > 1).all()
    assert shapley_from_orders(play(len, sets[:-1], road=road)).empty
