"""Figures show the numbers of their frames, legibly."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations

import matplotlib
import numpy as np
import pytest
from games import play
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from records import NANO, extended, write_run
from studies import write_everything, write_pair

import analysis
from analysis import figures
from analysis.figures import style
from analysis.text import signed
from roadmap.conf import OURS
from roadmap.roads import Road

pytestmark = pytest.mark.xdist_group("figures")  # drawn once


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return analysis.load(write_everything(tmp_path_factory.mktemp("study")))


@pytest.fixture(scope="module")
def comparison(runs):
    (only,) = analysis.comparisons(runs)
    return only


@pytest.fixture(scope="module")
def ladder(comparison):
    return analysis.ladder_table(comparison)


@pytest.fixture(scope="module")
def drawn(comparison, ladder, runs) -> dict[str, Figure]:
    """Every figure."""
    shapley = analysis.shapley_table(comparison)
    long, own = extended("grn", "star"), played(OWN, 3)
    lost = own.runs["seed"].eq(2) & own.runs["rung"].isin(["wide", "narrow"])
    diverged = replace(own, runs=own.runs.assign(left_out=own.runs["left_out"].mask(lost, "diverged")))
    return {
        "extended": figures.ladder_figure(analysis.ladder_table(played(long, 3))),
        "own": figures.ladder_figure(analysis.ladder_table(own)),
        "diverged": figures.ladder_figure(analysis.ladder_table(diverged, "a_mixer_of_channels_and_of_pixels")),
        "own effects": figures.effects_figure(analysis.effect_table(own)),
        "besides": figures.besides_figure(analysis.effect_table(own)),
        "own interactions": figures.interactions_figure(*(table(own) for table in TABLES)),
        "ladder": figures.ladder_figure(ladder),
        "published": figures.ladder_figure(analysis.published_ladder("resnet200")),
        "both": figures.ladder_figure(analysis.published_ladder(), analysis.published_ladder("resnet200")),
        "paper": figures.paper_figure(analysis.paper_table(ladder)),
        "beside paper": figures.beside_paper_figure(of_rungs(comparison, OURS.road().names)),
        "beside paper, sections": figures.beside_paper_figure(of_rungs(comparison, OURS.road().section_ends())),
        "long paper": figures.paper_figure(analysis.paper_table(analysis.ladder_table(played(LONG, 3)))),
        "effects": figures.effects_figure(analysis.effect_table(comparison)),
        "shapley": figures.shapley_figure(shapley),
        "interactions": figures.interactions_figure(shapley, analysis.interaction_table(comparison)),
        "pareto": figures.pareto_figure(analysis.cost_table(comparison)),
        "throughput": figures.pareto_figure(analysis.cost_table(comparison), "images_per_second"),
        "speed": figures.speed_figure(ladder),
        "panels": figures.learning_curves_figure(comparison.counted, runs.epochs),
        "curves": figures.learning_curves_figure(comparison.counted.query("rung in ['gelu', 'resnet']"), runs.epochs),
    }


OWN = Road.from_json(
    {
        "name": "mine",
        "sections": {"A": "Tokens and how they are embedded", "2.10": "Mixing of what is near, and of what is not"},
        "rungs": [
            {"name": "start", "section": "A", "title": "a baseline whose title is longer than there is room for it"},
            {"step": "overlap", "section": "A"},
            {"step": "a_mixer_of_channels_and_of_pixels", "section": "2.10"},
            {"step": "wide", "section": "a section without a number or a title"},
            {"step": "narrow", "section": "A", "adopted": False},
        ],
    }
)
LONG = Road.from_json(
    {
        "name": "long",
        "published": "resnet50",
        "rungs": [
            {"name": "start", "published": {"top1": 40, "gflops": 4}},
            *(
                {"step": f"step_{place}", "published": {"top1": 40 + place**2 / 12, "gflops": 4, "std": 0.1}}
                for place in range(1, 28)
            ),
        ],
    }
)
TABLES = (analysis.shapley_table, analysis.interaction_table)


def played(road: Road, seeds: int) -> analysis.Comparison:
    """The rungs of a road, its sections, leave-one-out, and a step on no rung."""
    sets = {*(rung.steps for rung in road.rungs), *road.leave_one_out(), *road.unions(road.groups().values())}
    sets |= {(*steps, "squeeze_and_excitation") for steps in road.leave_one_out()}
    return play(lambda steps: 60.0 + 2 * len(steps), sorted(sets), noise=0.5, seeds=seeds, road=road)


def of_rungs(comparison: analysis.Comparison, rungs: Iterable[str]) -> analysis.Comparison:
    """The runs of these rungs alone."""
    return replace(comparison, runs=comparison.runs[comparison.runs["rung"].isin(rungs)])


def bars_of(figure: Figure) -> list:
    containers = [one for axes in figure.axes for one in axes.containers if hasattr(one, "patches")]
    return [bar for container in containers for bar in container]


def texts_of(figure: Figure) -> list:
    return [text for axes in figure.axes for text in axes.texts] + figure.texts


def ends_of(figure: Figure) -> list[tuple[float, float]]:
    """From where to where each horizontal line of two points goes."""
    lines = [line.get_xdata() for axes in figure.axes for line in axes.lines if len(line.get_xdata()) == 2]
    return [tuple(np.round(np.asarray(x, float), 6)) for x in lines if x[0] != x[1]]


ALL = [
    *(
        "ladder",
        "published",
        "both",
        "paper",
        "long paper",
        "beside paper",
        "beside paper, sections",
        "effects",
        "shapley",
        "interactions",
        "pareto",
        "throughput",
        "speed",
    ),
    *("panels", "curves", "extended", "own", "own effects", "besides", "own interactions", "diverged"),
]


@pytest.mark.parametrize("name", ALL)
def test_no_text_is_cut_off_and_none_covers_another(drawn, name):
    figure = drawn[name]
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    boxes = {text: matplotlib.text.Text.get_window_extent(text, renderer) for text in seen(figure)}
    for text, box in boxes.items():
        assert text.get_fontsize() >= 7.5, text
        assert min(box.x0, box.y0) >= -1, text
        assert max(box.x1 - figure.bbox.x1, box.y1 - figure.bbox.y1) <= 1, text
    for (one, first), (other, second) in combinations(boxes.items(), 2):
        assert not first.padded(-1).overlaps(second.padded(-1)), f"{one.get_text()!r} and {other.get_text()!r}"


def seen(figure: Figure) -> list:
    """The texts that are drawn: not the labels of ticks beyond an axis's ends."""
    beyond = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        room = 1e-6 * (high - low)
        ticks = [tick for tick in axis.get_major_ticks() if not low - room <= tick.get_loc() <= high + room]
        off = axis.get_major_ticks() if not axis.axes.axison else ticks
        beyond |= {label for tick in off for label in (tick.label1, tick.label2)}
    texts = figure.findobj(matplotlib.text.Text)
    return [text for text in texts if text.get_visible() and text.get_text().strip() and text not in beyond]


