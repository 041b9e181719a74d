"""`analysis.statistics.costs`: the Pareto front, against every pair of rows."""

import numpy as np
import pandas as pd
import pytest
from games import comparison

from analysis.statistics.costs import cost_table, pareto_front
from roadmap.conf import ladder


@pytest.mark.parametrize("smaller_is_better", [True, False])
def test_the_front_is_what_no_row_beats(smaller_is_better):
    generator = np.random.default_rng(0)
    table = pd.DataFrame(generator.integers(0, 8, (60, 2)), columns=["cost", "mean"]).astype(float)
    table.iloc[3, 0], table.iloc[5, 1] = np.nan, np.nan
    sign = 1 if smaller_is_better else -1
    points = [(sign * cost, -top1) for cost, top1 in table.to_numpy()]
    beaten = [
        any(all(np.less_equal(other, one)) and other != one for other in points) or any(np.isnan(one)) for one in points
    ]
    result = pareto_front(table.sample(frac=1, random_state=0), "cost", smaller_is_better=smaller_is_better)
    assert result.reindex(table.index).tolist() == [not one for one in beaten]


def test_cost_table_has_what_is_measured_with_its_fronts():
    rungs = {rung.name: rung for rung in ladder("nano")}
    names = ("resnet", "kernel_5", "kernel_7")
    played = comparison({rungs[name].steps: {0: top1} for name, top1 in zip(names, (80, 82, 81), strict=True)})
    runs = played.runs.assign(processes=2)
    runs = runs.assign(macs=[3, 1, 2], params=[1, 2, 3], images_per_second=[9, 5, 5], train_seconds=[3600.0, 1800, 900])
    runs.loc[len(runs)] = {"network": "gelu", "rung": "gelu", "set": None, "left_out": "failed"}
    runs.loc[len(runs)] = {
        **runs.iloc[0],
        "network": "timm:small",
        "set": None,
        "rung": None,
        "score": 70,
        "params": 0.5,
    }
    table = cost_table(type(played)(played.context, runs)).set_index("network")
    assert table["title"].tolist() == [*(rungs[name].title for name in names), "timm:small"]
    assert table["adopted"].tolist() == [True, False, True, pd.NA]
    assert table["device_hours"].tolist() == [2, 1, 0.5, 2]
    assert table["front_macs"].tolist() == [False, True, False, False]
    assert table["front_params"].tolist() == [True, True, False, True]
    assert table["front_images_per_second"].tolist() == [True, True, False, False]
    assert table["front_device_hours"].tolist() == [False, True, True, False]
