"""Records that somebody else wrote, or half of a disk: each is used, or named and skipped; none stops anything."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hostile import FILES, spoil
from records import NANO, write_run, write_study

import analysis
from analysis.report.__main__ import main as report
from experiments.config.run import Run
from experiments.launch.worker import train_here
from experiments.records.record import Record, is_done
from experiments.status.__main__ import main as status
from experiments.train import main as train

RUNS = 40


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whole records of two rungs, and RUNS spoiled ones, of any rung."""
    folder, random = tmp_path_factory.mktemp("spoiled"), Random(0)
    write_study(folder, ("gelu", "kernel_7"), (0, 1))
    for seed in range(RUNS):
        status = random.choice(["done", "done", "failed", "running"])
        spoil(write_run(folder, random.choice([*NANO]), seed=seed + 2, status=status), random)
    write_run(folder, "gelu", seed=RUNS + 3, summary={"device": "\x1b[31mred\u202e"})
    write_run(folder, "gelu", seed=RUNS + 4, status="failed", summary={"reason": "a\nb\x1b[31mred"})
    write_run(folder, None, config={"model": "=cmd|'/c calc'!A0\x1b"})
    name = write_run(folder, "gelu", seed=RUNS + 2)
    name.rename(folder / "\x1b[31mred\n\udcff\u202e")
    return folder


def hidden(text: str) -> set[str]:
    """Characters that a terminal or a reader could be misled by."""
    return {one for one in text if not one.isprintable() and one not in "\n\xa0"}


def test_report_of_spoiled_records(
    spoiled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.report.files.MOST_CHAPTERS", 2)
    monkeypatch.setattr("analysis.figures.style.png", lambda *_, **__: b"")  # the same figures are drawn as SVG
    assert report([str(spoiled), "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    texts = {
        path.name: path.read_text() for path in tmp_path.iterdir() if path.suffix in (".html", ".md", ".csv", ".tex")
    }
    assert {name: hidden(text) for name, text in ({"terminal": out} | texts).items() if hidden(text)} == {}
    cells = [cell for name, text in texts.items() if name.endswith(".csv") for cell in re.split("[,\n]", text)]
    assert not [cell for cell in cells if re.match(r'"?(=|@|[+-](?![\d.]))', cell)]


def test_each_spoiled_record_is_loaded_or_named(spoiled: Path) -> None:
    runs = analysis.load(spoiled)
    assert len(runs.epochs)
    skipped = {Path(where).name for where, _ in runs.skipped}
    assert len(runs.runs) + len([one for one in skipped if one != "epochs.jsonl"]) >= RUNS + 5
    assert 5 < len(skipped) < RUNS
    assert all(where.isprintable() and why.isprintable() and len(why) < 300 for where, why in runs.skipped)


@pytest.mark.parametrize("how", [(), ("--json",), ("--study", "mine")])
def test_status_of_spoiled_records(how: tuple[str, ...], spoiled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (spoiled / "studies").mkdir(exist_ok=True)
    names = [path.name for path in spoiled.iterdir() if path.name != "studies"]
    (spoiled / "studies" / "mine.json").write_text(json.dumps({"runs": names}))
    assert status([str(spoiled), *how]) == 0
    out = capsys.readouterr().out
    assert not hidden(out)
    if how == ("--json",):
        assert len(json.loads(out)) > RUNS // 2
    else:
        assert re.match(r"\d+ runs: .* \d+ skipped \(no record\)\n", out)


@pytest.mark.parametrize(
    "content", [*FILES, b'{"runs": 7}', b'{"runs": ["../x"]}', b'{"runs": ["a\\u0000"]}', b'{"runs": [[]]}']
)
def test_damaged_study_is_one_line(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "mine.json").write_bytes(content)
    assert status([str(tmp_path), "--study", "mine"]) == 2
    assert re.fullmatch(r"error: .*mine\.json .*; launch the study again, which rewrites it\n", capsys.readouterr().err)


def test_relaunch_of_a_run_whose_record_is_spoiled(
    run_of: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is done or trained anew; but what stands where its record has to go is named, and stays."""
    run = run_of("device=cpu", "threads=1")
    results = {"top1": 50.0, "wall_seconds": 1.0}
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("sys.argv", ["experiments.train"])
    monkeypatch.setattr("experiments.launch.worker.train", lambda run, record, *_: record.finish("done", **results))
    for seed in range(30):
        random, own = Random(seed), replace(run, runs=tmp_path / str(seed))
        record = Record(own)
        record.finish("done", **results)
        (own.directory / "epochs.jsonl").write_text('{"epoch": 1}\n')
        spoil(own.directory, random)
        with pytest.raises(SystemExit) as end:
            train(lambda _, own=own: train_here(own) or exit(0))
        said = "".join(capsys.readouterr())
        assert not hidden(said)
        assert "Traceback" not in said
        if end.value.code:
            assert re.search(r"error: .*\.json(l)?: Is a directory\n", said), said
        else:
            assert is_done(own)