@pytest.mark.parametrize("name", ALL)
def test_the_report_can_recolour_every_figure_for_a_dark_page(drawn, name):
    """Colours are the palette's, but for a heat map's cells."""
    found = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", style.svg(drawn[name])))
    own = {"#ffffff", "#1b2430"} if "interactions" in name else set()
    cells = {to_hex(figures.interactions.DIVERGING(x)) for x in np.linspace(0, 1, 257)} if own else set()
    near = {colour for colour in found - set(style.PALETTE.values()) - own if colour not in cells}
    assert not near or "interactions" in name
    page = style.inline_svg(style.svg(drawn[name]), name, "a <figure>")
    assert "var(--fig-ink" in page or "interactions" in name
    assert "a &lt;figure&gt;" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_figures_are_the_same_bytes_twice_and_touch_no_global_state(ladder, drawn, tmp_path):
    before = dict(matplotlib.rcParams)
    again = figures.ladder_figure(ladder)
    for kind in ("png", "svg", "pdf"):
        one, other = tmp_path / f"one.{kind}", tmp_path / f"other.{kind}"
        style.save(drawn["ladder"], one)
        style.save(again, other)
        assert one.read_bytes() == other.read_bytes()
    assert dict(matplotlib.rcParams) == before


def test_another_format_is_refused_in_a_line(drawn, tmp_path):
    with pytest.raises(ValueError, match=r"saved as \.png, \.svg or \.pdf"):
        style.save(drawn["ladder"], tmp_path / "ladder.jpg")


def test_figures_need_no_caption(ladder, comparison):
    """pandas loses `attrs` easily."""
    for table, draw in [
        (ladder, figures.ladder_figure),
        (ladder, figures.speed_figure),
        (analysis.paper_table(ladder), figures.paper_figure),
        (analysis.effect_table(comparison), figures.effects_figure),
        (analysis.cost_table(comparison), figures.pareto_figure),
    ]:
        bare = table.copy()
        bare.attrs = {}
        assert style.png(draw(bare), dpi=30)


