"""`comparison` and `ladder` of analysis/statistics/: which runs are compared, and what the table of the ladder says."""

import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from records import NANO, extended, road_of, write_run, write_study
from scipy import stats
from statsmodels.stats.multitest import multipletests
from studies import A, B, write_pair

from analysis.report.findings import headline
from analysis.sources.load import load
from analysis.sources.rows import disagreements
from analysis.statistics.comparison import comparisons, network_table
from analysis.statistics.contrasts import contrast
from analysis.statistics.ladder import default_reference, ladder_table, published_ladder, skips_rungs
from analysis.statistics.paper import agreement
from analysis.statistics.provenance import missing, unfinished, warnings
from roadmap.conf import OURS
from roadmap.roads import Road

ROAD = OURS.road(regime="nano")
STEPS = {rung.name: rung.steps for rung in ROAD.rungs}


def ladders(folder):
    return [ladder_table(one) for one in comparisons(load(folder))]


def row(table, rung):
    return table.set_index("rung").loc[rung]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """All 17 rungs, three seeds each."""
    return load(write_study(tmp_path_factory.mktemp("study")))


@pytest.fixture(scope="module")
def table(study):
    (only,) = comparisons(study)
    return ladder_table(only)


# The ladder


def test_ladder_has_every_rung_in_the_papers_order_with_its_statistics(table, study):
    assert table["rung"].tolist() == list(NANO)
    top1 = study.runs[study.runs["rung"] == "layer_norm"]["top1"]
    result = row(table, "layer_norm")
    assert result["n"] == 3
    assert result["mean"] == pytest.approx(np.mean(top1))
    assert result["std"] == pytest.approx(np.std(top1, ddof=1))
    assert result["mean_low"] < result["mean"] < result["mean_high"]
    assert result["macs"] == 6.41e6
    assert (result["published_top1"], result["published_change"]) == (81.47, 0.06)


def test_change_is_from_the_parent_not_the_previous_row(table):
    means = table.set_index("rung")["mean"]
    for rung, parent in {
        **dict.fromkeys(("kernel_5", "kernel_7", "kernel_9", "kernel_11"), "move_up_depthwise"),
        "gelu": "kernel_7",
        "stage_ratio": "modern_recipe",
    }.items():
        assert row(table, rung)["change"] == pytest.approx(means[rung] - means[parent]), rung
    assert row(table, "gelu")["published_change"] == 0.05
    assert row(table, "kernel_11")["published_change"] == 0.55
    assert row(table, "resnet")["verdict"] == "start"


def test_two_rungs_are_compared_as_a_textbook_does(tmp_path):
    (table,) = ladders(write_pair(tmp_path))
    truth = stats.ttest_rel(list(A.values()), list(B.values()))
    result = row(table, "gelu")
    assert result[["p", "low", "high"]].tolist() == pytest.approx([truth.pvalue, *truth.confidence_interval(0.95)])
    assert result["method"] == "paired t"


def test_missing_rungs_stay_as_empty_rows(tmp_path):
    (table,) = ladders(write_pair(tmp_path))
    assert len(table) == 17
    assert row(table, "resnet")["n"] == 0
    assert math.isnan(row(table, "resnet")["mean"])
    assert row(table, "modern_recipe")["verdict"] == "no finished run"
    assert row(table, "kernel_7")["verdict"] == "parent missing"


def test_only_what_a_study_asked_for_can_be_missing(tmp_path):
    """Nor is a run that diverged missing: that is how it ended."""
    write_pair(tmp_path, gelu=dict.fromkeys((0, 1), 80.0))
    write_run(tmp_path, "gelu", seed=2, status="diverged")
    (comparison,) = comparisons(load(tmp_path))
    assert missing(comparison) == []
    write_run(tmp_path, "resnet", status="queued")
    write_run(tmp_path, "gelu", seed=3, status="running")
    (comparison,) = comparisons(load(tmp_path))
    assert missing(comparison) == ["no finished run: resnet", "no finished run of seed 3: kernel_7, gelu"]


