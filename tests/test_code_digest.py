"""Code that a run's network brings along is part of what the run is, wherever it lies and whatever else lies there."""

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.config.code_digest import code_of
from roadmap import Design
from roadmap.dotted import find_module

MODULES = {
    "mine/__init__.py": "",
    "mine/gates.py": "import torch, timm.layers\nfrom . import tools\nfrom .deep.er import x\nraise SystemExit",
    "mine/tools.py": "def tool():\n    import helper",
    "mine/deep/__init__.py": "from .. import up",
    "mine/deep/er.py": "from ...nothing import x\nimport roadmap.block",
    "mine/up.py": "",
    "mine/unused.py": "",
    "helper.py": "import sys, mine.gates, spaces.inner.deep",
    "spaces/inner/deep.py": "",
}
GATE = Design(norm="mine.gates.Gate")


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Somebody's modules in a folder of some name, where Python looks for them first."""

    def write(folder: str) -> Path:
        for name, text in MODULES.items():
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.syspath_prepend(tmp_path / folder)
        return tmp_path / folder

    return write


@pytest.mark.parametrize("changed", MODULES)
def test_code_is_another_when_what_it_imports_is(changed: str, modules: Callable) -> None:
    folder = modules("one")
    before = code_of(GATE)
    assert before.keys() == {"mine.gates.Gate"}
    (folder / changed).write_text(MODULES[changed] + "\n# another\n")
    assert (code_of(GATE) != before) == (changed != "mine/unused.py")


def test_code_is_the_same_wherever_it_lies(modules: Callable) -> None:
    modules("one")
    here = code_of(GATE)
    modules("other")
    assert code_of(GATE) == here
    assert not any(name == "helper" or name.startswith("mine") for name in sys.modules)


def test_code_in_a_zip_is_what_it_is_in_a_folder(modules: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = modules("one")
    before = code_of(GATE)
    archive = shutil.make_archive(str(folder), "zip", folder)
    shutil.rmtree(folder)
    monkeypatch.syspath_prepend(archive)
    assert code_of(GATE) == before


def test_module_is_found_where_python_finds_it(modules: Callable) -> None:
    """Folders of one name without an __init__.py are one package."""
    (modules("one") / "spaces" / "inner" / "other.py").touch()
    there = modules("other")
    names = ("spaces.inner.deep", "spaces.inner.other")
    origins = [find_module(name).origin for name in names]
    assert "spaces" not in sys.modules
    expected = [importlib.util.find_spec(name).origin for name in names]
    del sys.modules["spaces.inner"], sys.modules["spaces"]
    assert origins == expected
    assert origins[0].startswith(str(there))


def test_code_that_python_cannot_read_is_hashed_all_the_same(modules: Callable) -> None:
    (modules("one") / "mine" / "gates.py").write_text("def")
    assert code_of(GATE).keys() == {"mine.gates.Gate"}


def test_each_path_has_its_code(modules: Callable) -> None:
    modules("one")
    layers = {"tool": {"at": "hidden", "_target_": "mine.tools.Tool"}}
    codes = code_of(Design(norm="mine.up.Up", activation="mine.up.Down", layers=layers))
    assert codes.keys() == {"mine.up.Up", "mine.up.Down", "mine.tools.Tool"}
    assert codes["mine.up.Up"] == codes["mine.up.Down"] != codes["mine.tools.Tool"]


INSTALLED = ["timm.layers.RmsNorm2d", "torch.nn.SiLU", "roadmap.layers.LayerNorm2d", "enum.Enum", "nowhere.X"]


@pytest.mark.parametrize("path", INSTALLED)
def test_what_is_installed_is_no_code_of_the_run(path: str) -> None:
    assert code_of(Design(norm=path)) == {}


def test_code_is_found_without_torch() -> None:
    program = (
        "import sys, roadmap; from experiments.config.code_digest import code_of; "
        "code_of(roadmap.Design(norm='timm.layers.RmsNorm2d')); assert not {'torch', 'timm'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