# The ladder


def test_ladder_has_a_bar_a_rung_hatched_where_not_adopted(ladder, drawn):
    bars = bars_of(drawn["ladder"])
    hatched = [list(NANO)[round(bar.get_y() + bar.get_height() / 2)] for bar in bars if bar.get_hatch()]
    assert hatched == ["kernel_5", "kernel_9", "kernel_11"]
    assert [bar.get_x() + bar.get_width() for bar in bars] == pytest.approx(ladder["mean"].tolist())


def test_ladder_prints_accuracies_changes_and_macs_in_their_unit(ladder, drawn, tmp_path):
    texts = [text.get_text() for text in texts_of(drawn["ladder"])]
    bold = [text.get_text() for text in texts_of(drawn["ladder"]) if text.get_weight() == "bold"]
    assert "MACs (M)" in texts
    assert {f"{macs:.2f}" for _, macs, _ in NANO.values()} <= set(texts)
    for row in ladder.iloc[1:].itertuples():
        assert f"{row.mean:.2f} ± {row.std:.2f}" in texts
        assert signed(row.change) in texts
        assert (signed(row.change) in bold) == (row.verdict in ("up", "down"))
    write_run(tmp_path, "resnet", regime="resnet50", summary={"macs": 4_089_184_256})
    (full,) = analysis.comparisons(analysis.load(tmp_path))
    texts = [text.get_text() for text in texts_of(figures.ladder_figure(analysis.ladder_table(full)))]
    assert {"MACs (G)", "4.09"} <= set(texts)


def test_paper_and_measurement_never_share_an_axis(ladder, drawn):
    figure = drawn["ladder"]
    measured = next(axes for axes in figure.axes if "Fashion-MNIST" in axes.get_xlabel())
    published = next(axes for axes in figure.axes if "ImageNet-1K" in axes.get_xlabel())
    assert measured is not published
    assert "starts at" in measured.get_xlabel()
    assert measured.get_xlim()[0] < ladder["mean"].min()
    assert any("not the paper's ImageNet results" in text.get_text() for text in figure.texts)


def test_published_ladders_are_drawn_as_the_papers_figure_2(drawn):
    """Both regimes: the smaller before the larger; the two Transformers as stars."""
    small, large = (
        analysis.published_ladder(regime)["published_top1"].tolist() for regime in ("resnet50", "resnet200")
    )
    bars = bars_of(drawn["both"])
    lengths = {colour: [] for colour in ("bar", "side", "behind")}
    for bar in bars:
        (name,) = [name for name in lengths if style.PALETTE[name] == to_hex(bar.get_facecolor())]
        lengths[name].append(bar.get_x() + bar.get_width())
    assert sorted(lengths["bar"] + lengths["side"]) == pytest.approx(sorted(small))
    assert sorted(lengths["behind"]) == pytest.approx(sorted(large))
    stars = [line.get_xdata()[0] for axes in drawn["both"].axes for line in axes.lines if line.get_marker() == "*"]
    assert sorted(stars) == [81.3, 83.5]
    assert [one.name for regime in ("resnet50", "resnet200") for one in OURS.road(regime=regime).references] == [
        "Swin-T",
        "Swin-B",
    ]


def test_a_rung_without_finished_runs_says_so_and_one_without_any_is_not_there(tmp_path):
    write_pair(tmp_path, gelu={0: 80.0}, kernel_7={0: 79.0})
    write_run(tmp_path, "fewer_activations", status="running")
    write_run(tmp_path, "fewer_norms", status="diverged")
    write_run(tmp_path, "gelu", seed=1, status="diverged")
    (found,) = analysis.comparisons(analysis.load(tmp_path))
    texts = [text.get_text().strip() for text in texts_of(figures.ladder_figure(analysis.ladder_table(found)))]
    assert texts.count("no finished run") == 1
    assert "1 of 1 diverged" in texts
    assert "80.00, 1 of 2 trained" in texts
    assert "BN to LN" not in texts


# The others