# Against another reference


def test_any_network_against_any_other_is_a_textbooks_test_of_the_two(tmp_path):
    """By a rung's name, a network's, or steps; with the same seeds and with others."""
    write_pair(tmp_path / "same")
    other = {"config": {"model": "timm:atto"}}
    for seed, top1 in B.items():
        write_run(tmp_path / "others", None, seed=seed + 7, top1=top1, **other)
        write_run(tmp_path / "others", "gelu", seed=seed, top1=A[seed], summary={"macs": 5_000_000})
    (same,), (others,) = (comparisons(load(tmp_path / folder)) for folder in ("same", "others"))
    a, b = list(A.values()), list(B.values())
    for result, truth in (
        (contrast(same, "gelu", STEPS["kernel_7"]), stats.ttest_rel(a, b)),
        (contrast(same, "kernel_7", "gelu"), stats.ttest_rel(b, a)),
        (contrast(others, "gelu", "timm:atto"), stats.ttest_ind(a, b, equal_var=False)),
    ):
        assert result[["p", "low", "high"]].tolist() == pytest.approx([truth.pvalue, *truth.confidence_interval(0.95)])
        assert result["p_holm"] == result["p"], "a claim of its own"
    result = contrast(others, "gelu", "timm:atto")
    assert result[["network", "reference", "n", "n_reference"]].tolist() == ["gelu", "timm:atto", 3, 3]
    assert result[["mean", "mean_reference"]].tolist() == pytest.approx([np.mean(a), np.mean(b)])
    costs = contrast(others, "gelu", "timm:atto", "macs")
    assert costs[["change", "low", "high"]].tolist() == [0, 0, 0]


def test_a_network_that_is_not_there_is_refused_in_a_line_that_lists_those_that_are(tmp_path):
    write_pair(tmp_path)
    write_run(tmp_path, "resnet", status="running")
    (comparison,) = comparisons(load(tmp_path))
    for name, words in {
        "gelo": "no finished run of 'gelo'; did you mean 'gelu'? (measured: kernel_7, gelu)",
        "resnet": "no finished run of 'resnet' (measured: kernel_7, gelu)",
        ("gelu", "grn"): "no finished run of 'resnet +gelu +grn' (measured: kernel_7, gelu)",
    }.items():
        for ask in (lambda: contrast(comparison, "gelu", name), lambda: ladder_table(comparison, name)):  # noqa: B023
            with pytest.raises(ValueError, match=re.escape(words) + "$"):
                ask()
    with pytest.raises(ValueError, match="gelu is both"):
        contrast(comparison, "gelu", STEPS["gelu"])
    with pytest.raises(ValueError, match="runs have no number 'topp1'; did you mean 'top1'"):
        contrast(comparison, "gelu", "kernel_7", "topp1")
    with pytest.raises(ValueError, match="not by a mapping"):
        ladder_table(comparison, {})


@pytest.mark.parametrize("reference", ["kernel_7", "timm:atto"])
def test_a_ladder_from_a_reference_compares_every_other_rung_with_it(tmp_path, reference):
    write_study(tmp_path)
    for seed in range(3):
        write_run(tmp_path, None, seed=seed, top1=80.0 + seed / 3, config={"model": "timm:atto"})
    (comparison,) = comparisons(load(tmp_path))
    table = ladder_table(comparison, reference)
    means = network_table(comparison).set_index("network")["mean"]
    others = table[table["rung"] != reference]
    assert others["change"].tolist() == pytest.approx([means[rung] - means[reference] for rung in others["rung"]])
    assert set(others["reference"]) == {reference}
    truth = [contrast(comparison, rung, reference)["p"] for rung in others["rung"]]
    assert others["p"].tolist() == pytest.approx(truth)
    assert others["p_holm"].tolist() == pytest.approx(multipletests(truth, method="holm")[1].tolist())
    if reference == "kernel_7":
        changes = table.set_index("rung")["published_change"]
        assert changes[["resnet", "kernel_5", "gelu"]].tolist() == [-4.44, -0.22, 0.05]
        assert pd.isna(row(table, "kernel_7")[["reference", "change", "published_change"]]).all()
        assert table.attrs["reference"] == "kernel size 7"
    else:
        assert table["published_change"].isna().all()
        assert table.attrs["reference"] == reference


