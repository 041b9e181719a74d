"""When the world is broken: every write that can fail fails once, and every command says so in one line and goes on."""

from __future__ import annotations

import errno
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from records import write_run
from rich.console import Console

from analysis.report.__main__ import main as report
from analysis.report.files import replace_files
from analysis.sources.load import load
from analysis.sources.runs import RecordsError
from experiments.config.run import Run
from experiments.evaluate.__main__ import main as evaluate
from experiments.launch.worker import Reporter, train_here, train_in_child
from experiments.records.record import Record, is_done, read_summary
from experiments.runtime.locks import lock_file, locked
from experiments.runtime.machine import gpu_lock
from experiments.status.__main__ import main as status
from experiments.train import main as train
from experiments.training.tensors import save

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CAUSES = [errno.ENOSPC, errno.EROFS, errno.ENAMETOOLONG, errno.EISDIR, errno.EACCES, errno.ELOOP, errno.ESTALE]


class Broken:
    """A file system of which one operation fails: the n-th, counted from 0, that reads or writes anything in a folder.

    An audit hook sees them, whoever asks. It cannot be taken away, so one stays, and does nothing.
    """

    EVENTS = ("open", "os.mkdir", "os.rename", "os.scandir")

    def __init__(self) -> None:
        self.folder, self.left, self.failed, self.reads, self.cause = "", -1, "", False, errno.ENOSPC
        sys.addaudithook(self._see)

    @contextmanager
    def at(self, folder: Path, number: int, *, reads: bool = False) -> Iterator[None]:
        self.folder, self.left, self.failed, self.reads = str(folder), number, "", reads
        self.cause = CAUSES[number % len(CAUSES)]
        try:
            yield
        finally:
            self.folder = ""

    @property
    def name(self) -> str:
        """Of the file that was meant, where one aside has failed."""
        return Path(self.failed).name.removeprefix(".").removesuffix(f".{os.getpid()}")

    def _see(self, event: str, arguments: tuple) -> None:
        if not self.folder or event not in self.EVENTS or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        path = os.path.abspath(os.fsdecode(arguments[0]))
        changes = arguments[2] & WRITES if event == "open" else event != "os.scandir"
        is_there = event == "os.mkdir" and os.path.isdir(path)  # and so it would fail anyhow
        if not path.startswith(self.folder) or is_there or not (changes or self.reads):
            return
        self.left -= 1
        if self.left == -1:
            self.failed = path
            raise OSError(self.cause, os.strerror(self.cause), path)


@pytest.fixture(scope="module")
def broken() -> Broken:
    return Broken()


@pytest.fixture(scope="module")
def small_run(run_of: Callable[..., Run]) -> Run:
    """Two steps, with a checkpoint after each."""
    network = ("design.width=8", "design.depths=[1,1,1,1]")
    data = ("data.subset=0.002", "data.holdout=0.001", "recipe.batch_size=5", "recipe.epochs=1")
    return run_of(*network, *data, "threads=1", "device=cpu", "checkpoint_minutes=0")