def test_paper_figure_has_intervals_and_published_noise(ladder, drawn):
    table = analysis.paper_table(ladder)
    axes = drawn["paper"].axes[0]
    vertical = [tuple(line.get_ydata()) for line in axes.lines if len(line.get_ydata()) == 2]
    for row in table.itertuples():
        assert (row.low, row.high) in vertical
    points = {(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_marker() in ("o", "s")}
    assert points == {(row.published_change, row.change) for row in table.itertuples()}
    squares = [line for line in axes.lines if line.get_marker() == "s"]
    assert len(squares) == 3  # measured by the paper, not adopted


@pytest.mark.parametrize(
    ("name", "rungs"), [("beside paper", OURS.road().names), ("beside paper, sections", OURS.road().section_ends())]
)
def test_beside_the_paper_both_sides_have_the_same_steps_each_in_its_own_colour(comparison, drawn, name, rungs):
    table = analysis.ladder_table(of_rungs(comparison, rungs), nearest=True)
    _, here, published = drawn[name].axes
    steps = table[table["reference"].notna()]
    for axes, column, accuracy, colour in (
        (here, "change", "mean", "bar"),
        (published, "published_change", "published_top1", "published"),
    ):
        bars = [bar for container in axes.containers if hasattr(container, "patches") for bar in container]
        assert [bar.get_width() for bar in bars] == pytest.approx(steps[column].tolist(), abs=0.005)
        ends = [bar.get_x() + bar.get_width() for bar in bars]
        assert ends == pytest.approx(steps[accuracy].tolist())
        assert {to_hex(bar.get_edgecolor()) for bar in bars} == {style.PALETTE[colour]}
        hollow = [to_hex(bar.get_facecolor()) == style.PALETTE["paper"] for bar in bars]
        assert hollow == [change < 0 for change in steps[column]]
    seeds = [x for line in here.lines if line.get_marker() == "o" for x in line.get_xdata()]
    road = comparison.road
    assert sorted(seeds) == sorted(x for rung in rungs for x in comparison.values(road[rung].steps))
    intervals = ends_of(drawn[name])
    assert {(round(row.mean_low, 6), round(row.mean_high, 6)) for row in table.itertuples()} <= set(intervals)
    texts = [text.get_text() for text in texts_of(drawn[name])]
    assert any("ImageNet-1K" in text and "not ours" in text for text in texts)


def test_effects_have_a_mark_a_step_and_question_filled_where_shown(comparison, drawn):
    table = analysis.effect_table(comparison)
    assert set(table["kind"]) == {"road", "leave_one_out"}
    axes = drawn["effects"].axes[0]
    marks = [line for line in axes.lines if len(line.get_xdata()) == 1]
    assert sorted(line.get_xdata()[0] for line in marks) == pytest.approx(sorted(table["effect"]))
    hollow = [line.get_xdata()[0] for line in marks if to_hex(line.get_markerfacecolor()) == style.PALETTE["paper"]]
    assert sorted(hollow) == pytest.approx(sorted(table[~table["verdict"].isin(["up", "down"])]["effect"]))
    ends = {(round(row.low, 6), round(row.high, 6)) for row in table.itertuples()}
    assert ends <= set(ends_of(drawn["effects"]))


def test_heat_map_prints_values_on_the_diagonal_and_interactions_below(comparison, drawn):
    shapley, interactions = analysis.shapley_table(comparison), analysis.interaction_table(comparison)
    axes = drawn["interactions"].axes[0]
    cells = {(round(x), round(y)): text.get_text() for text in axes.texts for x, y in [text.get_position()]}
    names = shapley["section"].tolist()
    for index, value in enumerate(shapley["value"]):
        assert cells[index, index] == signed(value)
    for row in interactions.itertuples():
        column, line = sorted((names.index(row.one), names.index(row.other)))
        assert cells[column, line].lstrip("+") == signed(row.interaction).lstrip("+")
    assert len(cells) == 6 + 15
    bold = [text.get_weight() == "bold" for text in axes.texts]
    assert bold == [*shapley["verdict"].isin(["up", "down"]), *interactions["verdict"].isin(["up", "down"])]
    assert 0 < sum(bold) < len(bold)


def test_where_there_is_nothing_to_draw_the_figure_says_why(tmp_path):
    """Of a model of timm's alone, whose record has no counts: nobody's notebook stops at a cell."""
    counts = dict.fromkeys(("macs", "params", "activations", "images_per_second", "train_seconds"))
    write_run(tmp_path, None, config={"model": "timm:resnet18"}, summary=counts)
    runs = analysis.load(tmp_path)
    (found,) = analysis.comparisons(runs)
    ladder, effects, costs = analysis.ladder_table(found), analysis.effect_table(found), analysis.cost_table(found)
    shapley, interactions = (table(found) for table in TABLES)
    expected = {
        figures.beside_paper_figure(found): "Nothing was published about the networks measured here",
        figures.paper_figure(analysis.paper_table(ladder)): "None of the published changes was measured here",
        figures.effects_figure(effects): "No two networks with finished runs differ in a step of the road alone",
        figures.besides_figure(effects): "No two networks with finished runs differ in such a step alone",
        figures.shapley_figure(shapley): "64 of 64 combinations of sections have no finished run",
        figures.interactions_figure(shapley, interactions): "64 of 64 combinations of sections have no finished run",
        figures.pareto_figure(costs): "No finished run’s record has its multiply-adds per image",
        figures.speed_figure(ladder): "No rung has a finished run whose cost is known",
        figures.learning_curves_figure(found.counted, runs.epochs, "ema_top1"): "No epoch of these runs has ema_top1;",
        figures.learning_curves_figure(found.counted[:0], runs.epochs): "No epoch of these runs has anything;",
    }
    for figure, words in expected.items():
        assert words in " ".join(" ".join(text.get_text() for text in texts_of(figure)).split())
        assert style.png(figure, dpi=30)


def test_what_some_runs_do_not_know_is_a_dash(tmp_path):
    write_pair(tmp_path, gelu={}, summary={"macs": None, "images_per_second": None})
    write_pair(tmp_path, kernel_7={})
    (found,) = analysis.comparisons(analysis.load(tmp_path))
    texts = [text.get_text() for text in texts_of(figures.speed_figure(analysis.ladder_table(found)))]
    assert texts.count("–") == 2
    assert "nan" not in texts


def test_pareto_rings_the_front_and_names_it(comparison, drawn):
    table = analysis.cost_table(comparison)
    front = table[table["front_images_per_second"]]
    axes = drawn["throughput"].axes[0]
    (rings,) = [line for line in axes.lines if line.get_markersize() == 11]
    assert sorted(rings.get_xdata()) == pytest.approx(sorted(front["images_per_second"]))
    assert len([text for text in axes.texts if not text.get_text().startswith("not shown")]) == len(front)
    with pytest.raises(ValueError, match="no front of 'top1'"):
        figures.pareto_figure(table, "top1")


def test_speed_is_relative_to_the_first_rung(ladder, drawn):
    bars = [bar.get_width() for bar in bars_of(drawn["speed"])]
    for start, column in ((0, "macs"), (17, "images_per_second")):
        assert bars[start : start + 17] == pytest.approx((ladder[column] / ladder[column].iloc[0]).tolist())


def test_learning_curves_draw_the_mean_over_seeds(ladder, drawn):
    last = ladder.set_index("rung")["mean"]
    panel = next(axes for axes in drawn["panels"].axes if "Inverted" in axes.get_title(loc="left"))
    (line,) = [line for line in panel.lines if line.get_label() == "inverting dimensions"]
    assert line.get_ydata()[-1] == pytest.approx(last["invert_dimensions"])
    lines = {line.get_label(): line.get_ydata()[-1] for line in drawn["curves"].axes[0].lines}
    assert lines == pytest.approx({"gelu": last["gelu"], "resnet": last["resnet"]})


def test_a_road_without_published_numbers_has_none_in_its_figure(drawn):
    texts = [text.get_text() for text in texts_of(drawn["own"])]
    assert "The road mine, one step at a time" in texts
    assert "published" not in texts
    assert len(drawn["own"].axes) == 2
    texts = [text.get_text() for text in texts_of(drawn["extended"])]
    assert "published" in texts
    assert "81.97" in texts


def test_effects_of_steps_on_no_rung_are_drawn_where_they_are(drawn):
    table = analysis.effect_table(played(OWN, 3)).query("kind == 'besides'")
    assert ends_of(drawn["besides"]) == [tuple(row) for row in table[["low", "high"]].round(6).to_numpy()]


def test_beside_the_paper_a_rung_that_was_not_published_has_a_change_here_alone():
    """On a road that goes on from the paper's; the published panel still has all that was published."""
    comparison = of_rungs(played(extended("grn", "star"), 3), ("layer_norm", "separate_downsampling", "grn", "star"))
    table = analysis.ladder_table(comparison, nearest=True).set_index("rung")
    figure = figures.beside_paper_figure(comparison)
    texts = [text.get_text() for text in texts_of(figure)]
    for rung in ("separate_downsampling", "grn", "star"):
        assert signed(table.loc[rung, "change"]) in texts
    assert texts.count("–") == 2  # the published changes of the two
    _, here, published = figure.axes
    assert [len(axes.patches) for axes in (here, published)] == [3, 1]
    low, high = published.get_xlim()
    assert low < table.loc["separate_downsampling", "published_top1"] < high