def test_where_no_parent_is_measured_changes_are_from_the_first_rung_that_is(tmp_path):
    for rung in ("stage_ratio", "separate_downsampling"):
        write_run(tmp_path / "apart", rung)
    (apart,), (pair,) = ladders(tmp_path / "apart"), ladders(write_pair(tmp_path / "pair"))
    assert default_reference(apart) == "stage_ratio"
    assert default_reference(pair) is None
    write_run(tmp_path / "one", "gelu")
    assert default_reference(*ladders(tmp_path / "one")) is None


def test_a_study_that_skips_rungs_has_the_changes_between_those_it_has(tmp_path, study, table):
    ends = OURS.road().section_ends()
    (comparison,) = comparisons(load(write_study(tmp_path / "ends", ends)))
    found = ladder_table(comparison, nearest=True).set_index("rung")
    assert [*found.index] == [*ends]
    assert found["parent"].tolist()[1:] == [*ends[:-1]]
    macro = found.loc["patchify_stem"]
    assert macro["title"] == "Macro design"
    assert macro["change"] == pytest.approx(macro["mean"] - found.loc["modern_recipe", "mean"])
    assert macro["published_change"] == pytest.approx(79.51 - 78.82)
    assert found.loc["separate_downsampling", "title"] == "Micro design (nano ConvNeXt)"
    assert found.attrs["ends"] == contrast(comparison, "separate_downsampling", "resnet").to_dict()
    assert "6 changes" in headline(found.reset_index())
    assert agreement(found.reset_index()).published == 6
    (whole,) = comparisons(study)
    pd.testing.assert_frame_equal(ladder_table(whole, nearest=True), table)  # nothing is skipped
    assert [skips_rungs(ladder_table(comparison)), skips_rungs(table)] == [True, False]
    (later,) = comparisons(load(write_study(tmp_path / "later", OURS.road().names[1:])))
    assert not skips_rungs(ladder_table(later))  # the road's first rung is missing, but nothing between two rungs


def test_the_roads_ends_are_a_claim_of_their_own(table, study, tmp_path):
    (comparison,) = comparisons(study)
    assert table.attrs["ends"] == contrast(comparison, "separate_downsampling", "resnet").to_dict()
    (other,) = ladders(write_pair(tmp_path))
    assert other.attrs["ends"] is None


@pytest.mark.parametrize(("regime", "last"), [("resnet50", 81.97), ("resnet200", 83.60)])
def test_published_ladder_has_the_same_columns_and_the_papers_numbers(table, regime, last):
    published = published_ladder(regime)
    assert set(published.columns) == set(table.columns)
    assert row(published, "separate_downsampling")["published_top1"] == last
    assert published["change"].isna().all()


# Which runs count, and with which they are compared


def test_only_finished_runs_count_and_their_last_epoch(tmp_path):
    write_pair(tmp_path)
    write_run(tmp_path, "gelu", seed=3, status="running")
    write_run(tmp_path, "gelu", seed=4, status="diverged")
    (table,) = ladders(tmp_path)
    result = row(table, "gelu")
    assert result["mean"] == pytest.approx(np.mean(list(A.values())))
    assert result[["n", "left_out", "method"]].tolist() == [3, 2, "paired t"]
    (comparison,) = comparisons(load(tmp_path))
    assert unfinished(comparison.runs)[0].endswith(": running")
    assert unfinished(comparison.runs)[1].endswith("diverged (loss is nan at epoch 2)")
    assert "no finished run of seed 4: kernel_7" in missing(comparison)


