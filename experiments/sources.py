"""What the code is that trains, and what it is that composes a configuration, as hashes of files: not of commits, of
which most changes say nothing about training, and which say nothing about what is not committed."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
TRAINS = "experiments.worker"
"""What it imports, of ours, is what decides a run's result once its configuration is composed."""
READERS = "experiments.readers"
"""And what is in here, which is imported by name."""


@cache
def training_sources() -> dict[str, str]:
    """{file: SHA-256} of our modules that a run is trained by."""
    found = _imported(TRAINS)
    for path in (HERE / READERS.replace(".", "/")).glob("*.py"):
        _imported(f"{READERS}.{path.stem}", found)
    return {str(path.relative_to(HERE)): _digest(path) for path in sorted(found)}


def changed_sources(before: dict[str, str]) -> list[str]:
    """The files of `before` that are others now, and those that came or went."""
    now = training_sources()
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def composition_digest(folders: Iterable[Path]) -> str | None:
    """A hash of everything that a composed configuration comes from: YAML in these folders, and all of our code.

    None if some of it looks at the environment or the clock, so that equal files may compose differently.
    """
    files = [path for folder in folders for path in sorted(folder.rglob("*.yaml"))]
    if any("${oc.env:" in (text := path.read_text("utf-8")) or "${now:" in text for path in files):
        return None
    for package in ("experiments", "roadmap", "hydra_plugins"):
        files += sorted((HERE / package).rglob("*.py"))
    return hashlib.sha256(json.dumps([[str(path), _digest(path)] for path in files]).encode()).hexdigest()


def _imported(module: str, found: set[Path] | None = None) -> set[Path]:
    """The files of a module and of all modules of ours that it imports, anywhere in it."""
    found = set() if found is None else found
    path = HERE / f"{module.replace('.', '/')}.py"
    path = path if path.exists() else path.with_suffix("") / "__init__.py"
    if not path.exists() or path in found:
        return found
    found.add(path)
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] in ("experiments", "roadmap"):
                _imported(name, found)
    return found


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
