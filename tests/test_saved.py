"""What two CSVs keep of runs: all of it but the machine's names, to the bit; and what is refused."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from records import road_of, write_run, write_study

import analysis
from analysis import load

EPOCH = {"epoch": 1, "lr": math.inf, "val_loss": math.nan, "top1": 30.5, "ema_top1": 1e-9, "seconds": 9.0}


def saved(runs: analysis.Runs, folder: Path) -> analysis.Runs:
    """Written and read again."""
    runs.save(folder)
    return load(folder)


def same(one: analysis.Runs, other: analysis.Runs) -> None:
    """But for where they are."""
    pd.testing.assert_frame_equal(one.runs.drop(columns=["path", "host"]), other.runs.drop(columns=["path", "host"]))
    pd.testing.assert_frame_equal(one.epochs.drop(columns="path"), other.epochs.drop(columns="path"))
    assert one.epochs["path"].cat.codes.tolist() == other.epochs["path"].cat.codes.tolist()


def test_saved_runs_come_back_equal(tmp_path: Path) -> None:
    hard = {"reason": 'line\nand "quotes", commas; NaN\r\n', "gpus": "0", "study": "1", "device": "None", "git": None}
    write_study(tmp_path / "runs" / "a", rungs=["resnet", "gelu"])
    write_run(tmp_path / "runs" / "b", "gelu", seed=-7, status="failed", summary=hard | {"val_loss": math.inf})
    odd = {"differs": {"recipe.lr": 1e-300, "é": [None, True, {"a": math.pi}]}, "sync_batch_norm": False}
    run = write_run(tmp_path / "runs" / "b", None, seed=2**62, config=odd, summary={"ema_top1": 1 / 3, "versions": {}})
    (run / "epochs.jsonl").write_text(json.dumps(EPOCH))
    runs = load(tmp_path / "runs")
    again = saved(runs, tmp_path / "kept")
    same(runs, again)
    assert again.runs["path"].tolist() == [
        str(tmp_path / "kept" / Path(path).relative_to(tmp_path / "runs")) for path in runs.runs["path"]
    ]
    assert sorted(os.listdir(tmp_path / "kept")) == ["epochs.csv", "roads.json", "runs.csv"]
    twice = saved(again, tmp_path / "twice")
    for name in ("runs.csv", "epochs.csv"):
        assert (tmp_path / "twice" / name).read_bytes() == (tmp_path / "kept" / name).read_bytes()
    same(again, twice)


def test_saved_runs_are_read_without_their_records_and_beside_others(tmp_path: Path) -> None:
    write_run(tmp_path / "old", "gelu")
    load(tmp_path / "old").save(tmp_path / "all" / "kept")
    shutil.rmtree(tmp_path / "old")
    write_run(tmp_path / "all", "kernel_7")
    runs = load(tmp_path / "all")
    assert sorted(runs.runs["rung"]) == ["gelu", "kernel_7"]
    assert len(runs.epochs) == 6
    assert runs.left_out_note == ""


def test_saved_runs_have_their_road_and_without_it_are_named(tmp_path: Path) -> None:
    road = road_of("overlap", "mixer", title="Road to /home/jane/mixer")
    write_run(tmp_path / "runs", "mixer", road=road)
    write_run(tmp_path / "runs", "resnet")
    again = saved(load(tmp_path / "runs"), tmp_path / "kept").runs.set_index("rung")["road"]
    assert again["mixer"] == replace(road, title="Road to mixer")
    file = tmp_path / "kept" / "roads.json"
    roads = json.loads(file.read_text())
    file.write_text(json.dumps({name: kept for name, kept in roads.items() if kept["name"] != "mine"}))
    runs = load(tmp_path / "kept")
    assert runs.runs["rung"].tolist() == ["resnet"]
    assert [why for _, why in runs.skipped] == ["'road 1' is not in roads.json"]


def test_saved_beside_its_own_records_is_no_second_run(tmp_path: Path) -> None:
    write_study(tmp_path, rungs=["gelu"])
    runs = load(tmp_path)
    again = saved(runs, tmp_path)
    pd.testing.assert_frame_equal(again.runs, runs.runs)
    pd.testing.assert_frame_equal(again.epochs, runs.epochs)


def test_no_machine_is_named_in_what_is_saved(tmp_path: Path) -> None:
    secret = "/home/jane doe/data sets/imagenet"
    config = {"data": {"path": secret, "name": "imagenet"}, "init": {"source": "~/weights/it.pt", "digest": "d"}}
    reason = f"cannot read {tmp_path}/img/1.jpg on node-17 or C:\\Users\\jane\\a.txt, see https://example.org/a/b, 1/2"
    write_run(tmp_path / "runs", "gelu", config=config, summary={"host": "node-17", "reason": reason})
    write_run(tmp_path / "runs", "resnet", summary={"host": "other.cluster.local"})
    write_run(tmp_path / "runs", "resnet", seed=1, summary={"host": "node-17"})
    again = saved(load(tmp_path / "runs"), tmp_path / "kept")
    text = (tmp_path / "kept" / "runs.csv").read_text() + (tmp_path / "kept" / "epochs.csv").read_text()
    for word in ("jane", "home", "node-17", "cluster", str(tmp_path), tmp_path.name, "~"):
        assert word not in text
    table = again.runs.set_index(["rung", "seed"])
    assert table["host"].to_dict() == {("gelu", 0): "host 1", ("resnet", 0): "host 2", ("resnet", 1): "host 1"}
    run = table.loc[("gelu", 0)]
    assert (run["data"]["path"], run["init"]["source"]) == ("imagenet", "it.pt")
    assert run["reason"] == "cannot read 1.jpg on host 1 or a.txt, see https://example.org/a/b, 1/2"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"date,price\n1,2\n", "not written by Runs.save: no column 'path'"),
        (b"", "not written by Runs.save"),
        (random.Random(0).randbytes(3000), "not written by Runs.save"),
        (b'path,status,seed,series\n"a,done', "no CSV"),
        (b"path,status,seed,series\na,done,0,s\n", "'resolution' is missing"),
        (b"path,status,seed,series,recipe\na,done,0,s,{\n", "'recipe' is not JSON"),
        (b"path,status,seed,series\na\n", "'seed' is missing"),
    ],
)
def test_foreign_csv_is_named(tmp_path: Path, text: bytes, reason: str) -> None:
    run = write_run(tmp_path)
    (tmp_path / "runs.csv").write_bytes(text)
    runs = load(tmp_path)
    assert runs.runs["path"].tolist() == [str(run)]
    ((path, why),) = runs.skipped
    assert path.startswith(str(tmp_path / "runs.csv"))
    assert reason in why
    assert "\n" not in why


@pytest.mark.parametrize("text", [None, b"", b"a,b\n1,2\n", b'path,epoch\n"x,1', b"\x00\xff\xfe"])
def test_saved_runs_without_good_epochs_are_kept(tmp_path: Path, text: bytes | None) -> None:
    load(write_run(tmp_path / "runs")).save(tmp_path / "kept")
    file = tmp_path / "kept" / "epochs.csv"
    file.unlink() if text is None else file.write_bytes(text)
    runs = load(tmp_path / "kept")
    assert (len(runs.runs), len(runs.epochs)) == (1, 0)
    ((path, why),) = runs.skipped
    assert path == str(file)
    assert "\n" not in why


def test_of_saved_epochs_the_good_are_kept(tmp_path: Path) -> None:
    run = load(write_run(tmp_path / "runs"))
    run.save(tmp_path / "kept")
    file = tmp_path / "kept" / "epochs.csv"
    head, first, second, third = file.read_text().splitlines()
    name = first.partition(",")[0]
    file.write_text("\n".join([head, third, second, f"{name},soon", f"{name},4", f"another{first}", second, "", name]))
    runs = load(tmp_path / "kept")
    assert runs.epochs["epoch"].tolist() == [2, 3, 4]
    assert runs.epochs["top1"].tolist()[:2] == run.epochs["top1"].tolist()[1:]
    assert np.isnan(runs.epochs["top1"].iloc[2])
    ((_, why),) = runs.skipped
    assert why.startswith(f"{name}: 2 of 6 lines are no epoch; the others are kept; 1 lines repeat an epoch")