def test_a_diverged_seed_is_an_outcome(tmp_path):
    """It is counted, and what is said of its network, or against it, is said of those that trained."""
    write_pair(tmp_path)
    write_run(tmp_path, "kernel_7", seed=3, status="diverged")
    for rung, seed in (("fewer_activations", 0), ("fewer_norms", 0), ("layer_norm", 0)):
        write_run(tmp_path, rung, seed=seed, status="done" if rung != "fewer_norms" else "diverged")
    write_run(tmp_path, "layer_norm", seed=1, status="failed")
    (comparison,) = comparisons(load(tmp_path))
    table = ladder_table(comparison)
    assert row(table, "kernel_7")[["n", "diverged", "left_out"]].tolist() == [3, 1, 1]
    assert row(table, "layer_norm")[["n", "diverged", "left_out"]].tolist() == [1, 0, 1]
    assert table["rung"][table["survivors"]].tolist() == ["gelu"]
    assert row(table, "fewer_norms")[["diverged", "verdict"]].tolist() == [1, "diverged"]
    assert row(table, "layer_norm")["verdict"] == "parent diverged"
    assert network_table(comparison).set_index("network")["diverged"].to_dict() == {
        **{"kernel_7": 1, "gelu": 0, "fewer_activations": 0, "fewer_norms": 1, "layer_norm": 0}
    }
    assert contrast(comparison, "gelu", "kernel_7")["survivors"]
    assert not contrast(comparison, "gelu", "layer_norm")["survivors"]
    write_run(tmp_path / "again", "fewer_norms", seed=1, summary={"diverged_before": 1})
    again = load([tmp_path, tmp_path / "again"])
    assert row(ladder_table(comparisons(again)[0]), "fewer_norms")[["n", "diverged"]].tolist() == [0, 2]
    [line] = disagreements(again.runs)
    assert "trained when tried again after diverging: the first outcome counts" in line


def test_a_copy_of_a_run_is_no_replicate(tmp_path):
    write_pair(tmp_path / "one")
    write_pair(tmp_path / "two")
    write_run(tmp_path / "three", "gelu", seed=0, status="failed", summary={"started": "2026-01-01T00:00:00+00:00"})
    (table,) = ladders(tmp_path)
    assert row(table, "gelu")["n"] == 3


def test_another_series_of_a_rung_is_never_averaged_in(tmp_path):
    write_pair(tmp_path)
    for seed in (0, 9):
        write_run(tmp_path, "gelu", seed=seed, top1=20.0, config={"recipe": {"weight_decay": 0.3}})
    (comparison,) = comparisons(load(tmp_path))
    assert row(ladder_table(comparison), "gelu")[["n", "mean"]].tolist() == [
        3,
        pytest.approx(np.mean(list(A.values()))),
    ]
    networks = network_table(comparison).set_index("network")
    assert networks.loc["gelu, another series", ["n", "mean"]].tolist() == [2, 20.0]
    assert networks.loc[["gelu, another series"], ["rung", "set"]].isna().all(axis=None)
    assert comparison.values(STEPS["gelu"]).to_dict() == A


def test_regime_that_was_edited_between_runs_is_said_in_one_sentence(tmp_path):
    """The ladder would compare the three runs of `gelu` of before with `kernel_7` of after, or the other way round."""
    write_pair(tmp_path)
    (comparison,) = comparisons(load(tmp_path))
    assert not any("did not mean the same" in sentence for sentence in warnings(comparison))
    write_run(tmp_path, "gelu", top1=20.0, config={"design": {"width": 99}, "recipe": {"lr": 0.3}})
    write_run(tmp_path, "gelu", top1=20.0, config={"design": {"kernel_size": 3}, "differs": {"design.kernel_size": 3}})
    (comparison,) = comparisons(load(tmp_path))
    [sentence] = [sentence for sentence in warnings(comparison) if "did not mean the same" in sentence]
    assert "nano did not mean the same in all runs: those of gelu differ in design.width and recipe.lr" in sentence


