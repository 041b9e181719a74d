"""`experiments.status` reads the records alone, and recognizes a run whose process was killed."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from experiments.records.study_file import study_file, write_study
from experiments.status.__main__ import main, without_folders

KEYS = (
    *("run", "directory", "state", "reason", "study", "seed", "epochs_done", "epochs", "top1", "images_per_second"),
    *("seconds_left", "host", "gpus", "device", "processes", "job", "started", "finished"),
)


def record(runs: Path, name: str, **facts: Any) -> Path:
    """A record by hand, as docs/records.md describes it: of a run that is done unless said otherwise."""
    summary = {
        "status": "done",
        "reason": None,
        "seed": 0,
        "epochs_done": 10,
        "epochs": 10,
        "top1": 81.234,
        "images_per_second": 965.4,
        "seconds_per_epoch": 60.0,
        "host": "node07.cluster.local",
        "gpus": None,
        "device": "cpu",
        "processes": 1,
        "job": None,
        "study": "ladder",
        "started": "2026-01-02T03:04:05+00:00",
        "finished": None,
    }
    (runs / name).mkdir(parents=True)
    (runs / name / "summary.json").write_text(json.dumps(summary | facts))
    (runs / name / "lock").touch()
    return runs / name


@pytest.fixture
def hold() -> Iterator[Callable[[Path], None]]:
    """Another process that holds a run's lock, as one that trains it does."""
    code = "import fcntl, sys, time; f = open(sys.argv[1]); fcntl.flock(f, 2); print(flush=True); time.sleep(60)"
    started = []

    def start(directory: Path) -> None:
        words = [sys.executable, "-c", code, str(directory / "lock")]
        started.append(subprocess.Popen(words, stdout=subprocess.PIPE))
        started[-1].stdout.readline()

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """The command, in a folder whose `runs` a test fills."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, columns: int | None = None) -> tuple[int, str, str]:
        if columns:
            monkeypatch.setenv("COLUMNS", str(columns))
        else:
            monkeypatch.delenv("COLUMNS", raising=False)
        return (main(arguments), *capsys.readouterr())

    return call


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def states(out: str) -> dict[str, dict[str, Any]]:
    return {run["run"]: run for run in json.loads(out)}


def test_the_lock_distinguishes_running_from_killed(status: Callable, runs: Path, hold: Callable) -> None:
    for name in ("a", "b", "c"):
        record(runs, name, status="running", epochs_done=3)
    hold(runs / "a")
    (runs / "c" / "lock").unlink()  # nothing to try: the record is believed
    _, out, _ = status("--json")
    assert {name: run["state"] for name, run in states(out).items()} == {"a": "running", "b": "killed", "c": "running"}
    _, out, _ = status()
    assert out.splitlines()[0] == "3 runs: 2 running, 1 killed"


def test_the_picture_has_the_table_and_neither_loads_anything_nor_names_a_host(
    status: Callable, runs: Path, tmp_path: Path, hold: Callable
) -> None:
    for name in ("a & b", "c"):
        record(runs, name, status="running", job={"name": "secret", "id": "1", "index": 0})
    hold(runs / "a & b")
    assert status("--svg", "status.svg")[0] == 0
    picture = (tmp_path / "status.svg").read_text()
    root = ElementTree.fromstring(picture)
    text = " ".join("".join(root.itertext()).replace("\xa0", " ").split())
    assert "2 runs: 1 running, 1 killed" in text
    assert "a & b running 10/10 81.23" in text
    assert not re.findall(r"@font-face|@import|url\((?!#)|href", picture)
    assert not [name for name in ("node07", "secret", str(tmp_path)) if name in picture]
    assert status("--svg", "no/folder/status.svg")[0] == 2


def test_the_picture_has_the_command_and_no_folders(status: Callable, runs: Path, tmp_path: Path) -> None:
    reason = "can't read /home/jane doe/x/cat.png: 3/10 of data/jane/train, '~/jane/dog.png' and './jane/' are broken"
    record(runs, "a", status="failed", reason=reason)
    record(runs, "b")
    (runs / "c").mkdir()
    assert status(str(runs), "--state", "failed,done", "--svg", "status.svg")[0] == 0
    root = ElementTree.fromstring((tmp_path / "status.svg").read_text())
    text = " ".join("".join(root.itertext()).replace("\xa0", " ").split())
    assert "$ python -m experiments.status runs --state failed,done 2 runs: " in text
    assert "can't read cat.png: 3/10 of train" in text
    assert "skipped c: " in text
    assert without_folders(reason) == "can't read cat.png: 3/10 of train, 'dog.png' and '' are broken"
    assert not [name for name in ("jane", "home", str(tmp_path), tmp_path.name) if name in text]


def test_a_search_without_its_second_phase_is_named(status: Callable, runs: Path) -> None:
    """On a cluster it is launched by a job of its own, whose failure no run's record has."""
    for name in ("a", "b"):
        record(runs, name, status="done" if name == "a" else "running")
    file = study_file(runs, "tuned")
    write_study(file, "python -m experiments.train", ["a", "b"], [], [], is_search=True)
    words = "tuned: its search has ended, but its second phase has not begun; unless its job waits"
    assert words not in status()[1]
    (runs / "b" / "summary.json").write_text((runs / "b" / "summary.json").read_text().replace("running", "diverged"))
    assert words in status()[1]
    assert words in status("--study", "tuned")[1]
    write_study(file, "python -m experiments.train", ["a", "b"], [], [])
    assert words not in status("--study", "tuned")[1]