def outcome(action: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """A command's exit code, and all that it says."""
    capsys.readouterr()
    try:
        code = action() or 0
    except SystemExit as end:
        code = end.code or 0
    return code, "".join(capsys.readouterr())


def assert_told(said: str, broken: Broken) -> None:
    """In a line that names the file and the cause."""
    assert "Traceback" not in said
    assert [line for line in said.splitlines() if os.strerror(broken.cause) in line and broken.name in line], said


def test_training_goes_on_from_whatever_could_be_written(
    small_run: Run, broken: Broken, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each launch of the same command goes on from what the one before left, until nothing fails any more."""
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("sys.argv", ["experiments.train"])
    run, failed = replace(small_run, runs=tmp_path), set()
    for number in itertools.count():
        with broken.at(tmp_path, number):
            code, said = outcome(lambda: train(lambda _: train_here(run)), capsys)
        assert not [*tmp_path.rglob(f".*.{os.getpid()}")]
        if not broken.failed:
            break
        assert code in (1, 2)
        assert_told(said, broken)
        failed.add(broken.name)
    assert code == 0
    assert is_done(run)
    assert {"lock", "log.txt", "config.json", "summary.json", "epochs.jsonl", "correct.json", "weights.pt"} <= failed
    assert {"checkpoints", "step-00000002.pt"} & failed


def test_run_of_a_study_whose_log_cannot_be_opened_says_so_in_its_record(
    small_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    run = replace(small_run, runs=tmp_path)
    (run.directory / "log.txt").mkdir(parents=True)
    assert outcome(lambda: train_in_child(run), capsys) == (2, f"error: {run.directory / 'log.txt'}: Is a directory\n")
    assert read_summary(run.directory)["reason"].endswith("log.txt: Is a directory")


def test_run_outlives_the_terminal_and_the_log(
    small_run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = replace(small_run, runs=tmp_path)
    with open("/dev/full", "w") as full:
        Record(run)
        (run.directory / "log.txt").symlink_to("/dev/full")
        reporter = Reporter(run, Console(file=full))
        reporter.say("epoch 1\x1b[2J")
        with suppress(OSError):
            full.close()
    assert capfd.readouterr() == ("", "")


def test_full_disk_is_the_cause_that_is_told_of_a_checkpoint(tmp_path: Path) -> None:
    """torch's own writer says "PytorchStreamWriter failed"."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: .*step\.pt") as error:
            save({"network": torch.zeros(100_000)}, tmp_path / "step.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert error.value.filename == str(tmp_path / "step.pt")
    assert not [*tmp_path.iterdir()]


def test_evaluation_is_not_begun_where_it_could_not_be_written(
    call: Callable, broken: Broken, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "weights.pt").write_bytes(b"any")
    (here / "folder").mkdir()
    asked = ("weights=weights.pt", "data=fashion_mnist_sample")
    begun = []
    monkeypatch.setattr("experiments.evaluate.results.evaluate_weights", lambda *_: begun.append(1) or {})
    monkeypatch.setattr("experiments.evaluate.results.show", lambda _: None)
    for number, times in ((0, 0), (1, 1)):
        with broken.at(here, number):
            code, out, err = call(evaluate, *asked, "out=result.json")
        assert (code, len(begun)) == (2, times)
        assert_told(out + err, broken)
    for out in ("folder", "x" * 300):
        code, _, err = call(evaluate, *asked, f"out={out}")
        assert (code, err.count("\n"), len(begun)) == (2, 1, 1)
        assert out[:9] in err
    assert call(evaluate, *asked, "out=result.json").code == 0
    assert (here / "result.json").read_text() == "{}\n"


def test_report_that_cannot_be_written_is_told_and_leaves_the_one_before(
    broken: Broken, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "runs")
    with broken.at(tmp_path, 0):
        code, said = outcome(lambda: report([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]), capsys)
    assert code == 2
    assert_told(said, broken)
    (tmp_path / "out").mkdir()
    replace_files(tmp_path / "out", {"report.html": b"before", "old.csv": b"before"})
    for number in itertools.count():
        with broken.at(tmp_path, number), suppress(OSError):
            replace_files(tmp_path / "out", {"report.html": b"after", "report.md": b"after"})
        assert not [*tmp_path.rglob(f".*.{os.getpid()}")]
        if not broken.failed:
            break
        assert (tmp_path / "out" / "old.csv").exists()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".files", "report.html", "report.md"]


def test_record_that_cannot_be_read_is_named_by_status_and_skipped(
    broken: Broken, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # or lines would be cut
    for seed in (0, 1):
        write_run(tmp_path, seed=seed)
    for number in itertools.count():
        with broken.at(tmp_path, number, reads=True):
            code, said = outcome(lambda: status([str(tmp_path)]), capsys)
        if not broken.failed:
            break
        assert_told(said, broken)
        assert code == (0 if broken.name == "summary.json" else 2)
    assert (code, number) == (0, 1 + 2 * 2)  # the folder; and each file is opened in two steps


def test_record_that_cannot_be_read_is_named_by_loading_and_skipped(broken: Broken, tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path, seed=seed)
    for number in itertools.count():
        with broken.at(tmp_path, number, reads=True):
            try:
                runs = load(tmp_path)
                assert len(runs.epochs)
                said = "\n".join(map(" ".join, runs.skipped))
            except RecordsError as error:
                said = str(error)
        if not broken.failed:
            break
        assert os.strerror(broken.cause) in said
    assert len(runs.runs) == 2
    assert number == 1 + 2 * (1 + 3 * 2)


def test_lock_neither_follows_a_link_nor_empties_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("as it was")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        lock_file(tmp_path / "link")
    with locked(tmp_path / "mine") as free:
        assert free
        with locked(tmp_path / "mine", patience=0) as again:
            assert not again
    assert (tmp_path / "mine").read_text() == "as it was"


def test_locks_of_gpus_are_in_a_folder_of_their_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = gpu_lock("MIG-1/2")
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.is_relative_to(tmp_path)
    with locked(path) as free:
        assert free


def test_reader_of_the_output_that_goes_away_ends_nothing(tiny: tuple[str, ...], here: Path) -> None:
    """As in `| head -1`."""
    command = [sys.executable, "-m", "experiments.train", *tiny]
    run = subprocess.Popen(command, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    run.stdout.close()
    assert run.wait(timeout=60) == 0
    [summary] = here.glob("runs/*/summary.json")
    assert json.loads(summary.read_text())["status"] == "done"
