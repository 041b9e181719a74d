"""From records to frames: what is read, what is refused and named, and what counts."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from records import write_run, write_study

import analysis
from analysis import load
from analysis.sources import epochs
from analysis.sources.epochs import EPOCH_COLUMNS
from analysis.sources.rows import COLUMNS, disagreements
from roadmap.roads import Road

EPOCH = {"epoch": 1, "lr": 0.1, "train_loss": 2.0, "val_loss": 1.5, "top1": 30.5, "top5": 80.0, "seconds": 9.0}


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def epochs_of(folder: Path, text: str | bytes) -> tuple[pd.DataFrame, list[str]]:
    """The epochs of a run of this epochs.jsonl, and why some were skipped."""
    run = write_run(folder)
    (run / "epochs.jsonl").write_bytes(text if isinstance(text, bytes) else text.encode())
    runs = load(folder)
    assert len(runs.runs) == 1
    found = runs.epochs
    assert {path for path, _ in runs.skipped} <= {str(run / "epochs.jsonl")}
    return found, [why for _, why in runs.skipped]


# Finding and reading


def test_a_run_a_folder_and_a_glob_find_the_same_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "deep" / "er")
    for path in (run, str(run), tmp_path, f"{tmp_path}/d*/er/nano-*", [tmp_path, run]):
        assert load(path).runs["path"].tolist() == [str(run)]


def test_what_lies_inside_a_run_is_no_run(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    write_run(run / "backup")
    assert load(tmp_path).runs["path"].tolist() == [str(run)]


def test_frames_are_what_the_files_say(tmp_path: Path) -> None:
    """Beside a plain reading of the same files, every column of every run."""
    write_study(tmp_path, rungs=["resnet", "gelu"], seeds=[5, 6])
    write_run(tmp_path, None, status="failed", regime="resnet50", summary={"reason": "out of memory", "git": None})
    runs = load(tmp_path)
    assert runs.runs["path"].tolist() == sorted(map(str, tmp_path.iterdir()))
    for row in runs.runs.to_dict("records"):
        config, summary = (json.loads(Path(row["path"], f"{name}.json").read_text()) for name in ("config", "summary"))
        recipe = config["recipe"]
        truth = summary | config | {name: recipe[name] for name in ("epochs", "batch_size", "lr")}
        truth |= {"path": row["path"], "name": Path(row["path"]).name, "data_name": config["data"]["name"]}
        truth |= {"metric": "top1", "score": truth["top1"], "road": Road.from_json(truth["road"])}
        truth |= {"recipe_name": recipe["name"], "left_out": "" if summary["status"] == "done" else "failed"}
        assert {name: value for name, value in row.items() if value == value and value is not None} == {
            name: truth[name] for name in COLUMNS if truth.get(name) is not None
        }
    plain = [pd.read_json(Path(path, "epochs.jsonl"), lines=True).assign(path=path) for path in runs.runs["path"]]
    truth = pd.concat(plain, ignore_index=True).reindex(columns=["path", *EPOCH_COLUMNS])
    pd.testing.assert_frame_equal(runs.epochs.astype({"path": object}), truth, check_dtype=False)


def test_the_road_of_many_runs_is_read_once(tmp_path: Path) -> None:
    roads = load(write_study(tmp_path, rungs=["gelu"])).runs["road"]
    assert len({id(road) for road in roads}) == 1


def test_types_are_the_same_whatever_the_runs_hold(tmp_path: Path) -> None:
    nothing = {"top5": None, "macs": None, "started": None, "git": None, "epochs_done": 0}
    write_run(tmp_path / "one", status="queued", summary=nothing)
    write_run(tmp_path / "other", summary={"ema_top1": 3, "host": "a", "gpus": "0", "processes": 1})
    (next((tmp_path / "one").iterdir()) / "epochs.jsonl").unlink()
    one, other = load(tmp_path / "one"), load(tmp_path / "other")
    assert one.runs.dtypes.equals(other.runs.dtypes)
    assert one.epochs.drop(columns="path").dtypes.equals(other.epochs.drop(columns="path").dtypes)
    assert (len(one.epochs), one.skipped) == (0, [])
    assert one.runs["git"].iloc[0] is None


def test_epochs_join_runs(tmp_path: Path) -> None:
    runs = load(write_study(tmp_path, rungs=["resnet", "gelu"]))
    joined = runs.epochs.merge(runs.runs[["path", "rung", "top1"]], on="path", suffixes=("", "_end"))
    last = joined.groupby("path", observed=True).tail(1)
    assert len(joined) == len(runs.epochs) == 18
    assert last["top1"].tolist() == last["top1_end"].tolist()


def test_epochs_are_read_once_and_when_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path)
    calls = []
    plain = epochs.parse_lines
    monkeypatch.setattr(epochs, "parse_lines", lambda text: calls.append(text) or plain(text))
    runs = load(tmp_path)
    assert not calls
    assert runs.epochs is runs.epochs
    assert len(calls) == 1


# What is broken


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("config.json", '{"model": "des', "config.json is not JSON"),
        ("config.json", "[1, 2]", "is not a JSON object"),
        ("config.json", "[" * 5000, "config.json is not JSON"),
        ("config.json", b"\x00\xff\xfe\x80", "config.json is not JSON"),
        ("config.json", '{"architectures": ["Llama"]}', "'recipe' is missing"),
        ("config.json", '{"model": 1, "design": 1, "recipe": 1, "data": 1, "resolution": 1, "seed": 1}', "not a"),
        ("config.json", {"seed": 10**400}, "'seed' is no 64-bit integer"),
        ("config.json", {"seed": None}, "'seed' is missing"),
        ("config.json", {"model": None}, "'model' is missing"),
        ("config.json", {"design": [1]}, "'design' is not a JSON object"),
        ("config.json", {"steps": "gelu"}, "'steps' is not a list"),
        ("config.json", {"road": "convnext"}, "'road': not a road"),
        ("config.json", {"road": {"name": "mine", "rungs": [{"step": "a"}, {"step": 5}]}}, "a rung's step is 5"),
        ("config.json", {"road": {"name": "mine", "rungs": [{"step": "a", "published": {"top1": 1}}]}}, "'road'"),
        ("config.json", {"sync_batch_norm": 3}, "'sync_batch_norm' is not true or false"),
        ("summary.json", "", "summary.json is not JSON"),
        ("summary.json", '{"status": "done"}', "'identity' is missing"),
        ("summary.json", {"status": "odd"}, "status is 'odd'"),
        ("summary.json", {"status": ["done"]}, "status is"),
        ("summary.json", {"top1": math.nan}, "top1 is nan"),
        ("summary.json", {"top1": "high"}, "top1 is nan"),
        ("summary.json", {"metric": "box_ap"}, "box_ap is nan"),
        ("summary.json", {"metric": None}, "'metric' is missing"),
        ("config.json", {"road": None}, "'road' is missing"),
        ("summary.json", {"versions": "2.9"}, "'versions' is not a JSON object"),
        ("summary.json", None, "no summary.json"),
        ("config.json", None, "no config.json"),
    ],
)  # fmt: skip
def test_broken_records_are_skipped_and_named(tmp_path: Path, file: str, text: Any, reason: str) -> None:
    good, bad = write_run(tmp_path, seed=0), write_run(tmp_path, seed=1)
    if isinstance(text, dict):
        text = json.dumps(json.loads((bad / file).read_text()) | text)
    (bad / file).unlink() if text is None else (bad / file).write_bytes(
        text if isinstance(text, bytes) else text.encode()
    )
    runs = load(tmp_path)
    assert runs.runs["path"].tolist() == [str(good)]
    ((path, why),) = runs.skipped
    assert path == str(bad)
    assert reason in why
    assert "\n" not in why


def test_what_the_system_refuses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dangling link, a directory in place of a file, and a folder that may not be looked into."""
    good, dangling, directory = (write_run(tmp_path, seed=seed) for seed in range(3))
    (dangling / "config.json").unlink()
    (dangling / "config.json").symlink_to(tmp_path / "nowhere")
    (directory / "summary.json").unlink()
    (directory / "summary.json").mkdir()
    (good / "epochs.jsonl").unlink()
    (good / "epochs.jsonl").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    plain = os.scandir

    def scandir(path: str) -> Any:
        if os.path.basename(path) == "secret":
            raise PermissionError(13, "Permission denied", path)
        return plain(path)

    monkeypatch.setattr(os, "scandir", scandir)  # root, as whom a test may run, is refused nothing
    runs = load(tmp_path)
    assert (runs.runs["path"].tolist(), len(runs.epochs)) == ([str(good)], 0)
    assert dict(runs.skipped) == {
        str(tmp_path / "secret"): "cannot be read (Permission denied)",
        str(dangling): "no config.json",
        str(directory): "summary.json cannot be read (Is a directory)",
        f"{good}/epochs.jsonl": "cannot be read (Is a directory)",
    }