def test_checking_a_lock_leaves_it_free(status: Callable, runs: Path) -> None:
    directory = record(runs, "a", status="running")
    assert "1 killed" in status()[1]
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_where_locks_do_not_work_the_record_is_believed(
    status: Callable, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    record(runs, "a", status="running")
    monkeypatch.setattr("fcntl.flock", no_locks)
    assert "1 running" in status()[1]


def test_run_that_ends_meanwhile_is_not_called_killed(
    status: Callable, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = record(runs, "a", status="running")
    done = json.loads((directory / "summary.json").read_text()) | {"status": "done"}
    monkeypatch.setattr("fcntl.flock", lambda *_: (directory / "summary.json").write_text(json.dumps(done)))
    assert "1 done" in status()[1]


@pytest.mark.parametrize(
    ("facts", "passed", "left"),
    [
        ({"epochs_done": 4, "seconds_per_epoch": 60.0}, 0, 360),
        ({"epochs_done": 4, "seconds_per_epoch": 60.0}, 45, 315),
        ({"epochs_done": 9, "seconds_per_epoch": 60.0}, 75, 0),  # it takes longer than it used to
        ({"epochs_done": 9, "seconds_per_epoch": 60.0}, -500, 60),  # clocks that differ add nothing
        ({"epochs_done": 0, "seconds_per_epoch": None}, 5, None),
        ({"epochs_done": 4, "status": "unfinished"}, 5, None),
    ],
)
def test_time_left(
    facts: dict,
    passed: float,
    left: int | None,
    status: Callable,
    runs: Path,
    hold: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    directory = record(runs, "a", **{"status": "running", **facts})
    hold(directory)
    os.utime(directory / "summary.json", (1e9, 1e9))
    monkeypatch.setattr("time.time", lambda: 1e9 + passed)
    assert states(status("--json")[1])["a"]["seconds_left"] == left


def test_json_has_the_same_keys_for_every_run(status: Callable, runs: Path) -> None:
    record(runs, "full", job={"name": "ladder", "index": 3, "id": "812_3"})
    (runs / "bare").mkdir()
    (runs / "bare" / "summary.json").write_text('{"status": "queued"}')
    out = status("--json")[1]
    assert [list(run) for run in json.loads(out)] == [[*KEYS], [*KEYS]]
    full, bare = states(out)["full"], states(out)["bare"]
    assert full["top1"] == 81.234
    assert full["job"] == {"name": "ladder", "index": 3, "id": "812_3"}
    assert (bare["state"], bare["epochs_done"], bare["top1"], bare["directory"]) == ("queued", 0, None, "runs/bare")


def ladder(runs: Path) -> None:
    """A run in every state but running, with names, hosts and jobs as they are on clusters."""
    on = {"host": "gpu-node-0123.cluster.example.org", "gpus": "0,1,2,3,4,5,6,7", "processes": 8, "epochs": 300}
    job = {"name": "ladder", "index": 12, "id": "4812345"}
    for name, state, done, reason in (
        ("nano-separate_downsampling-seed0-b908115f", "running", 299, None),
        (
            "nano-separate_downsampling-seed1-0123abcd",
            "failed",
            12,
            "RuntimeError: CUDA error: an illegal memory access",
        ),
        (
            "nano-modern_recipe+stage_ratio+patchify_stem+depthwise_conv+incr...-seed0-aaaa1111",
            "diverged",
            1,
            "loss is nan",
        ),
        ("nano-timm-swin_tiny_patch4_window7_224-seed0-bbbb2222", "queued", 0, None),
        ("nano-gelu-seed2-cccc3333", "done", 300, None),
        ("nano-gelu-seed2-dddd4444", "unfinished", 120, "interrupted"),
    ):
        record(runs, name, status=state, epochs_done=done, reason=reason, job=job, **on)


@pytest.mark.parametrize("columns", [80, 160])
def test_table_fits_the_terminal_and_distinguishes_the_runs(columns: int, status: Callable, runs: Path) -> None:
    ladder(runs)
    code, out, _ = status(columns=columns)
    counts, header, *lines = out.splitlines()
    assert code == 0
    assert counts == "6 runs: 1 killed, 1 failed, 1 diverged, 1 unfinished, 1 queued, 1 done"
    assert max(map(len, out.splitlines())) <= columns
    assert header.split()[-6:] == ["state", "epoch", "top-1", "img/s", "where", "job"]
    assert len({line[: header.index("state")].strip() for line in lines}) == 6
    for line, state in zip(lines, ("killed", "failed", "diverged", "unfinished", "queued", "done"), strict=True):
        assert line[header.index("state") :].startswith(state)
    assert "RuntimeError: CUDA error" in lines[1]
    assert "loss is nan" in lines[2]
    assert "4812345_12" in lines[0]
    assert ("gpu-node-01…" if columns == 80 else "gpu-node-0123:0-7") in lines[0]
    assert ("nano-separate_downsampling-seed0-b908115f" in out) == (columns == 160)


def test_nothing_is_cut_where_no_terminal_reads(status: Callable, runs: Path) -> None:
    ladder(runs)
    out = status()[1]
    assert {line.split()[0] for line in out.splitlines()[2:]} == {path.name for path in runs.iterdir()}
    assert "\x1b" not in out


def test_running_comes_first_and_the_newest_before_the_others(status: Callable, runs: Path, hold: Callable) -> None:
    record(runs, "a-done")
    for name, day in (("b", 1), ("c", 3), ("d", 2)):
        record(runs, name, status="running", started=f"2026-01-0{day}T00:00:00+00:00")
        hold(runs / name)
    out = status()[1]
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["c", "d", "b", "a-done"]


def test_cells(status: Callable, runs: Path, hold: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = record(runs, "a", status="running", epochs_done=4, seconds_per_epoch=65, gpus="0,1,2,3", processes=4)
    node = record(runs, "b", status="running", epochs_done=0, top1=None, images_per_second=None, processes=8)
    for directory in (gpus, node):
        hold(directory)
        os.utime(directory / "summary.json", (1e9, 1e9))
    monkeypatch.setattr("time.time", lambda: 1e9)
    header, a, b = status()[1].splitlines()[1:]
    assert header.split() == ["run", "state", "epoch", "top-1", "img/s", "left", "where"]  # no run has a job
    assert a.split() == ["a", "running", "4/10", "81.23", "965", "6m30s", "node07:0-3"]
    assert b.split() == ["b", "running", "0/10", "-", "-", "-", "node07", "x8"]


@pytest.mark.parametrize(
    ("job", "cell"),
    [
        ({"name": "ladder", "index": 3, "id": "812"}, "812_3"),
        ({"name": "ladder", "index": 3, "id": "812_3"}, "812_3"),
        ({"name": "ladder", "index": None, "id": "812"}, "812"),
        ({"name": "ladder", "index": 3, "id": None}, "ladder_3"),
    ],
)
def test_job_is_written_as_slurm_writes_it(job: dict, cell: str, status: Callable, runs: Path) -> None:
    record(runs, "a", job=job)
    assert status()[1].split()[-1] == cell


def test_folders_without_a_record_are_skipped_and_counted(status: Callable, runs: Path) -> None:
    record(runs, "good")
    for name, text in (("half", '{"status": "do'), ("list", "[]"), ("foreign", '{"status": "great"}'), ("none", None)):
        (runs / name).mkdir()
        if text is not None:
            (runs / name / "summary.json").write_text(text)
    (runs / "studies").mkdir()  # not a run, and not foreign
    (runs / "notes.txt").touch()
    record(runs, "odd", top1="high", epochs=None, seed=[], job=7, reason="a\nb \x1b[31mc", host=3, status="failed")
    code, out, _ = status()
    assert code == 0
    assert out.splitlines()[0] == "2 runs: 1 failed, 1 done, 4 skipped (no record)"
    assert r"a b \x1b[31mc" in out
    assert "skipped runs/half: summary.json is not JSON (" in out
    assert out.splitlines()[-1] == "... and 1 more skipped"
    assert "\x1b" not in out


def test_study_is_its_own_runs_and_those_not_begun(status: Callable, runs: Path) -> None:
    for name in ("a", "b", "c"):
        record(runs, name)
    (runs / "studies").mkdir()
    (runs / "studies" / "mine.json").write_text(json.dumps({"runs": ["a", "c", "d", "e"]}))
    _, out, _ = status("--study", "mine")
    assert out.splitlines()[0] == "4 runs: 2 done, 2 not begun"
    assert set(states(status("--study", "mine", "--json")[1])) == {"a", "c"}
    code, out, err = status("--study", "main")
    assert (code, out) == (2, "")
    assert err == "error: there is no study 'main' in runs (known: mine)\n"


def test_state_and_folders_are_chosen(status: Callable, runs: Path, tmp_path: Path) -> None:
    record(runs, "a")
    record(runs, "b", status="failed", reason="no")
    record(tmp_path / "others", "c", status="failed")
    assert set(states(status("--json", "--state", "failed")[1])) == {"b"}
    assert set(states(status("--json", "runs", "others")[1])) == {"a", "b", "c"}
    assert set(states(status("--json", "runs/a")[1])) == {"a"}
    assert status("--state", "queued")[1] == "2 runs: 1 failed, 1 done\n"


def test_no_runs_are_reported_in_one_line(status: Callable, runs: Path) -> None:
    assert status() == (2, "", "error: there is no folder runs\n")
    (runs / "empty").mkdir(parents=True)
    assert status() == (2, "", "error: there are no runs in runs (1 skipped, the first: runs/empty: no summary.json)\n")
    assert status("--watch") == (2, "", "error: --watch needs a terminal; --json is for programs\n")


def test_mistyped_option_is_reported_in_one_line(status: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--state", "runing"], ["--stat"], ["--watch", "--json"]):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        err = capsys.readouterr().err
        assert err.startswith("error: ")
        assert err.count("\n") == 1


def test_neither_torch_nor_hydra_nor_rich_is_imported(runs: Path) -> None:
    record(runs, "a")
    heavy = {"torch", "hydra", "omegaconf", "rich"}
    code = "import sys; from experiments.status.__main__ import main; main(sys.argv[1:]); "
    code += f"print({heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code, str(runs)], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\nset()\n")


def test_watch_fits_the_terminal_follows_the_records_and_ends_with_ctrl_c(runs: Path) -> None:
    for number in range(50):
        record(runs, f"nano-gelu-seed{number}-b908115f")
    parent, child = pty.openpty()
    code = "import experiments.status.__main__ as s; s.INTERVAL = 0.1; raise SystemExit(s.main())"
    code = f"import signal; signal.signal(2, signal.default_int_handler); {code}"  # a job of a shell's may ignore it
    environment = {**os.environ, "COLUMNS": "80", "LINES": "20", "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--watch", str(runs)], stdin=child, stdout=child, stderr=child, env=environment
    )
    os.close(child)
    screen = ""

    def read_until(text: str) -> None:
        nonlocal screen
        deadline = time.monotonic() + 20
        while text not in screen:
            assert time.monotonic() < deadline, screen
            if select.select([parent], [], [], 0.1)[0]:
                screen += os.read(parent, 65536).decode()

    try:
        read_until("more")
        assert "50 runs: 50 done" in screen
        assert len(re.findall(r"seed\d+-b908115f", screen)) == 16  # of 20 lines: counts, header, `more`, and a free one
        assert "... and 34 more" in screen
        record(runs, "nano-gelu-seed99-b908115f", status="failed", reason="out of memory")
        read_until("51 runs: 1 failed, 50 done")
        read_until("out of memory")
        process.send_signal(signal.SIGINT)
        with suppress(OSError):  # which is how a terminal without a program ends
            deadline = time.monotonic() + 20
            while process.poll() is None and time.monotonic() < deadline:  # what it still writes must go somewhere
                if select.select([parent], [], [], 0.1)[0]:
                    screen += os.read(parent, 65536).decode()
        assert process.wait(10) == 0
        assert "Traceback" not in screen
    finally:
        process.kill()
        process.wait()
        os.close(parent)
