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
"""What it imports, of ours, is what decides a run's result once its configuration is composed."""
OURS = ("experiments", "roadmap", "hydra_plugins")
READERS = "experiments.data.readers"
"""And what is in here, which is imported by name."""


@cache
def training_sources() -> dict[str, str]:
    """{file: SHA-256} of our modules that a run is trained by."""
    found = _imported(TRAINS, {}, _of_ours)
    for path in (HERE / READERS.replace(".", "/")).glob("*.py"):
        _imported(f"{READERS}.{path.stem}", found, _of_ours)
    return {str(path.relative_to(HERE)): _digest(path) for path in sorted(found.values())}


def changed_sources(before: dict[str, str]) -> list[str]:
    """The files of `before` that are others now, and those that came or went."""
    now = training_sources()
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def code_of(design: Design) -> dict[str, str]:
    """{dotted path: SHA-256} of the code that a design brings with it: the module that each path names and the modules
    that this imports, as far as they are neither ours nor of an installed package. Nothing is imported to find out.

    Two copies of the same modules have one hash, wherever they lie.
    """
    codes = {}
    for path in design.dotted().values():
        modules = _imported(module_of(path), {}, _brought_along)
        if modules:
            digests = sorted((name, _digest(file)) for name, file in modules.items())
            codes[path] = hashlib.sha256(json.dumps(digests).encode()).hexdigest()
    return codes


Find = Callable[[str], Path | None]
"""The file of a module of this name, if it counts."""


def _imported(module: str, found: dict[str, Path], find: Find) -> dict[str, Path]:
    """{name: file} of a module, of those that it lies in, and of all that they import; of those that count."""
    package = module.rpartition(".")[0]
    if package:
        _imported(package, found, find)
    if module in found or (file := find(module)) is None:
        return found
    found[module] = file
    for name in _imports(file, module if file.stem == "__init__" else package):
        _imported(name, found, find)
    return found


def _imports(file: Path, package: str) -> Iterator[str]:
    """What a source file imports: modules, and what is perhaps one in them. `package` is what it counts dots from."""
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


def _of_ours(module: str) -> Path | None:
    if module.split(".")[0] not in ("experiments", "roadmap"):
        return None
    path = HERE / module.replace(".", "/")
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.exists()), None)


def _brought_along(module: str) -> Path | None:
    """A module's file as Python would find it, if it is none of ours, of Python's or of an installed package's."""
    try:
        spec = find_module(module)
    except LookupError:
        return None
    file = Path(spec.origin) if spec.has_location and spec.origin else None
    return None if file is None or _is_installed(file.resolve()) else file


def _is_installed(file: Path) -> bool:
    ours = any(file.is_relative_to(HERE / package) for package in OURS)
    python = file.is_relative_to(Path(sysconfig.get_path("stdlib")).resolve())
    return ours or python or not {"site-packages", "dist-packages"}.isdisjoint(file.parts)


def _digest(path: Path) -> str:
    return hashlib.sha256(_content(path)).hexdigest()


def _content(path: Path) -> bytes:
    """What a file holds, which may lie in a zip file, as modules do where Python looks in one."""
    for folder in path.parents:
        if folder.is_file():
            return zipfile.Path(folder, path.relative_to(folder).as_posix()).read_bytes()
    return path.read_bytes()