def test_nothing_to_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(analysis.RecordsError, match=r"nothing at .*; name a run"):
        load(tmp_path / "none")
    with pytest.raises(analysis.RecordsError, match=r"no run records in .*no run directory"):
        load(tmp_path)
    run = write_run(tmp_path)
    (run / "config.json").write_text("{")
    with pytest.raises(analysis.RecordsError, match=r"1 broken, the first: .*config.json is not JSON") as error:
        load([tmp_path])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "epochs", "reason"),
    [
        (lines(EPOCH, EPOCH | {"epoch": 2}), [1, 2], None),
        (lines(EPOCH) + "\n\n" + lines(EPOCH | {"epoch": 2}), [1, 2], None),
        ("", [], None),
        (lines(EPOCH, EPOCH | {"epoch": 2}) + '{"epoch": 3, "top1": 3', [1, 2], "1 of 3 lines are no epoch (line 3 is"),
        ('{"epoch": 1, "top1": 3', [], "1 of 1 lines are no epoch (line 1 is not JSON); none is left"),
        (b"\x00\xff\n\x80\n", [], "2 of 2 lines are no epoch"),
        (lines(EPOCH) + "[1, 2]\nnull\n7\n", [1], "3 of 4 lines are no epoch; the others are kept"),
        (lines(EPOCH, EPOCH | {"epoch": "two"}, EPOCH | {"epoch": 0.5}, {"top1": 3}), [1], "3 of 4 lines"),
        (lines(EPOCH, EPOCH | {"epoch": -3}, EPOCH | {"epoch": math.inf}), [1], "2 of 3 lines"),
        (lines(EPOCH | {"epoch": 10**400}, EPOCH), [1], "1 of 2 lines"),
    ],
)  # fmt: skip
def test_of_broken_epochs_the_good_are_kept(
    tmp_path: Path, text: str | bytes, epochs: list[int], reason: str | None
) -> None:
    found, reasons = epochs_of(tmp_path, text)
    assert found["epoch"].tolist() == epochs
    assert (found["top1"] == 30.5).all()
    assert len(reasons) == (reason is not None)
    assert all(why.startswith(reason) and "\n" not in why for why in reasons)