def test_another_series_of_a_rung_asked_for_by_its_steps_is_none_of_it_either(tmp_path):
    """`step=[...]` makes the network that `rung=gelu` makes; a record may lack the rung's name."""
    write_pair(tmp_path)
    write_run(tmp_path, None, steps=STEPS["gelu"], top1=20.0, config={"recipe": {"weight_decay": 0.3}})
    (comparison,) = comparisons(load(tmp_path))
    assert comparison.values(STEPS["gelu"]).to_dict() == A
    assert "gelu, another series" in set(network_table(comparison)["network"])


@pytest.mark.parametrize(
    "changed",
    [
        {"data": {"name": "fashion_mnist"}},
        {"data": {"version": "3f9a"}},
        {"data": {"holdout": 0.1}},
        {"resolution": 28},
        {"precision": "bfloat16"},
        {"recipe": {"epochs": 10}},
        {"recipe": {"batch_size": 32}},
        {"recipe": {"lr": 0.1}, "differs": {"recipe.lr": 0.1}},
    ],
)
def test_runs_that_may_not_be_compared_are_in_another_context(tmp_path, changed):
    write_pair(tmp_path / "plain")
    write_pair(tmp_path / "changed", gelu={0: 10.0}, kernel_7={}, config=changed)
    plain, other = ladders(tmp_path)
    assert row(plain, "gelu")["n"] == 3
    assert row(other, "gelu")[["n", "mean", "verdict"]].tolist() == [1, 10.0, "parent missing"]


def test_a_sweep_over_a_setting_makes_a_comparison_of_each_value(tmp_path):
    write_pair(tmp_path / "plain")
    for lr in (0.001, 0.01):
        changed = {"recipe": {"lr": lr}, "differs": {"recipe.lr": lr}}
        write_pair(tmp_path / str(lr), gelu=dict.fromkeys(A, 100 * lr), config=changed)
    result = comparisons(load(tmp_path))
    assert [one.context.changes for one in result] == ["", "recipe.lr=0.001", "recipe.lr=0.01"]
    assert [row(ladder_table(one), "gelu")["mean"] for one in result] == pytest.approx([80.76667, 0.1, 1.0])


def test_datasets_of_one_name_have_titles_of_their_own(tmp_path):
    for number, version in enumerate(("3f9a", "b71c", "02d5")):
        data = {"name": "flowers", "version": version, "path": f"/data/{number}/flowers"}
        write_pair(tmp_path / version, gelu=dict.fromkeys(range(3 - number), 80.0), config={"data": data})
    result = comparisons(load(tmp_path))
    datasets = ["flowers", "flowers, another version", "flowers, another version (2)"]
    assert [one.context.dataset for one in result] == datasets
    assert [row(ladder_table(one), "gelu")["n"] for one in result] == [3, 2, 1]


def test_the_papers_own_epochs_are_one_context(tmp_path):
    """Rung 0 trains 90 epochs at batch 256, the others 300 at 4,096: the paper's ladder all the same."""
    data = {"data": {"name": "imagenet", "num_classes": 1000}}
    for rung in ("resnet", "modern_recipe"):
        write_run(tmp_path, rung, regime="resnet50", config=data)
    (result,) = comparisons(load(tmp_path))
    assert result.counted["epochs"].tolist() == [90, 300]
    assert "not the paper's" not in result.context.scale


# Networks that are no rungs


def test_sets_with_a_step_left_out_join_the_ladders_comparison(tmp_path):
    """Also without `modern_recipe`, which leaves the original recipe."""
    write_pair(tmp_path)
    without = {step: [one for one in ROAD.adopted if one != step] for step in ("stage_ratio", "modern_recipe")}
    write_run(tmp_path, steps=without["stage_ratio"], top1=70.0)
    write_run(tmp_path, steps=without["modern_recipe"], top1=60.0)
    (one,) = comparisons(load(tmp_path))
    networks = network_table(one).set_index("network")
    assert networks["mean"].round(2).to_dict() == {
        **{"kernel_7": 79.70, "gelu": 80.77},
        **{"separate_downsampling -modern_recipe": 60.0, "separate_downsampling -stage_ratio": 70.0},
    }
    assert one.values(without["modern_recipe"]).to_dict() == {0: 60.0}


