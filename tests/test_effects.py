"""`analysis.statistics.effects`: the four ways to ask what a step is worth, of games that know."""

import numpy as np
import pytest
from games import ROAD, comparison, play
from records import write_run
from scipy import stats

from analysis.sources.load import load
from analysis.statistics.comparison import comparisons
from analysis.statistics.effects import effect_table, unpaired
from roadmap.roads import Road

WORTH = dict(zip(ROAD.adopted, np.linspace(-1, 5, 13).round(2), strict=True))
RUNGS = [rung.steps for rung in ROAD.rungs]


def additive(steps):
    return 60 + sum(WORTH.get(step, 0.5) for step in steps)


def only(table, kind):
    return table[table["kind"] == kind].set_index("step")


def test_what_adds_up_has_the_same_effect_however_it_is_asked():
    sets = {*RUNGS, *ROAD.leave_one_out(), *ROAD.add_one_in(), *ROAD.prefixes(ROAD.orderings(4))}
    table = effect_table(play(additive, sets, noise=0.001))
    for kind, steps in {
        **dict.fromkeys(("road", "leave_one_out", "shapley"), ROAD.adopted),
        "add_one_in": ROAD.adopted[1:],
    }.items():
        result = only(table, kind)
        assert tuple(result.index) == steps
        assert result["effect"].to_dict() == pytest.approx({step: WORTH[step] for step in steps}, abs=0.01)
        assert set(result["n"]) == {4 if kind == "shapley" else 3}
    gelu = only(table, "road").loc["gelu"]
    assert gelu[["title", "section", "verdict"]].tolist() == ["ReLU to GELU", "2.6", "up"]


def test_steps_that_depend_on_each_other_differ_between_the_ways():
    """GELU needs the last step: worth nothing on the road and alone, all of it at the end, half over orders."""
    sets = {*RUNGS, *ROAD.leave_one_out(), *ROAD.add_one_in(), *ROAD.prefixes(ROAD.orderings(2))}
    table = effect_table(play(lambda steps: 8.0 * ({"gelu", "separate_downsampling"} <= steps), sets))
    assert [only(table, kind).loc["gelu", "effect"] for kind in ("road", "leave_one_out", "add_one_in")] == [0, 8, 0]
    assert only(table, "road").loc["separate_downsampling", "effect"] == 8


def test_a_ladder_alone_has_only_the_road():
    """Though its last rungs are all steps and all but one."""
    assert set(effect_table(play(additive, RUNGS))["kind"]) == {"road"}


def test_what_is_not_measured_is_told():
    every, _, second, *_ = ROAD.leave_one_out()
    table = only(effect_table(play(additive, [every, second])), "leave_one_out")
    assert table.loc["stage_ratio", ["n", "effect"]].tolist() == pytest.approx([3, WORTH["stage_ratio"]])
    assert table.loc["gelu", ["n", "verdict"]].tolist() == [0, "not measured"]
    assert effect_table(play(additive, [("gelu",)])).empty


def test_a_kind_is_a_family_of_its_own():
    """With the noise of one run in three, the correction counts the 16 steps of the ladder, or the 13 left out."""
    table = effect_table(play(additive, {*RUNGS, *ROAD.leave_one_out()}, noise=1.0))
    for kind, size in (("road", 16), ("leave_one_out", 13)):
        best = only(table, kind).sort_values("p").iloc[0]
        assert best["p_holm"] == pytest.approx(size * best["p"])


@pytest.mark.parametrize(("value", "unit"), [("macs", "multiply-adds"), ("images_per_second", "images/s")])
def test_costs_have_effects_too(value, unit):
    generator = np.random.default_rng(0)
    played = comparison({steps: {0: 80.0, 1: 80.5} for steps in RUNGS})
    cost = played.runs["set"].map(len) * 1e6
    noise = 0 if value == "macs" else 1e5 * generator.normal(size=len(cost))
    played.runs[value] = cost + noise
    result = only(effect_table(played, value), "road")
    assert result["effect"].to_numpy() == pytest.approx(1e6, abs=4e5)
    assert ((result["high"] - result["low"]) == 0).all() == (value == "macs")
    assert effect_table(played, value).attrs["unit"] == unit


# Steps that are on no rung


