"""`python -m roadmap` prints the right table, to people and to programs, and fails in one line."""

import csv
import io
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import roadmap
from roadmap.__main__ import CLOSED_PIPE, CountedLadder, as_csv, as_markdown, as_table, count, main

pytestmark = pytest.mark.xdist_group("costs")  # counted once

counted = cache(count)
DISCREPANCIES = {"layer_norm": (4.46, "4.15"), "separate_downsampling": (4.49, "4.46")}


def note(ladder: CountedLadder) -> str:
    """The one on discrepancies, if there is one."""
    return " ".join(note for note in ladder.notes() if "Discrepancies" in note)


def test_discrepancies_of_the_printed_table_are_found() -> None:
    found = {
        line.rung.name: (line.rung.published.gflops, f"{line.cost.macs / 1e9:.2f}")
        for line in counted("resnet50").discrepancies()
    }
    assert found == DISCREPANCIES
    assert "layer_norm 4.46 printed, 4.15 counted; separate_downsampling 4.49 printed, 4.46 counted" in note(
        counted("resnet50")
    )


def test_no_discrepancy_is_claimed_where_none_can_be() -> None:
    """At another size, or for another regime's networks, printed and counted do not compare."""
    for incomparable in (counted("nano")._replace(resolution=224), counted("resnet50")._replace(resolution=64)):
        assert not incomparable.discrepancies()
        assert not note(incomparable)


def test_change_is_from_the_parent_and_not_from_the_line_above() -> None:
    change = {line.rung.name: line.change for line in counted("resnet50").rungs}
    assert change["resnet"] is None
    assert change["kernel_11"] == pytest.approx(80.47 - 79.92)
    assert change["gelu"] == pytest.approx(0.05)
    assert "from move_up_depthwise for kernel_7, kernel_9 and kernel_11; from kernel_7 for gelu" in "".join(
        counted("resnet50").notes()
    )


@pytest.mark.parametrize("columns", [40, 80, 120])
@pytest.mark.parametrize("regime", ["resnet50", "nano"])
def test_table_fits_80_columns_and_cuts_nothing(regime: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    table = as_table(counted(regime))
    assert "…" not in table
    assert max(map(len, table.splitlines())) <= max(columns, 80)
    for line in counted(regime).rungs:
        assert (line.rung.name if line.rung.adopted else f"({line.rung.name})") in table


def test_nano_says_whose_the_published_numbers_are() -> None:
    for text in (as_table(counted("nano")), as_markdown(counted("nano"))):
        assert "published: resnet50" in text
        assert "ImageNet-1K, 224 px" in text
    assert "32 px, 10 classes" in as_table(counted("nano"))


def test_csv_is_the_ladder() -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(counted("nano")))))
    for row, rung in zip(rows, roadmap.ladder("nano"), strict=True):
        assert row["rung"] == rung.name
        assert row["parent"] == (rung.parent or "")
        assert row["adopted"] == ("yes" if rung.adopted else "no")
        assert (row["published_regime"], float(row["published_top1"])) == ("resnet50", rung.published.top1)
        cost = roadmap.cost(rung.design, 32, 10)
        assert (int(row["macs"]), int(row["params"]), int(row["activations"])) == cost


def test_csv_leaves_stdout_to_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--regime", "nano", "--format", "csv"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1 + 17
    assert "kernel_5, kernel_9 and kernel_11" in err


def test_markdown_is_one_table_and_its_notes() -> None:
    table, *notes = as_markdown(counted("resnet50")).split("\n\n")
    assert {line.count("|") for line in table.splitlines()} == {7}
    assert len(table.splitlines()) == 2 + 17
    assert notes[-1].startswith(r"\* Discrepancies")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with a road of one's own, and one that goes on from ours."""
    (tmp_path / "road").mkdir()
    rungs = "rungs:\n- {name: start, step: modern_recipe}\n- {step: gelu, adopted: false}\n- {step: layer_norm}\n"
    (tmp_path / "road" / "mine.yaml").write_text(f"{rungs}sections: {{own: Mine}}\n")
    (tmp_path / "road" / "longer.yaml").write_text("extends: convnext\nrungs:\n- {step: remove_layer_scale}\n")
    return tmp_path


def test_a_road_of_ones_own_is_counted_without_published_numbers(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--road", "mine", "--config-dir", str(own), "--regime", "nano"]
    assert main(common) == 0
    out = capsys.readouterr().out
    assert out.startswith("mine: nano\n32 px, 10 classes\n")
    assert [line.split()[0] for line in out.splitlines()[5:8]] == ["start", "(gelu)", "layer_norm"]
    assert "ublished" not in out
    assert main([*common, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row[name] for row in rows for name in row if name.startswith("published")} == {""}
    assert main([*common, "--format", "markdown"]) == 0
    assert "published" not in capsys.readouterr().out


def test_a_road_that_goes_on_from_the_papers_has_its_numbers_and_none_for_the_rest(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--road", "longer", "--config-dir", str(own)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "remove_layer_scale" in line]
    assert line.split()[-3:] == ["-", "-", "-"]


def test_resolution_is_counted() -> None:
    assert counted("nano").resolution == 32
    larger = counted("nano", 64)
    assert larger.resolution == 64
    assert larger.rungs[0].cost == roadmap.cost(roadmap.ladder("nano")[0].design, 64, 10)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--regime", "resnet51"], "unknown regime 'resnet51'; did you mean 'resnet50'?"),
        (["--road", "convnxt"], "unknown road 'convnxt'; did you mean 'convnext'?"),
        (["--config-dir", "/no/such"], "--config-dir /no/such is not a folder"),
        (["--resolution", "31"], "at least 32 pixels, not '31'"),
        (["--resolution", "big"], "at least 32 pixels, not 'big'"),
        (["--format", "html"], "'table', 'csv', 'markdown'"),
        (["--regmie", "nano"], "--regmie"),
    ],
)
def test_error_is_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    out, err = capsys.readouterr()
    assert exit_.value.code == 2
    assert words in err
    assert err.count("\n") == 1
    assert not out


def test_help_needs_no_torch() -> None:
    code = "import sys, atexit; from roadmap.__main__ import main; "
    code += "atexit.register(lambda: print('torch' in sys.modules)); main(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--resolution" in done.stdout
    assert done.stdout.endswith("False\n")


def test_closed_pipe_is_quiet() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "roadmap", "--regime", "nano", "--format", "csv"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (CLOSED_PIPE, "")