def test_timm_models_are_networks_of_their_own(tmp_path):
    write_pair(tmp_path)
    for seed in (0, 1):
        write_run(tmp_path, None, seed=seed, top1=80.0 + seed, config={"model": "timm:convnext_atto"})
    (comparison,) = comparisons(load(tmp_path))
    result = network_table(comparison).set_index("network").loc["timm:convnext_atto"]
    assert result[["n", "mean"]].tolist() == [2, 80.5]
    assert result["std"] == pytest.approx(math.sqrt(0.5))
    assert pd.notna(result["mean_low"])
    assert "timm:convnext_atto" in comparison.scores()


def test_a_network_without_finished_runs_is_no_score(tmp_path):
    write_pair(tmp_path)
    write_run(tmp_path, "fewer_norms", status="running")
    (comparison,) = comparisons(load(tmp_path))
    assert set(comparison.scores()) == {frozenset(STEPS["gelu"]), frozenset(STEPS["kernel_7"])}
    assert network_table(comparison).set_index("network").loc["fewer_norms", ["n", "left_out"]].tolist() == [0, 1]


# Roads


def test_a_regime_of_somebody_elses_is_compared_on_the_road_of_its_records(tmp_path):
    mine = road_of("overlap", "mixer", sections={"own": "Ours"})
    for seed, top1 in A.items():
        write_run(tmp_path, "mixer", seed=seed, top1=top1, regime="mini", road=mine)
    for seed, top1 in B.items():
        write_run(tmp_path, "overlap", seed=seed, top1=top1, regime="mini", road=mine)
    (table,) = ladders(tmp_path)
    assert table["rung"].tolist() == ["start", "overlap", "mixer"]
    truth = stats.ttest_rel(list(A.values()), list(B.values()))
    assert row(table, "mixer")[["p", "low", "high"]].tolist() == pytest.approx(
        [truth.pvalue, *truth.confidence_interval(0.95)]
    )
    assert table.filter(like="published").isna().all(axis=None)
    assert table.attrs["sections"] == {"own": "Ours"}


def test_a_road_that_goes_on_from_another_has_its_runs(tmp_path):
    """So that a new step's runs stand beside a ladder that was trained before there was the step."""
    write_pair(tmp_path)
    write_run(tmp_path, "grn", top1=85.0, road=extended("grn"))
    (comparison,) = comparisons(load(tmp_path))
    table = ladder_table(comparison)
    assert table["rung"].tolist() == [*NANO, "grn"]
    assert table.set_index("rung")["n"][["kernel_7", "gelu", "grn"]].tolist() == [3, 3, 1]
    assert table["published_top1"].notna().tolist() == [True] * 17 + [False]


def test_two_roads_that_go_on_differently_are_two_comparisons_with_the_common_runs_in_both(tmp_path):
    write_pair(tmp_path)
    for step in ("grn", "star"):
        write_run(tmp_path, step, top1=85.0, road=extended(step, name=step))
    result = comparisons(load(tmp_path))
    assert {one.road.rungs[-1].name for one in result} == {"grn", "star"}
    assert [row(ladder_table(one), "gelu")["n"] for one in result] == [3, 3]
    assert len({one.context.title for one in result}) == 2


def test_roads_are_equal_by_their_rungs_and_not_by_words(tmp_path):
    one = road_of("overlap", "mixer")
    words = {"title": "Another title", "name": "yours", "sections": {"own": "Whose"}}
    for seed, road in enumerate((one, Road.from_json(one.to_json() | words))):
        write_run(tmp_path, "overlap", seed=seed, road=road)
    assert len(comparisons(load(tmp_path))) == 1
    for name in ("mixer", "star"):
        write_run(tmp_path, name, seed=2, road=road_of("overlap", name))
    result = comparisons(load(tmp_path))
    assert [one.road.names[-1] for one in result] == ["mixer", "star"]
    assert [len(one.runs) for one in result] == [3, 3], "what both roads pass is measured for both"