def test_losses_that_are_not_finite_and_what_is_no_number(tmp_path: Path) -> None:
    rows = [EPOCH | {"val_loss": math.nan}, EPOCH | {"epoch": 2, "val_loss": math.inf, "top1": None}]
    rows += [EPOCH | {"epoch": 3, "val_loss": "NaN", "top1": "high"}, EPOCH | {"epoch": 4, "val_loss": [1]}]
    rows += [EPOCH | {"epoch": 5, "val_loss": 10**400, "unknown": 1}, EPOCH | {"epoch": 6, "ema_top1": 40.0}]
    found, reasons = epochs_of(tmp_path, lines(*rows))
    np.testing.assert_array_equal(found["val_loss"], [math.nan, math.inf, math.nan, math.nan, math.nan, 1.5])
    np.testing.assert_array_equal(found["top1"], [30.5, math.nan, math.nan, 30.5, 30.5, 30.5])
    np.testing.assert_array_equal(found["ema_top1"], [math.nan] * 5 + [40.0])
    assert not reasons


def test_epochs_may_differ_in_what_they_hold(tmp_path: Path) -> None:
    more = EPOCH | {"epoch": 2, "ema_top1": 40.0}
    less = {name: value for name, value in EPOCH.items() if name != "lr"} | {"epoch": 2}
    found, _ = epochs_of(tmp_path / "more", lines(EPOCH, more))
    np.testing.assert_array_equal(found["ema_top1"], [math.nan, 40.0])
    found, _ = epochs_of(tmp_path / "less", lines(EPOCH, less))
    np.testing.assert_array_equal(found["lr"], [0.1, math.nan])


def test_of_an_epoch_that_is_there_again_the_last_is_kept(tmp_path: Path) -> None:
    again = EPOCH | {"epoch": 2, "top1": 50.0}
    found, reasons = epochs_of(tmp_path, lines(EPOCH, EPOCH | {"epoch": 2}, EPOCH | {"epoch": 3}, again))
    assert list(zip(found["epoch"], found["top1"], strict=True)) == [(1, 30.5), (2, 50.0), (3, 30.5)]
    assert reasons == ["1 lines repeat an epoch; the last line of each is kept"]


@pytest.mark.parametrize(("executable", "here"), [(sys.executable, 1), ("/no/python", 3), ("/bin/false", 3)])
def test_several_processes_read_what_one_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executable: str, here: int
) -> None:
    """Also where there can be no other process, so that all three shares are read here."""
    write_study(tmp_path, rungs=["resnet", "gelu", "kernel_7"], seeds=range(2))
    odd = write_run(tmp_path / "\udcff\n é", "layer_norm")
    (odd / "epochs.jsonl").write_text(lines(EPOCH) + "{")
    alone = load(tmp_path)
    expected = alone.epochs
    shares = []
    plain = epochs.read_files
    monkeypatch.setattr(epochs, "read_files", lambda paths: shares.append(paths) or plain(paths))
    monkeypatch.setattr(epochs, "SHARE", 2)
    monkeypatch.setattr(epochs, "_cores", lambda: 3)
    monkeypatch.setattr(sys, "executable", executable)
    several = load(tmp_path)
    pd.testing.assert_frame_equal(several.epochs, expected)
    assert several.skipped == alone.skipped != []
    assert len(shares) == here


