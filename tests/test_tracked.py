"""Runs load to the same frames from their records, from W&B, and from what W&B's client keeps offline.

The records are synthetic; what is at W&B, and offline, was copied there by the process that follows a training.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
import wandb
from records import write_run
from wandb_server import ReceivedRun, Server

import analysis
from analysis.sources import wandb as tracked

pytestmark = pytest.mark.xdist_group("tracked")  # copied once

MIRROR = Path(__file__).parents[1] / "experiments" / "tracking" / "wandb_mirror.py"
IDS = {"done": "aaaaaaaa", "diverged": "bbbbbbbb", "resumed": "cccccccc"}


class Copies(NamedTuple):
    records: Path
    offline: Path
    """The same runs, of which W&B's client alone has kept something."""
    server: Server


def change(run: Path, rows: list[dict[str, Any]], **summary: Any) -> None:
    """Replace a record's epochs, and some of its summary."""
    known = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(known | summary))
    (run / "epochs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "epochs.jsonl").read_text().splitlines()]


def mirror(run: Path, name: str, mode: str) -> subprocess.Popen:
    """Start the copying of a record as it is now; it ends by itself."""
    asked = {"directory": str(run), "process": os.getpid(), "mode": mode, "id": IDS[name], "project": "road"}
    asked |= {"entity": None, "group": "ladder" if name == "done" else "other", "name": run.name, "tags": ["any"]}
    process = subprocess.Popen([sys.executable, "-P", str(MIRROR)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    process.stdin.write(f"{json.dumps(asked)}\nover\n".encode())
    process.stdin.close()
    return process


def end(*processes: subprocess.Popen) -> None:
    assert [process.wait(timeout=100) for process in processes] == [0] * len(processes)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    """A person who has no settings of W&B."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB")]:
            patch.delenv(name)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield patch


@pytest.fixture(scope="module")
def copies(environment: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copies]:
    """Three runs: one with averaged weights, one whose loss became NaN, and one that was resumed."""
    folder, server = tmp_path_factory.mktemp("copies"), Server()
    environment.setenv("WANDB_BASE_URL", server.url)
    environment.setenv("WANDB_API_KEY", "5ec2e7" * 6 + "5ec2")
    done = write_run(folder / "runs", "gelu", summary={"study": "ladder", "host": "a", "gpus": "0,1", "processes": 2})
    ema = {"ema_top1": 81.5, "ema_top5": 99.5, "ema_val_loss": 0.25}
    change(done, [row | ema for row in rows_of(done)], **ema)
    diverged = write_run(folder / "runs", "kernel_7", status="diverged", config={"recipe": {"milestones": [0.5]}})
    lost = {"train_loss": math.nan, "val_loss": math.inf}
    change(diverged, [row | lost for row in rows_of(diverged)], val_loss=math.nan)
    resumed = write_run(folder / "runs", "resnet", seed=5)
    rows, summary = rows_of(resumed), json.loads((resumed / "summary.json").read_text())
    change(resumed, rows[:1], status="unfinished", reason="interrupted", epochs_done=1)
    runs = {"done": done, "diverged": diverged, "resumed": resumed}
    twins = {name: folder / "kept" / run.name for name, run in runs.items()}
    shutil.copytree(folder / "runs", folder / "kept")
    end(*(mirror(run, name, "online") for name, run in runs.items()))
    end(*(mirror(run, name, "offline") for name, run in twins.items()))
    for run, mode in ((resumed, "online"), (twins["resumed"], "offline")):
        change(run, rows, **summary)
        end(mirror(run, "resumed", mode))
    for run in twins.values():
        [(run / name).unlink() for name in ("config.json", "summary.json", "epochs.jsonl")]
    yield Copies(folder / "runs", folder / "kept", server)
    server.close()


def by_name(runs: analysis.Runs) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both frames with the run's name in place of its path, which is another in each place."""
    table = runs.runs.sort_values("name", ignore_index=True)
    names = runs.epochs["path"].map(table.set_index("path")["name"]).astype(object)
    epochs = runs.epochs.assign(path=names).sort_values(["path", "epoch"], ignore_index=True)
    return table.drop(columns="path"), epochs


def test_records_and_wandb_and_its_offline_files_give_equal_frames(copies: Copies) -> None:
    truth = analysis.load(copies.records)
    runs, epochs = by_name(truth)
    assert (len(runs), len(epochs), truth.skipped) == (3, 7, [])
    for other in (analysis.load_wandb("me/road"), analysis.load(copies.offline)):
        table, rows = by_name(other)
        pd.testing.assert_frame_equal(table, runs)
        pd.testing.assert_frame_equal(rows, epochs)
        assert other.skipped == []


def test_frames_from_wandb_are_what_the_records_say(copies: Copies) -> None:
    """Read from the files without `analysis`: nothing is lost in all three places alike."""
    runs = analysis.load_wandb("me/road")
    table = runs.runs.set_index("name")
    for run in copies.records.iterdir():
        summary, config = (json.loads((run / f"{name}.json").read_text()) for name in ("summary", "config"))
        row = table.loc[run.name]
        assert row[["design", "recipe", "data"]].tolist() == [config[name] for name in ("design", "recipe", "data")]
        for name in ("status", "reason", "study", "host", "gpus", "started", "series", "versions", "git"):
            assert row[name] == summary.get(name), name
        for name in ("top1", "val_loss", "ema_top1", "macs", "processes", "seconds_per_epoch"):
            assert row[name] == pytest.approx(summary.get(name, math.nan), nan_ok=True), name
        expected = pd.DataFrame(rows_of(run))
        found = runs.epochs[runs.epochs["path"] == row["path"]].reset_index(drop=True)
        pd.testing.assert_frame_equal(found[expected.columns], expected)
    assert set(table["path"]) == {f"me/road/{name}" for name in IDS.values()}


def test_filters_choose_and_pages_are_all_read(copies: Copies, monkeypatch: pytest.MonkeyPatch) -> None:
    assert analysis.load_wandb("me/road", filters={"group": "ladder"}).runs["rung"].tolist() == ["gelu"]
    monkeypatch.setattr(tracked, "PAGE", 1)
    copies.server.requests.clear()
    runs = analysis.load_wandb("me/road", api=wandb.Api())
    assert len(runs.runs) == 3
    assert copies.server.requests.count("Runs") == 3
    assert "HistoryPage" not in copies.server.requests  # epochs are read when they are asked for


def test_others_runs_in_the_project_are_named(copies: Copies, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = ReceivedRun({"project": "road", "displayName": "llama"}, {"lr": {"value": 1}}, [], {"loss": 2})
    monkeypatch.setitem(copies.server.runs, "dddddddd", foreign)
    runs = analysis.load_wandb("me/road")
    assert len(runs.runs) == 3
    assert runs.skipped == [("me/road/dddddddd", "not a run record: 'recipe' is missing")]


def test_epochs_that_wandb_does_not_give_are_named(copies: Copies, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise wandb.errors.CommError("not\nnow")

    runs = analysis.load_wandb("me/road", filters={"group": "ladder"})
    monkeypatch.setattr(wandb.apis.public.Run, "scan_history", refuse)
    assert runs.epochs.empty
    assert runs.skipped == [("me/road/aaaaaaaa", "W&B does not give its epochs (not now)")]


@pytest.mark.parametrize("project", ["me/nothing", "me", "a/b/c/d"])
def test_no_such_project_is_one_line(copies: Copies, project: str) -> None:
    with pytest.raises(analysis.RecordsError, match=f"cannot read {project} at W&B: ") as error:
        analysis.load_wandb(project)
    assert "\n" not in str(error.value)


def test_wandb_that_is_down_or_knows_nobody_is_one_line(
    environment: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own: wandb remembers who has logged in."""
    code = (
        "import analysis\ntry: analysis.load_wandb('me/road', timeout=1)\nexcept analysis.RecordsError as e: print(e)"
    )
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    for key, said in {"": "No API key configured", "5ec2e7" * 6 + "5ec2": "Failed to verify credentials"}.items():
        server = Server("500")
        words = {"WANDB_BASE_URL": server.url} | ({"WANDB_API_KEY": key} if key else {})
        done = subprocess.run([sys.executable, "-c", code], env=os.environ | words, capture_output=True, text=True)
        server.close()
        assert done.stdout.startswith("cannot read me/road at W&B: "), done.stderr
        assert said in done.stdout
        assert done.stdout.count("\n") == 1


def test_wandb_folder_inside_a_record_is_no_second_run(copies: Copies) -> None:
    assert len(analysis.load(copies.records).runs) == 3
    everything = analysis.load([copies.records, copies.offline])
    assert everything.runs["left_out"].tolist().count("copy") == 3
    counted = everything.counted["path"].tolist()
    assert sorted(counted) == sorted(str(run) for run in copies.records.iterdir() if "kernel_7" not in run.name)


def test_offline_files_that_are_none_are_named(copies: Copies, tmp_path: Path) -> None:
    [good] = copies.offline.glob("nano-gelu-*/wandb/offline-run-*")
    shutil.copytree(good, tmp_path / "wandb" / good.name)
    for name, content in {"junk": os.urandom(3000), "empty": b""}.items():
        (tmp_path / "wandb" / f"{name}.wandb").write_bytes(content)
    (tmp_path / "wandb" / "dangling.wandb").symlink_to(tmp_path / "nowhere")
    runs = analysis.load(tmp_path)
    assert runs.runs["path"].tolist() == [str(tmp_path / "wandb" / good.name)]
    assert len(runs.epochs) == 3
    assert sorted(path for path, _ in runs.skipped) == sorted(
        str(tmp_path / "wandb" / f"{name}.wandb") for name in ("junk", "empty", "dangling")
    )


def test_offline_run_that_was_cut_off_is_kept_as_far_as_it_goes(copies: Copies, tmp_path: Path) -> None:
    [good] = copies.offline.glob("nano-gelu-*/wandb/offline-run-*/*.wandb")
    (tmp_path / "run-cut.wandb").write_bytes(good.read_bytes()[:-100])
    runs = analysis.load(tmp_path)
    assert runs.runs["rung"].tolist() == ["gelu"]
