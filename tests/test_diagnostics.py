"""`statistics.diagnostics`: what the report says of noise that is not what the statistics assume, against scipy."""

import numpy as np
import pytest
from games import ROAD, comparison
from scipy import stats

from analysis.report.findings import findings
from analysis.statistics.contrasts import contrast
from analysis.statistics.diagnostics import noise_concerns, seeds_by_half, unequal_variances
from analysis.statistics.ladder import ladder_table
from analysis.statistics.noise import Scatter
from analysis.statistics.paper import agreement, paper_table

RUNGS = [rung.steps for rung in ROAD.rungs]


def ladder(values):
    return comparison({steps: dict(enumerate(one)) for steps, one in zip(RUNGS, values, strict=False)})


def test_variances_are_compared_by_bartletts_test_without_the_largest():
    generator = np.random.default_rng(0)
    samples = [
        generator.normal(size=size) * scale for size, scale in zip((3, 4, 5, 6, 3), (1, 2, 1, 5, 99), strict=True)
    ]
    squares = np.array([one.var() * len(one) for one in samples])
    freedom = np.array([len(one) - 1.0 for one in samples])
    result = unequal_variances(Scatter(squares, freedom, np.ones(5), np.zeros(5, bool)))
    assert result == pytest.approx(stats.bartlett(*samples[:4]).pvalue)


def test_halves_are_compared_by_the_f_test_of_nested_least_squares():
    generator = np.random.default_rng(0)
    values = generator.normal(size=(7, 3)) + np.repeat(generator.normal(size=(2, 3)), [4, 3], axis=0)
    network, seed = np.indices(values.shape).reshape(2, -1)
    half = (network > 3).astype(int)

    def left(columns):
        design = np.column_stack([np.eye(7)[network], np.eye(columns.max() + 1)[columns]])
        return np.sum((values.ravel() - design @ np.linalg.lstsq(design, values.ravel(), rcond=None)[0]) ** 2)

    together, apart = left(seed), left(3 * half + seed)
    freedom = 21 - 7 - 4
    p = stats.f.sf((together - apart) / 2 / (apart / freedom), 2, freedom)
    assert seeds_by_half(values) == pytest.approx(p)


def test_concerns_name_what_is_odd_and_nothing_else():
    values = 60 + 0.5 * np.random.default_rng(2).normal(size=(17, 3))
    assert noise_concerns(ladder(values)) == []
    collapsed = values.copy()
    collapsed[5, 1] = 10.0
    [line] = noise_concerns(ladder(collapsed))
    assert line.startswith("increase_width (")
    assert "varies far more between seeds than other networks do (0." in line
    uneven = 60 + (values - 60) * np.where(np.arange(17) % 3, 0.1, 6)[:, None]
    assert any("Bartlett" in line for line in noise_concerns(ladder(uneven)))
    halved = values.copy()
    halved[9:] += [3.0, -3.0, 0.0]
    [line] = noise_concerns(ladder(halved))
    assert "F test, p < 0.001" in line
    assert noise_concerns(ladder(values[:, :1])) == []


def test_a_collapsed_network_is_named_and_goes_nobodys_way():
    """Three seeds at exact chance: nothing that the steps from and to it change is held against the paper."""
    values = 60 + 0.5 * np.random.default_rng(2).normal(size=(17, 3))
    values[12] = 10.0
    played = ladder(values)
    table = ladder_table(played)
    assert table["rung"][table["collapsed"]].tolist() == ["gelu"]
    assert table["verdict"][12:14].tolist() == ["down", "up"]
    assert "Hardly trained, so changes from and to it say little: ReLU to GELU (10.00)." in findings(table)
    published = paper_table(table).set_index("rung")
    assert published.loc[["gelu", "fewer_activations"], "verdict"].tolist() == ["hardly trained"] * 2
    assert agreement(table).measured == 14
    assert noise_concerns(played) == []


def test_where_most_networks_never_vary_the_seed_is_doubted_and_nothing_has_an_interval():
    values = 60 + np.arange(17.0)[:, None] * np.ones(3)
    played = ladder(values)
    assert noise_concerns(played)[0].startswith("Most networks have the same result with every seed.")
    assert set(ladder_table(played)["verdict"][1:]) == {"noise unknown"}


def test_most_of_a_folder_at_chance_hides_nothing_of_the_rest():
    """Thirteen of seventeen rungs: the four others say what the noise is, among themselves."""
    generator = np.random.default_rng(0)
    values = np.full((17, 3), 10.0)
    values[:4] = 60 + 0.5 * generator.normal(size=(4, 3))
    played = ladder(values)
    assert len(played.collapsed) == 13
    assert noise_concerns(played) == [], "that they hardly trained is among the findings"
    alone = ladder(values[:4])
    assert contrast(played, RUNGS[1], RUNGS[0])["error"] == pytest.approx(contrast(alone, RUNGS[1], RUNGS[0])["error"])
