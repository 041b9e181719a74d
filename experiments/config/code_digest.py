"""The code that trains, as hashes of files: not of commits, most of which change nothing about training, and which say
nothing about what is not committed."""

from __future__ import annotations

import ast
import hashlib
import json
import sysconfig
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from roadmap.designs import Design
from roadmap.dotted import find_module, module_of

HERE = Path(__file__).resolve().parents[2]
TRAINS = "experiments.launch.worker"
"""The module whose imports, within this project, decide a run's result once its configuration is composed."""
PROJECT = ("experiments", "roadmap", "hydra_plugins")
READERS = "experiments.data.readers"
"""A package whose modules decide it, too; they are imported by name."""


@cache
def training_sources() -> dict[str, str]:
    """{file: SHA-256} of the modules of this project that train a run."""
    modules = _imported(TRAINS, {}, _project_file)
    for path in (HERE / READERS.replace(".", "/")).glob("*.py"):
        _imported(f"{READERS}.{path.stem}", modules, _project_file)
    return {str(path.relative_to(HERE)): _digest(path) for path in sorted(modules.values())}


def changed_sources(before: dict[str, str]) -> list[str]:
    """The files that differ from those of `before`, or are new or missing."""
    now = training_sources()
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def code_of(design: Design) -> dict[str, str]:
    """{dotted path: SHA-256} of a design's external code: the module of each path and what it
    imports, except modules of this project, Python's and installed packages. None of them is imported.

    Two copies of the same modules have the same hash, wherever they are.
    """
    codes = {}
    for path in design.dotted().values():
        modules = _imported(module_of(path), {}, _external_file)
        if modules:
            digests = sorted((name, _digest(file)) for name, file in modules.items())
            codes[path] = hashlib.sha256(json.dumps(digests).encode()).hexdigest()
    return codes


def _imported(module: str, modules: dict[str, Path], find: Callable[[str], Path | None]) -> dict[str, Path]:
    """Add {name: file} of a module, its packages and all that they import to `modules`. `find` gives the file of a
    module that counts, and None for others."""
    package = module.rpartition(".")[0]
    if package:
        _imported(package, modules, find)
    if module in modules or (file := find(module)) is None:
        return modules
    modules[module] = file
    for name in _imports(file, module if file.stem == "__init__" else package):
        _imported(name, modules, find)
    return modules


def _imports(file: Path, package: str) -> Iterator[str]:
    """The modules that a source file imports, and the names in them, which may be modules. `package` is the one that
    relative imports start from."""
    try:
        tree = ast.parse(_content(file))
    except (SyntaxError, ValueError):  # not Python, or not yet
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: 1 - node.level or None] if node.level and package else []
            module = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (module, *(f"{module}.{alias.name}" for alias in node.names))


def _project_file(module: str) -> Path | None:
    if module.split(".")[0] not in ("experiments", "roadmap"):
        return None
    path = HERE / module.replace(".", "/")
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.exists()), None)


def _external_file(module: str) -> Path | None:
    """A module's file as Python would find it; None for this project's, Python's and installed packages'."""
    try:
        spec = find_module(module)
    except LookupError:
        return None
    file = Path(spec.origin) if spec.has_location and spec.origin else None
    return None if file is None or _is_installed(file.resolve()) else file


def _is_installed(file: Path) -> bool:
    project = any(file.is_relative_to(HERE / package) for package in PROJECT)
    python = file.is_relative_to(Path(sysconfig.get_path("stdlib")).resolve())
    return project or python or not {"site-packages", "dist-packages"}.isdisjoint(file.parts)


def _digest(path: Path) -> str:
    return hashlib.sha256(_content(path)).hexdigest()


def _content(path: Path) -> bytes:
    """The content of a file, which may be inside a zip file, as Python can import modules from one."""
    for folder in path.parents:
        if folder.is_file():
            return zipfile.Path(folder, path.relative_to(folder).as_posix()).read_bytes()
    return path.read_bytes()
