"""`analysis/ladder.ipynb`: runs from top to bottom on the study in the repository, and shows what it computes."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from records import road_of, write_run, write_study

import analysis
from roadmap.conf import OURS

NOTEBOOK = Path(analysis.__file__).with_name("ladder.ipynb")
STUDY = NOTEBOOK.parent / "studies" / "fashion_mnist"


@pytest.fixture(scope="module")
def stored() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def executed(stored: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with new outputs; a cell that fails is an error here."""
    fresh = nbformat.from_dict(stored)
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    return NotebookClient(fresh, timeout=300, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()


def texts(notebook: nbformat.NotebookNode) -> list[str]:
    """What each code cell says, spaces and line ends aside."""
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    said = [[one.get("text") or one.data.get("text/plain", "") for one in cell] for cell in outputs]
    return [" ".join(" ".join(cell).split()) for cell in said]


def figures(notebook: nbformat.NotebookNode) -> int:
    return str(notebook).count("'image/png'")


def test_the_outputs_in_the_repository_are_what_the_cells_compute(stored, executed):
    assert texts(stored) == texts(executed)
    assert figures(stored) == figures(executed) == sum("_figure(" in cell.source for cell in stored.cells)


def test_the_rest_follows_from_a_folder_of_ones_own(stored, tmp_path):
    """Two rungs; steps of one's own; models of timm's alone; and the ladder while it trains. No cell fails or warns."""
    write_study(tmp_path / "two", ("kernel_7", "gelu"))
    road = road_of("mixer", "wide")
    for number, rung in enumerate(road.rungs):
        for seed in range(2):
            write_run(
                tmp_path / "own", steps=rung.steps, seed=seed, top1=60 + 3 * number + seed, regime="mini", road=road
            )
    for model in ("resnet18", "vit_tiny_patch16_224"):
        write_run(tmp_path / "timm", None, config={"model": f"timm:{model}"})
    for rung in ("resnet", "modern_recipe"):
        write_run(tmp_path / "begun", rung, status="running")
    cells = []
    for folder in ("two", "own", "timm", "begun"):
        code = [cell.source for cell in stored.cells if cell.cell_type == "code"]
        (place,) = [place for place, source in enumerate(code) if source.startswith("NATURAL_IMAGES = ")]
        code[place] = re.sub(r"STUDIES / \S+", f"Path({str(tmp_path / folder)!r})", code[place])
        cells += map(nbformat.v4.new_code_cell, code)
    notebook = nbformat.v4.new_notebook(cells=cells)  # one after the other: a kernel takes seconds to start
    NotebookClient(notebook, timeout=300).execute()
    said = texts(notebook)
    outputs = [one for cell in notebook.cells for one in cell.outputs]
    assert not [one.text for one in outputs if one.get("name") == "stderr"]
    assert figures(notebook) == 4 * (figures(stored) - 2)  # no folder has several budgets
    for words in ("6 runs, 18 epochs", "mixer", "timm:vit_tiny_patch16_224", "2 running"):
        assert any(words in text for text in said), words


def test_no_output_is_a_warning_or_names_a_machine(stored):
    outputs = [one for cell in stored.cells if cell.cell_type == "code" for one in cell.outputs]
    assert not [one for one in outputs if one.get("name") == "stderr" or one.output_type == "error"]
    assert not [place for place in ("/home/", "/root/", "/tmp/", "/work/") if place in str(outputs)]


def test_the_study_is_what_its_commands_train():
    """Ladder and leave-one-out with three seeds, the 64 networks of the sections, and nothing unfinished."""
    short, longer = analysis.comparisons(analysis.load(STUDY))
    road = OURS.road()
    for steps in [*(rung.steps for rung in road.rungs), *road.leave_one_out()]:
        assert {*short.values(steps).index} == {0, 1, 2}, steps
    for steps in road.unions(road.groups().values()):
        assert 0 in short.values(steps).index, steps
    assert Counter(longer.counted["rung"]) == dict.fromkeys(["resnet", "separate_downsampling"], 3)
    assert (short.runs["left_out"] == "").all()
    assert short.train_images == 60_000
