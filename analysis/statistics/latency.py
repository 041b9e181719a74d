"""How fast the rungs of a road are: measured times in the road's order, relative to its first rung."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.sources.runs import Runs
from analysis.text import NOTHING
from roadmap.common.words import counted
from roadmap.roads import Road, Rung

SETTING = (
    *("regime", "resolution", "classes", "device", "processor", "threads"),
    *("precision", "memory_format", "compiled", "gradient_checkpointing", "torch"),
)
"""What networks whose speeds are compared have in common, besides their road."""
WORKLOAD = ("mode", "batch")
COLUMNS = (
    *("road", *SETTING, *WORKLOAD, "network", "rung", "parent", "title", "section"),
    *("adopted", "published_top1", "published_std", "macs", "params", "activations", "ms", "ms_low", "ms_high"),
    *("images_per_second", "images_per_second_low", "images_per_second_high", "rounds"),
    *("relative", "relative_low", "relative_high", "relative_macs", "started", "busy"),
)


def latency_table(runs: Runs) -> pd.DataFrame:
    """One row per network, setting, mode and batch size of `Runs.latency`: settings one after the other, in each the
    modes and batch sizes, and in each of these the rungs in the road's order, then other networks by name.

    `road`; the setting: `regime`, `resolution`, `classes`, `device`, `processor`, `threads`, `precision`,
    `memory_format`, `compiled`, `gradient_checkpointing`, `torch` (its version); `mode` (inference, or training: a
    step) and `batch`; `network`; of a rung, else None or NaN, `rung`, `parent`, `title`, `section`, `adopted`,
    `published_top1`, `published_std` (percent); `macs`, `params`, `activations`; `ms`, the median over rounds of a
    pass's milliseconds, with quartiles `ms_low`, `ms_high`; `images_per_second` of that median, and of the quartiles;
    `rounds`; `relative`, how many times as fast as the first rung that was measured: the median over rounds, with
    quartiles, as both had a turn in each (of the medians, without quartiles, if two calls measured them);
    `relative_macs`; `started`, when the call began that measured it; and `busy`, whether other processes kept the
    machine busy.

    Of a network that was measured several times, the last time counts.
    """
    torch = [str((versions or {}).get("torch") or "") for versions in runs.latency["versions"]]
    frame = runs.latency.assign(torch=torch).sort_values("started", kind="stable")
    frame = frame.drop_duplicates(["road", "identity", *WORKLOAD], keep="last").sort_index()
    rows: list[dict[str, Any]] = []
    for setting in _groups(frame, ["road", *SETTING]):
        for workload in _groups(setting.sort_values(list(WORKLOAD), kind="stable"), list(WORKLOAD)):
            rows += _rows(workload.to_dict("records"))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table["adopted"] = table["adopted"].astype("boolean")
    return table


def settings_of(table: pd.DataFrame) -> list[pd.DataFrame]:
    """A `latency_table` by road and setting: what may be compared. The setting with the most rungs comes first, and of
    equal ones that of the largest networks."""
    tables = _groups(table, ["road", *SETTING])
    return sorted(tables, key=lambda rows: (-rows["rung"].nunique(), -rows["macs"].max()))


def workloads_of(table: pd.DataFrame) -> list[pd.DataFrame]:
    """A `latency_table` of one setting by mode and batch size."""
    return _groups(table, list(WORKLOAD))


def setting_words(row: Mapping[str, Any]) -> str:
    """On what, and how: "AMD EPYC 7B13, 2 threads, float32, channels last"."""
    on_cpu = row["device"] == "cpu"
    threads = "" if math.isnan(row["threads"]) else counted(int(row["threads"]), "thread")
    processor = row["processor"] if pd.notna(row["processor"]) else "CPU"
    device = f"{processor}, {threads}" if on_cpu else row["device"]
    compiled = "compiled" if row["compiled"] else ""
    checkpointing = "gradient checkpointing" if row["gradient_checkpointing"] else ""
    layout = str(row["memory_format"]).replace("_", " ")
    return ", ".join(filter(None, [device, row["precision"], layout, compiled, checkpointing]))


def workload_words(row: Mapping[str, Any]) -> str:
    """ "inference, batch 64", "training step, batch 64"."""
    return f"{'training step' if row['mode'] == 'training' else 'inference'}, batch {row['batch']}"


def _groups(frame: pd.DataFrame, columns: list[str]) -> list[pd.DataFrame]:
    """The rows with equal values in some columns, in order of appearance."""
    keys = [
        tuple(NOTHING if value != value else value for value in row) for row in frame[columns].itertuples(index=False)
    ]
    groups: dict[tuple, list[int]] = {}
    for position, key in enumerate(keys):
        groups.setdefault(key, []).append(position)
    return [frame.iloc[positions].reset_index(drop=True) for positions in groups.values()]


def _rows(measured: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The table's rows of one setting, mode and batch size."""
    road: Road = measured[0]["road"]
    position = {name: index for index, name in enumerate(road.names)}
    last = len(position)
    ordered = sorted(measured, key=lambda row: (position.get(row["rung"], last), row["network"]))
    first = ordered[0] if ordered[0]["rung"] in position else None
    return [_row(row, road, first) for row in ordered]


def _row(row: dict[str, Any], road: Road, first: dict[str, Any] | None) -> dict[str, Any]:
    rung = road[row["rung"]] if row["rung"] in road.names else None
    low, high = (1e3 * row["batch"] / row[quartile] for quartile in ("ms_high", "ms_low"))
    values = {column: row[column] for column in COLUMNS if column in row}
    return {
        **values,
        "rung": rung and rung.name,
        "title": rung.title if rung else row["network"],
        **_of_rung(rung),
        "images_per_second_low": low,
        "images_per_second_high": high,
        **_relative(row, first),
        "relative_macs": row["macs"] / first["macs"] if first else math.nan,
    }


def _of_rung(rung: Rung | None) -> dict[str, Any]:
    published = rung.published if rung else None
    return {
        "parent": rung and rung.parent,
        "section": rung and rung.section,
        "adopted": rung and rung.adopted,
        "published_top1": published.top1 if published else math.nan,
        "published_std": math.nan if published is None or published.std is None else published.std,
    }


def _relative(row: dict[str, Any], first: dict[str, Any] | None) -> dict[str, float]:
    """How many times as fast as the first rung."""
    if first is None:
        low = median = high = math.nan
    elif row["started"] == first["started"] and len(row["ms_of_rounds"]) == len(first["ms_of_rounds"]):
        ratios = np.array(first["ms_of_rounds"], float) / np.array(row["ms_of_rounds"], float)
        low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75]).tolist()
    else:
        low, median, high = math.nan, first["ms"] / row["ms"], math.nan
    return {"relative": median, "relative_low": low, "relative_high": high}
