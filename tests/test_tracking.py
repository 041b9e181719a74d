"""W&B has a complete copy of a run's record, each epoch once; and a W&B that fails does not disturb training."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from test_processes import as_torchrun
from wandb_server import Server

from experiments.config.run import Run
from experiments.tracking import wandb as tracking
from experiments.tracking import wandb_mirror as mirror

KEY = "5ec2e7" * 6 + "5ec2"
"""As long as W&B's are."""
NARROW = ("design.width=8", "design.depths=[1,1,1,1]")
TIMES = ("seconds", "images_per_second")


@pytest.fixture(autouse=True)
def no_account(here: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A user without an account or settings of W&B; their secrets are in no file of a run."""
    for name in [name for name in os.environ if name.startswith(("WANDB", "SLURM"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.setenv("SLURM_SECRET", KEY)
    yield
    files = [path for path in here.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Server]]:
    """A W&B server on this machine, with an account."""
    servers: list[Server] = []

    def start(fault: str = "") -> Server:
        servers.append(Server(fault))
        monkeypatch.setenv("WANDB_BASE_URL", servers[-1].url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB__FILE_STREAM_TRANSMIT_INTERVAL", "0.2")  # seconds; its own are 15
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def record(runs: Path) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """config.json, epochs.jsonl and summary.json of the only run."""
    [directory] = runs.glob("nano-*/")
    config, summary = (json.loads((directory / f"{name}.json").read_text()) for name in ("config", "summary"))
    return config, [json.loads(line) for line in (directory / "epochs.jsonl").read_text().splitlines()], summary


def log(runs: Path) -> str:
    [path] = runs.glob("nano-*/log.txt")
    return path.read_text()


def offline(runs: Path) -> list[dict[str, list[dict[str, Any]]]]:
    """What wandb kept in a run's directory, one entry per attempt, as wandb itself reads it: {type: records}."""
    attempts = []
    for path in sorted(runs.glob("nano-*/wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        words = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
        attempt: dict[str, list[dict[str, Any]]] = {}
        for line in subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines():
            entry = json.loads(line)
            attempt.setdefault(entry["type"], []).append(entry.get(entry["type"]))
        attempts.append(attempt)
    return attempts


def own(items: dict[str, Any]) -> dict[str, Any]:
    """Without what wandb adds."""
    return {name: value for name, value in items.items() if not name.startswith("_")}


def rows(attempt: dict[str, Any]) -> list[dict[str, Any]]:
    return [own(entry["item"]) for entry in attempt.get("history", ())]


def summary_of(attempt: dict[str, Any]) -> dict[str, Any]:
    """As it is at the end."""
    items = {name: value for entry in attempt["summary"] for name, value in entry["update"].items()}
    return {name: value for name, value in own(items).items() if value is not None}


def expected(summary: dict[str, Any]) -> dict[str, Any]:
    """W&B knows itself, and drops what is null."""
    return {name: value for name, value in summary.items() if name != "wandb" and value is not None}


def sync(runs: Path) -> None:
    """Run the command from the log that sends what is kept offline."""
    command = log(runs).rpartition(": wandb sync")[2].splitlines()[0]
    subprocess.run([sys.executable, "-m", "wandb", "sync", *shlex.split(command)], check=True, capture_output=True)


def stop_after(steps: int) -> Callable[[object], bool]:
    counter = count(1)
    return lambda _: next(counter) == steps


def test_copy_is_the_record(command: Callable, tiny: tuple[str, ...], here: Path) -> None:
    """Without an account: offline. The system's metrics are the run's own."""
    overrides = [override for override in tiny if override not in NARROW]
    assert command(*overrides, "rung=patchify_stem", "logger=wandb").code == 0
    config, epochs, summary = record(here / "runs")
    [copy] = offline(here / "runs")
    [run], [end] = copy["run"], copy["exit"]
    assert own(run["config"]["update"]) == config | {name: summary[name] for name in ("identity", "series")}
    assert rows(copy) == epochs
    assert [entry["item"]["_step"] for entry in copy["history"]] == [1, 2]
    assert summary_of(copy) == expected(summary)
    assert (run["run_group"], run["project"], run["job_type"]) == ("custom", "convnext-roadmap", "train")
    assert sorted(run["tags"]) == sorted(config["steps"]) == ["modern_recipe", "patchify_stem", "stage_ratio"]
    assert [run["display_name"]] == [path.name for path in here.glob("runs/nano-*")]
    assert summary["wandb"] == {"id": run["run_id"], "url": None}
    assert end.get("exit_code", 0) == 0
    assert [entry["step_metric"] for entry in copy["metric"] if entry.get("glob_name") == "*"] == ["epoch"]
    assert copy["stats"][0]["item"]["proc.memory.rssMB"] > 200  # torch's process, not wandb's
    assert not {"slurm", "git"} & {name for entry in copy["environment"] for name in entry}
    assert "kept offline" in log(here / "runs")


def test_failed_run_has_failed_there_too(command: Callable, tiny: tuple[str, ...], here: Path) -> None:
    assert command(*tiny, "recipe.lr=1e12", "logger=wandb").code == 1
    [copy] = offline(here / "runs")
    assert copy["exit"][0]["exit_code"] == 1
    assert summary_of(copy)["status"] == "diverged"
    assert summary_of(copy)["reason"].startswith("the loss is ")


@pytest.mark.usefixtures("every_step")
@pytest.mark.parametrize(("mode", "lost"), [("online", False), ("online", True), ("offline", False)])
def test_each_epoch_is_there_once(
    mode: str,
    lost: bool,
    command: Callable,
    tiny: tuple[str, ...],
    serve: Callable,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a run that was stopped in its second epoch, under one id; also where the record falls behind W&B. Offline,
    after the log's `wandb sync`."""
    server = serve()
    overrides = (*tiny, "recipe.epochs=3", "logger=wandb", f"logger.mode={mode}")
    with monkeypatch.context() as patch:
        patch.setattr("experiments.launch.worker.StopFlag.is_set", stop_after(13))
        assert command(*overrides).code == 130
    first = record(here / "runs")[2]["wandb"]["id"]
    if lost:
        [path.unlink() for path in here.glob("runs/*/checkpoints/*")]
    assert command(*overrides).code == 0
    _, epochs, summary = record(here / "runs")
    if mode == "offline":
        assert not server.requests
        assert [[row["epoch"] for row in rows(copy)] for copy in offline(here / "runs")] == [[1], [2, 3]]
        sync(here / "runs")
    [(name, kept)] = server.runs.items()
    url = f"{server.url}/me/convnext-roadmap/runs/{name}" if mode == "online" else None
    assert (first, summary["wandb"]) == (name, {"id": name, "url": url})
    assert [row["epoch"] for row in kept.history] == [1, 2, 3]
    assert [without_times(own(row)) for row in kept.history] == [without_times(row) for row in epochs]
    assert own(kept.summary) == expected(summary)
    assert kept.exits == [1, 0]
    assert (kept.params["groupName"], kept.params["tags"]) == ("custom", ["design"])


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in TIMES}


def results(runs: Path) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    [weights] = runs.glob("nano-*/weights.pt")
    return [without_times(row) for row in record(runs)[1]], torch.load(weights, weights_only=True)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.mark.parametrize("fault", ["refuses", "500", "hangs", "hangs later", "wrong key"])
def test_wandb_that_is_down_changes_nothing(
    fault: str,
    command: Callable,
    tiny: tuple[str, ...],
    serve: Callable,
    here: Path,
    wait_for: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The results are as without it, no process stays behind, and the log's command sends the rest when W&B is back."""
    down = serve(fault)
    monkeypatch.setattr(tracking, "CONNECT", 10 if fault.startswith("hangs") else 1)  # so that it is asked at all
    monkeypatch.setattr(tracking, "PATIENCE", 6 if fault == "hangs later" else 20)
    if fault == "refuses":
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free_port()}")
    if fault == "wrong key":
        monkeypatch.setenv("WANDB_API_KEY", f"{KEY} and more")
    assert command(*tiny, "runs=plain").code == 0
    assert command(*tiny, "runs=tracked", "logger=wandb").code == 0
    (rows, weights), (tracked_rows, tracked_weights) = results(here / "plain"), results(here / "tracked")
    assert rows == tracked_rows
    assert all(torch.equal(weights[name], tracked_weights[name]) for name in weights)
    lines = log(here / "tracked")
    assert lines.index("done: ") < lines.index("wandb sync")
    assert ("unanswered" in down.requests) == fault.startswith("hangs")
    wait_for(lambda: not processes_in(here))
    server = serve()
    sync(here / "tracked")
    [kept] = server.runs.values()
    assert [row["epoch"] for row in kept.history] == [1, 2]
    assert own(kept.summary) == expected(record(here / "tracked")[2])
    assert kept.exits == [0]


def processes_in(folder: Path) -> list[str]:
    """Command lines of the processes that work there (Linux)."""
    commands = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve() == folder.resolve() and process.name != str(os.getpid()):
                commands.append((process / "cmdline").read_text())
        except OSError:
            continue
    return commands


def test_nothing_stays_behind_of_a_run_that_is_killed(
    fork: Callable, tiny: tuple[str, ...], serve: Callable, here: Path, wait_for: Callable
) -> None:
    """wandb's processes send the rest, and end."""
    server = serve()
    process = fork(*tiny, "logger=wandb", "recipe.epochs=10000")
    wait_for(lambda: [kept for kept in server.runs.values() if kept.history])
    process.kill()
    process.wait()
    wait_for(lambda: [kept for kept in server.runs.values() if kept.exits == [1]])
    wait_for(lambda: not processes_in(here))


def test_first_process_alone_uses_wandb(fork: Callable, tiny: tuple[str, ...], serve: Callable, here: Path) -> None:
    server, environment = serve(), as_torchrun()
    pair = [fork(*tiny, "rung=gelu", *NARROW, "logger=wandb", **environment(rank)) for rank in range(2)]
    outputs = [process.communicate(timeout=100)[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], outputs
    [(name, kept)] = server.runs.items()
    assert server.requests.count("RunResumeStatus") == 1
    assert [row["epoch"] for row in kept.history] == [1, 2]
    assert record(here / "runs")[2]["wandb"]["id"] == name
    assert "W&B" not in outputs[1]


def test_runs_of_a_study_are_one_group(fork: Callable, tiny: tuple[str, ...], serve: Callable, here: Path) -> None:
    server = serve()
    process = fork("-m", *tiny, "seed=0,1", "logger=wandb", "hydra.launcher.jobs=2")
    out, _ = process.communicate(timeout=100)
    assert process.returncode == 0, out
    names = {path.name for path in here.glob("runs/nano-*")}
    assert {kept.params["displayName"] for kept in server.runs.values()} == names
    assert [kept.params["groupName"] for kept in server.runs.values()] == ["custom", "custom"]
    assert [kept.exits for kept in server.runs.values()] == [[0], [0]]


@pytest.mark.parametrize(
    ("overrides", "mode", "message"),
    [
        (["logger=wandb"], "disabled", "W&B is switched off by its own settings"),
        (["logger=wandb"], "offline", "W&B is kept offline"),
        ([], "", None),
    ],
    ids=["disabled", "offline", "logger=none"],
)
def test_nothing_is_sent_where_nothing_is_wanted(
    overrides: list[str],
    mode: str,
    message: str | None,
    command: Callable,
    tiny: tuple[str, ...],
    serve: Callable,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With an account. Without a logger not even a process is started."""
    server = serve()
    if mode:
        monkeypatch.setenv("WANDB_MODE", mode)
    if message is None:
        monkeypatch.delattr("experiments.tracking.wandb.subprocess")
    assert command(*tiny, "recipe.epochs=1", *overrides).code == 0
    assert server.requests == []
    assert len(offline(here / "runs")) == (message == "W&B is kept offline")
    assert (message or "done: ") in log(here / "runs")
    assert (record(here / "runs")[2]["wandb"] is None) == (message is None)


def test_online_without_an_account_is_reported(command: Callable, tiny: tuple[str, ...], here: Path) -> None:
    assert command(*tiny, "recipe.epochs=1", "logger=wandb", "logger.mode=online").code == 0
    assert "No API key configured" in log(here / "runs")
    assert len(offline(here / "runs")) == 1


def test_tag_is_no_longer_than_wandb_takes(run_of: Callable[..., Run], here: Path) -> None:
    (here / "any.txt").touch()
    run = run_of("rung=stage_ratio")
    assert tracking.tags(run) == ["stage_ratio", "modern_recipe"]
    [tag] = tracking.tags(replace(run, model="timm:" + "m" * 60, requested=replace(run.requested, steps=None)))
    assert (len(tag), tag[:8]) == (64, "timm:mmm")


def test_secrets_are_masked(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "any.txt").touch()
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert mirror.in_one_line(f"can't\n  take {KEY}") == "can't take ***"