# What counts


def test_what_is_left_out_says_why(tmp_path: Path) -> None:
    for seed, status in enumerate(["done", "queued", "running", "unfinished", "diverged", "failed", "done"]):
        write_run(tmp_path, seed=seed, status=status)
    runs = load(tmp_path)
    assert dict(zip(runs.runs["seed"], runs.runs["left_out"], strict=True)) == {
        **{0: "", 1: "queued", 2: "running", 3: "unfinished", 4: "diverged", 5: "failed", 6: ""}
    }
    assert runs.counted["seed"].tolist() == [0, 6]
    assert runs.left_out_note == (
        "5 of 7 runs are left out: 1 queued, 1 running, 1 unfinished, 1 diverged, 1 failed"
    )  # fmt: skip
    assert load(next(tmp_path.glob("*seed6*"))).left_out_note == ""


@pytest.mark.parametrize(
    ("runs", "kept", "note"),
    [
        ([("done", "01", "05"), ("done", "02", "04")], 1, "1 of 2 runs is left out: 1 copy of another"),
        ([("done", "02", "04"), ("done", "01", "04")], 1, "1 of 2 runs is left out: 1 copy of another"),
        ([("done", "01", "04"), ("done", "01", "04")], 0, "1 of 2 runs is left out: 1 copy of another"),
        ([("failed", "02", "02"), ("done", "01", "04")], 1, "1 of 2 runs is left out: 1 copy of another"),
        (
            [("done", "05", "06"), ("diverged", "01", "02")],
            1,
            "2 of 2 runs are left out: 1 diverged, 1 copy of another",
        ),
        ([("done", "01", "02"), ("diverged", "05", "06")], 0, "1 of 2 runs is left out: 1 copy of another"),
        (
            [("unfinished", "01", None), ("failed", "02", "03")],
            1,
            "2 of 2 runs are left out: 1 failed, 1 copy of another",
        ),
        (
            [("running", None, None), ("done", "02", "03"), ("done", None, None)],
            1,
            "2 of 3 runs are left out: 2 copies of others",
        ),
    ],
)
def test_copy_is_no_replicate(tmp_path: Path, runs: list[tuple], kept: int, note: str) -> None:
    """Of a series and seed, the first that finished or diverged counts, else the latest: training a run again, until it
    is good, changes nothing."""
    for index, (status, *days) in enumerate(runs):
        times = [day and f"2026-01-{day}T00:00:00+00:00" for day in days]
        write_run(tmp_path / str(index), status=status, summary=dict(zip(("started", "finished"), times, strict=True)))
    found = load(tmp_path)
    assert [place for place, why in enumerate(found.runs["left_out"]) if why != "copy"] == [kept]
    assert found.left_out_note == note
    assert len(found.runs) == len(runs)


def test_copies_that_disagree_are_named_and_equal_ones_are_not(tmp_path: Path) -> None:
    ends = [
        *((0, 84.01, "done"), (0, 83.12, "done"), (1, 80.0, "done"), (1, 80.0, "done"), (2, 80.0, "done")),
        *((3, 81.5, "done"), (3, None, "diverged"), (4, 80.0, "done"), (4, None, "failed")),
    ]
    for index, (seed, top1, status) in enumerate(ends):
        finished = f"2026-01-{20 - index}T00:00:00+00:00"
        write_run(tmp_path / f"{index}", seed=seed, top1=top1, status=status, summary={"finished": finished})
    one, other = disagreements(load(tmp_path).runs)
    name = next((tmp_path / "0").iterdir()).name
    assert one == (
        f"2 copies of {name} disagree: 83.12 ({tmp_path}/1/{name}, the first to end, which counts) "
        f"and 84.01 ({tmp_path}/0/{name})."
    )
    assert re.search(r"seed3\S+ disagree: diverged \(.+ counts\) and 81.5 ", other)
    for seed in range(10, 20):
        for index, top1 in enumerate((80.0, 81.0)):
            write_run(tmp_path / f"{seed}-{index}", seed=seed, top1=top1)
    *_, more = disagreements(load(tmp_path).runs)
    assert more == "So do copies of 8 more."


# Imports


def test_importing_the_package_costs_nothing() -> None:
    """And its public names are those of the modules that have them."""
    code = (
        "import sys; before = set(sys.modules); import analysis; new = set(sys.modules) - before\n"
        "assert not {'pandas', 'numpy', 'orjson', 'wandb'} & new, new\n"
        "from analysis.sources.load import load; assert analysis.load is load\n"
        "assert {'load', 'load_wandb', 'Runs', 'RecordsError'} <= set(dir(analysis))\n"
        "try: analysis.lode\n"
        "except AttributeError as error: assert 'lode' in str(error)\n"
        "else: raise AssertionError"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