def test_a_rung_that_is_put_in_between_is_measured_against_what_was_trained_before(tmp_path):
    for name, road in {"overlap": ("overlap", "star"), "star": ("overlap", "star")}.items():
        write_run(tmp_path, name, road=road_of(*road))
    steps = road_of("overlap", "mixer", "star")["star"].steps
    write_run(tmp_path, "mixer", road=road_of("overlap", "mixer", "star"))
    (comparison,) = comparisons(load(tmp_path))
    assert comparison.road.names[-3:] == ("overlap", "mixer", "star")
    assert pd.notna(row(ladder_table(comparison), "mixer")["change"])
    assert frozenset(steps) not in comparison.scores(), "star alone was trained without the mixer"


# Switches set by hand


def by_hand(folder, rung, seed=0, **switches):
    differs = {f"design.{name}": value for name, value in switches.items()}
    return write_run(folder, rung, seed=seed, config={"differs": differs, "design": switches})


def test_a_switch_set_by_hand_makes_a_network_of_the_same_comparison(tmp_path):
    write_pair(tmp_path)
    by_hand(tmp_path, "kernel_7", activation="silu")
    (one,) = comparisons(load(tmp_path))
    result = network_table(one).set_index("network")
    assert result.loc["kernel_7 activation=silu", "n"] == 1
    assert result.loc[["kernel_7 activation=silu"], ["rung", "set"]].isna().all(axis=None)
    assert row(ladder_table(one), "kernel_7")["n"] == 3


def test_a_ladder_with_a_switch_set_by_hand_is_a_comparison_of_its_own(tmp_path):
    write_pair(tmp_path)
    by_hand(tmp_path, "kernel_7", width=8)
    by_hand(tmp_path, "gelu", width=8)
    plain, narrow = comparisons(load(tmp_path))
    assert plain.context.changes == ""
    assert narrow.context.changes == "design.width=8"
    assert narrow.runs["network"].tolist() == ["kernel_7", "gelu"]
    assert pd.notna(row(ladder_table(narrow), "gelu")["change"])


def test_a_network_that_is_asked_for_in_two_ways_is_one(tmp_path):
    """By a step, and by the switch that the step flips: the one with fewer differences names it."""
    design = {"activation": "silu"}
    plain = write_run(tmp_path, "gelu")
    by_hand(tmp_path, "gelu", **design)
    same = json.loads((plain / "config.json").read_text())["design"] | design
    write_run(tmp_path, steps=(*STEPS["gelu"], "silu"), seed=1, config={"design": same})
    (comparison,) = comparisons(load(tmp_path))
    assert network_table(comparison).set_index("network")["n"].to_dict() == {"gelu": 1, "gelu +silu": 2}
    assert len(comparison.values((*STEPS["gelu"], "silu"))) == 2


def test_named_designs_are_called_as_their_record_says(tmp_path):
    write_pair(tmp_path)
    write_run(tmp_path, None, config={"network": "convnext_tiny width=32", "differs": {"design.width": 32}})
    (comparison,) = comparisons(load(tmp_path))
    assert "convnext_tiny width=32" in comparison.scores()


# Metrics


def test_runs_of_another_metric_are_another_comparison_of_that_metric(tmp_path):
    write_pair(tmp_path)
    for seed in range(3):
        write_run(
            tmp_path,
            "gelu",
            seed=seed,
            top1=90.0,
            config={"data": {"classes": 80}},
            summary={"metric": "box_ap", "box_ap": 40.0 + seed},
        )
    classified, detected = comparisons(load(tmp_path))
    assert (classified.metric, detected.metric) == ("top1", "box_ap")
    assert ladder_table(detected)["published_top1"].isna().all(), "the paper's ladder is of top-1"
    assert row(ladder_table(detected), "gelu")[["mean", "std"]].tolist() == [41.0, 1.0]
    assert detected.scores("top1")[frozenset(STEPS["gelu"])].tolist() == [90.0] * 3
