"""The studies in analysis/studies: each comes from the commands in its README, and its report from its records."""

import json
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import analysis
from analysis.report.files import write_report
from experiments.config.run import Run
from experiments.latency.__main__ import main as measure_speeds
from experiments.latency.study import Latency

KEPT = sorted(path.parent for path in Path(analysis.__file__).with_name("studies").glob("*/runs.csv"))
SPEEDS = sorted(path.parent for path in Path(analysis.__file__).with_name("studies").glob("*/latency.csv"))
REPORTED = [study for study in sorted({*KEPT, *SPEEDS}) if (study / "report").is_dir()]
COMMAND = re.compile(r"^ {4}python -m experiments\.train -m (.*)", re.MULTILINE)
LATENCY = re.compile(r"^ {4}python -m experiments\.latency (.*)", re.MULTILINE)
SETTINGS = ("model", "design", "recipe", "resolution", "precision", "seed")
LATER = {"stem_stride": 4, "layers": {}}
"""Switches of the design that an earlier version did not have, and what it did."""


def settings(run: Mapping[str, Any]) -> str:
    """What a run trains, as text. Not its identity, which earlier versions computed differently."""
    values = {name: run[name] for name in SETTINGS} | {"data": run["data"]["name"]}
    return json.dumps(values | {"design": LATER | values["design"]}, sort_keys=True)


@pytest.mark.parametrize("study", KEPT, ids=lambda study: study.name)
def test_the_commands_in_its_readme_train_the_runs_that_are_kept(
    study: Path, study_runs: Callable[..., list[Run]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.train.preflight", lambda *_, **__: None)  # the data are not here
    text = (study / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    text = text.replace("analysis/studies", str(study.parent))  # the commands are given in the repository's root
    of_commands = {
        settings(run.to_json())
        for command in COMMAND.findall(text)
        for run in study_runs(*shlex.split(command, comments=True), "device=cpu")
    }
    kept = {settings(run) for run in analysis.load(study).runs.to_dict("records")}
    assert kept == of_commands


@pytest.mark.parametrize("study", KEPT, ids=lambda study: study.name)
def test_all_of_its_runs_are_done_and_of_committed_code(study: Path) -> None:
    runs = analysis.load(study).runs
    assert {*runs["status"]} == {"done"}
    assert not any(git["dirty"] for git in runs["git"])


@pytest.mark.parametrize("study", SPEEDS, ids=lambda study: study.name)
def test_the_commands_in_its_readme_measure_the_speeds_that_are_kept(
    study: Path, call: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    composed: list[Latency] = []
    monkeypatch.setattr(Latency, "measure", lambda latency: composed.append(latency) or 0)
    monkeypatch.setattr("experiments.latency.table.show", lambda _: None)
    text = (study / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    for command in LATENCY.findall(text):
        assert call(measure_speeds, *shlex.split(command, comments=True), "device=cpu").code == 0
    of_commands = {
        (settings(case.run.to_json()), case.classes, case.memory_format, case.run.compile, *timing)
        for latency in composed
        for case in latency.cases
        for timing in latency.plan.timings
    }
    columns = ("classes", "memory_format", "compiled", "mode", "batch")
    kept = analysis.load(study).latency
    rows = kept.assign(seed=0).to_dict("records")
    assert {(settings(row), *(row[name] for name in columns)) for row in rows} == of_commands
    assert not any(git["dirty"] for git in kept["git"])
    assert not kept["busy"].any()


@pytest.mark.parametrize("study", REPORTED, ids=lambda study: study.name)
def test_its_report_is_what_its_records_say(study: Path, tmp_path: Path) -> None:
    runs = analysis.load(study)
    write_report(runs, analysis.comparisons(runs), tmp_path)
    kept = (study / "report/report.md").read_text(encoding="utf-8")
    assert kept == (tmp_path / "report.md").read_text(encoding="utf-8")
    for picture in re.findall(r"\]\((\S+\.png)\)", kept):
        assert (study / "report" / picture).is_file()
