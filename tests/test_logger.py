"""A custom logger follows a run from start to end; and whatever it does, it does not disturb training."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from experiments.config.logger import check_logger
from experiments.config.run import Run
from experiments.errors import SettingsError
from experiments.launch.worker import train_recorded
from experiments.records.record import Record
from experiments.tracking import logger, tensorboard
from experiments.tracking.logger import Logger
from roadmap.common.bounds import Number, setting

DOCUMENT = (Path(__file__).parents[1] / "docs" / "tracking.md").read_text("utf-8")


Results = tuple[list[dict[str, float]], dict[str, torch.Tensor]]
"""Of a run: rows without times, and weights."""


def results(folder: Path) -> Results:
    [directory] = folder.glob("nano-*")
    rows = map(json.loads, (directory / "epochs.jsonl").read_text().splitlines())
    rows = [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]
    return rows, torch.load(directory / "weights.pt", weights_only=True)


def log(folder: Path) -> list[str]:
    [path] = folder.glob("nano-*/log.txt")
    return path.read_text().splitlines()


def test_documented_custom_logger_follows_each_run_of_a_study(
    launch: Callable, tiny: tuple[str, ...], here: Path
) -> None:
    """Its two files are all that it takes."""
    section = DOCUMENT.split("## Your own logger\n")[1]
    config, source = re.findall(r"```\w+\n(.*?)```", section, re.S)
    (here / "my" / "logger").mkdir(parents=True)
    (here / "my" / "logger" / "mine.yaml").write_text(config)
    (here / "lines.py").write_text(source)
    process = launch("-m", "--config-dir", "my", *tiny, "seed=0,1", "logger=mine", "logger.every=2")
    out, _ = process.communicate(timeout=100)
    assert process.returncode == 0, out
    names = [path.name for path in here.glob("runs/nano-*")]
    expected = []
    for name in names:
        last = json.loads((here / "runs" / name / "summary.json").read_text())
        expected.append(f"{name} epoch 2: {last['top1']:.2f} %")
    assert len(names) == 2
    assert sorted((here / "lines.txt").read_text().splitlines()) == sorted(expected)


class Attentive(Logger):
    """Records its calls."""

    calls: list[tuple[str, Any]]

    def start(self, run: Run, record: Record, say: Callable[[str], None]) -> None:
        self.calls.append(("start", (run.directory, record.summary["status"])))
        say("ready\x1b")

    def step(self, *facts: float) -> None:
        self.calls.append(("step", facts))

    def epoch(self, row: dict[str, float]) -> None:
        self.calls.append(("epoch", row))

    def end(self, status: str) -> None:
        self.calls.append(("end", status))


@pytest.mark.usefixtures("every_step")
@pytest.mark.parametrize(("overrides", "code", "status"), [((), 0, "done"), (("recipe.lr=1e12",), 1, "diverged")])
def test_logger_follows_the_run_from_start_to_end(
    overrides: tuple[str, ...],
    code: int,
    status: str,
    command: Callable,
    tiny: tuple[str, ...],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Attentive, "calls", calls := [], raising=False)
    assert command(*tiny, *overrides, "logger._target_=test_logger.Attentive").code == code
    [directory] = here.glob("runs/nano-*")
    epochs = [json.loads(line) for line in (directory / "epochs.jsonl").read_text().splitlines()]
    (begun, facts), *_ = calls
    assert (begun, facts[0].resolve(), facts[1]) == ("start", directory, "running")
    assert [row for name, row in calls if name == "epoch"] == epochs
    assert calls[-1] == ("end", status)
    steps = [facts for name, facts in calls if name == "step"]
    assert steps[0][:3] == (1, 1, 10)
    assert steps == sorted(steps)
    assert any("ready\\x1b" in line for line in log(here / "runs"))


@pytest.fixture(scope="module")
def undisturbed(run_of: Callable, tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Those of a run without a logger."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("signal.signal", lambda *_: None)
        assert train_recorded(run_of(*tiny, f"runs={folder}")) == 0
    return results(folder)


class Rude(Logger):
    """Misbehaves as its settings say."""

    gate: Event

    def __init__(self, when: str, what: str) -> None:
        self.when, self.what = when, what

    def start(self, run: Run, record: Record, say: Callable[[str], None]) -> None:
        self.act("start")

    def step(self, *_: float) -> None:
        self.act("step")

    def epoch(self, row: dict[str, float]) -> None:
        row.clear()
        self.act("epoch")

    def end(self, status: str) -> None:
        self.act("end")

    def act(self, called: str) -> None:
        if self.when == called and self.what == "raise":
            raise RuntimeError("out of\n luck")
        if self.when == called and self.what == "exit":
            sys.exit("enough")
        if self.when == called and self.what == "hang":
            self.gate.wait()


@pytest.mark.parametrize(
    ("when", "what"),
    [
        *((when, "raise") for when in ("start", "step", "epoch", "end")),
        ("step", "exit"),
        ("start", "hang"),
        ("epoch", "hang"),
    ],
)
def test_rude_logger_changes_nothing_and_delays_nothing(
    when: str,
    what: str,
    undisturbed: Results,
    command: Callable,
    tiny: tuple[str, ...],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logger, "PATIENCE", 0.1)
    monkeypatch.setattr(Rude, "gate", Event(), raising=False)
    rude = ("logger._target_=test_logger.Rude", f"logger.when={when}", f"logger.what={what}")
    assert command(*tiny, *rude).code == 0
    Rude.gate.set()
    (rows, weights), (same_rows, same) = undisturbed, results(here / "runs")
    assert rows == same_rows
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    messages = [line.partition(" the logger ")[2] for line in log(here / "runs") if " the logger " in line]
    if what == "hang":
        assert messages == ["test_logger.Rude has not finished within 0.1 s; the run ends without it"]
    else:
        raised = {"raise": "RuntimeError: out of luck", "exit": "SystemExit: enough"}[what]
        where = r"\(.*\.py, line \d+\)"  # wandb, once another test has imported it, puts itself before sys.exit
        [line] = messages
        assert re.fullmatch(
            f"test_logger.Rude has failed and is not called again: {when} raised {raised} {where}", line
        )


class Plain(Logger):
    def __init__(self, url: str, every: int = 5) -> None:
        if url == "nowhere":
            raise ValueError("no such\nurl")


class Anything(Logger):
    def __init__(self, **settings: Any) -> None: ...


@dataclass
class Typed(Logger):
    url: str
    every: int = setting(5, Number("[1, 10]"))


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("Plain", {"url": "a"}, {"url": "a"}),
        (
            "Plain",
            {"url": "a", "evry": 1},
            "there is no setting 'evry' in 'logger'; did you mean 'every'? (known: url, every)",
        ),
        ("Plain", {}, "logger.url is not set, and test_logger.Plain needs it"),
        ("Plain", {"url": "???"}, "logger.url is not set, and test_logger.Plain needs it"),
        ("Plain", {"url": "nowhere"}, "logger: test_logger.Plain refuses its settings: ValueError: no such url"),
        ("Attentive", {}, {}),
        ("Attentive", {"url": "a"}, "there is no setting 'url' in 'logger'"),
        ("Anything", {"some": {"thing": [1, "${logger.other}"]}, "other": 2}, {"some": {"thing": [1, 2]}, "other": 2}),
        ("Typed", {"url": 7}, {"url": "7", "every": 5}),
        ("Typed", {"url": "a", "every": 11}, "logger.every must be in [1, 10], not 11"),
        (
            "Nobody",
            {},
            "logger._target_=test_logger.Nobody cannot be imported: AttributeError: module 'test_logger' has no",
        ),
    ],
)
def test_class_defines_the_settings(name: str, settings: dict[str, Any], expected: str | dict[str, Any]) -> None:
    config = OmegaConf.create({"logger": {"_target_": f"test_logger.{name}", **settings}}).logger
    if isinstance(expected, dict):
        assert check_logger(config) == {"_target_": f"test_logger.{name}", **expected}
    else:
        with pytest.raises(SettingsError) as error:
            check_logger(config)
        assert str(error.value).startswith(expected)


def test_module_of_a_logger_that_cannot_be_imported_says_why(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(here)
    for text, expected in {
        "import nothing_of_that_name": "needs the module nothing_of",
        "1 +": "SyntaxError: invalid",
    }.items():
        name = f"broken_{len(text)}"
        (here / f"{name}.py").write_text(text)
        with pytest.raises(SettingsError, match=expected):
            check_logger(OmegaConf.create({"_target_": f"{name}.Any"}))


# TensorBoard.


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """{tag: [(step, value)]}, as TensorBoard itself reads a folder of event files."""
    read = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = read.EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def assert_each_epoch_is_there_once(runs: Path) -> None:
    [directory] = runs.glob("nano-*")
    epochs = [json.loads(line) for line in (directory / "epochs.jsonl").read_text().splitlines()]
    expected = {
        name: [(row["epoch"], np.float32(row[name])) for row in epochs] for name in epochs[0] if name != "epoch"
    }
    assert scalars(directory / "tensorboard") == expected
    steps = [step for step, _ in scalars(directory / "tensorboard" / "steps")["loss"]]
    assert steps == sorted({*steps})
    assert steps


@pytest.mark.usefixtures("every_step")
@pytest.mark.parametrize("lost", [False, True], ids=["resumes", "starts anew"])
def test_tensorboard_has_each_epoch_of_a_stopped_run_once(
    lost: bool, command: Callable, tiny: tuple[str, ...], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the record has lost epochs that TensorBoard has."""
    pytest.importorskip("tensorboard")
    overrides = (*tiny, "recipe.epochs=3", "logger=tensorboard", "logger.every=1")
    with monkeypatch.context() as patch:
        counter = count(1)
        patch.setattr("experiments.launch.worker.StopFlag.is_set", lambda _: next(counter) == 13)
        assert command(*overrides).code == 130
    assert_each_epoch_is_there_once(here / "runs")
    if lost:
        [path.unlink() for path in here.glob("runs/*/checkpoints/*")]
    assert command(*overrides).code == 0
    assert_each_epoch_is_there_once(here / "runs")


def test_tensorboard_has_each_epoch_of_a_killed_run_once(
    fork: Callable, command: Callable, tiny: tuple[str, ...], here: Path, wait_for: Callable
) -> None:
    pytest.importorskip("tensorboard")
    overrides = (*tiny, "recipe.epochs=12", "logger=tensorboard", "logger.every=1")
    process = fork(*overrides)
    wait_for(lambda: [*here.glob("runs/*/epochs.jsonl")] and [*here.glob("runs/*/checkpoints/step-*.pt")])
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert command(*overrides).code == 0
    assert any("resuming after step " in line for line in log(here / "runs"))
    assert_each_epoch_is_there_once(here / "runs")


def test_tensorboard_that_is_not_installed_is_named_before_anything_starts(
    command: Callable, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorboard, "find_spec", lambda _: None)
    code, _, err = command("logger=tensorboard")
    needs = "logger=tensorboard needs tensorboard: pip install -e '.[tensorboard]'"
    assert (code, err) == (2, f"error: {needs}\n")
    assert not list(here.glob("runs/*"))