def test_a_step_on_no_rung_is_compared_wherever_a_pair_differs_in_it_alone():
    """Three networks have `grn`; two were trained without it, too. Beside another one, each has its pairs."""
    gelu, last = (frozenset(ROAD[name].steps) for name in ("gelu", "separate_downsampling"))
    sets = [gelu, last, gelu | {"grn"}, last | {"grn"}, last | {"grn", "star"}, gelu - {"kernel_7"} | {"grn"}]
    played = play(lambda steps: additive(steps) + ("grn" in steps and "star" in steps), sets)
    table = only(effect_table(played), "besides")
    assert table["on"].tolist() == ["gelu", "separate_downsampling", "separate_downsampling +grn"]
    assert table["without"].tolist() == pytest.approx([additive(gelu), additive(last), additive(last) + 0.5])
    assert table["effect"].tolist() == pytest.approx([0.5, 0.5, 1.5])
    assert (table["with"] - table["without"]).tolist() == pytest.approx(table["effect"].tolist())
    assert table.index.tolist() == ["grn", "grn", "star"]
    assert unpaired(played) == []
    assert unpaired(play(additive, [gelu, gelu | {"grn", "star"}])) == ["grn", "star"]


def test_a_pair_alone_is_a_textbooks_paired_t_and_several_are_corrected_together():
    gelu = frozenset(ROAD["gelu"].steps)
    played = play(additive, [gelu, gelu | {"grn"}], noise=1.0)
    (result,) = effect_table(played).query("kind == 'besides'").to_dict("records")
    truth = stats.ttest_rel(played.values(gelu | {"grn"}), played.values(gelu))
    assert [result["p"], result["low"], result["high"]] == pytest.approx(
        [truth.pvalue, *truth.confidence_interval(0.95)]
    )
    several = effect_table(play(additive, [gelu, *(gelu | {step} for step in ("grn", "star", "se"))], noise=1.0))
    best = only(several, "besides").sort_values("p").iloc[0]
    assert best["p_holm"] == pytest.approx(min(3 * best["p"], 1))


def test_effects_of_networks_with_a_diverged_run_are_of_those_that_trained():
    every, *without = ROAD.leave_one_out()
    played = play(additive, [every, *without], noise=0.001)
    left = frozenset(ROAD.adopted) - {"gelu"}
    lost = (played.runs["set"] == left) & (played.runs["seed"] == 2)
    played.runs["left_out"] = played.runs["left_out"].mask(lost, "diverged")
    table = only(effect_table(played), "leave_one_out")
    assert table.index[table["survivors"]].tolist() == ["gelu"]
    assert table.loc["gelu", ["n", "verdict"]].tolist() == [2, "up"]


def test_rungs_need_not_be_called_as_their_steps():
    road = Road.from_json(
        {"name": "mine", "rungs": [{"name": "start"}, {"step": "a", "name": "one"}, {"step": "b", "name": "two"}]}
    )
    table = effect_table(
        play(lambda steps: 2.0 * ("a" in steps) + ("b" in steps), [rung.steps for rung in road.rungs], road=road)
    )
    assert only(table, "road")["effect"].to_dict() == {"a": 2.0, "b": 1.0}
    assert only(table, "road")["on"].to_dict() == {"a": "start", "b": "one"}


def test_a_step_of_the_road_on_another_rung_has_its_effect_unless_a_study_trains_it_anyhow():
    """All steps but one are a rung and a later step, too: that is leave-one-out's question."""
    gelu, left = frozenset(ROAD["gelu"].steps), frozenset(ROAD.adopted) - {"layer_norm"}
    rungs = [rung.steps for rung in ROAD.rungs]
    table = only(effect_table(play(additive, [*rungs, gelu | {"layer_norm"}, left])), "elsewhere")
    assert table.index.tolist() == ["layer_norm"]
    assert table.loc["layer_norm", "on"] == "gelu"
    assert table.loc["layer_norm", "effect"] == pytest.approx(WORTH["layer_norm"])
    studies = {*rungs, *ROAD.leave_one_out(), *ROAD.add_one_in(), *ROAD.unions(ROAD.groups().values())}
    assert "elsewhere" not in set(effect_table(play(additive, studies))["kind"])


def test_a_step_whose_file_was_changed_in_between_is_not_compared(tmp_path):
    """With it alone before the change, with another step after it: the two differ in more than that step."""
    for ratio, expected in ((0.25, ["se", "silu"]), (0.9, ["se"])):
        folder = tmp_path / str(ratio)
        for steps, own in (((), None), (("se",), 0.25), (("se", "silu"), ratio)):
            layers = {"se": {"at": "hidden", "_target_": "timm.layers.SEModule", "rd_ratio": own}} if own else {}
            design = {"layers": layers, "activation": "silu" if "silu" in steps else "relu"}
            config = {"steps": list(steps), "rung": None, "design": design, "recipe": {"name": "original"}}
            for seed in range(2):
                write_run(folder, None, seed=seed, top1=70.0 + seed + len(steps), config=config)
        table = effect_table(comparisons(load(folder))[0])
        assert table.loc[table["kind"] == "besides", "step"].tolist() == expected
