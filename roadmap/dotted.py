"""Classes from outside our tables, named by dotted path: package.module.Class.

Imports no torch, and nothing that a path names; `roadmap.own` does.
"""

from __future__ import annotations

import pkgutil
import sys
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

from roadmap.common.bounds import did_you_mean

PACKAGES = ("torch.nn", "timm.layers", "roadmap")
"""Whose layers are built whoever names them. Anything else is somebody's code: it runs only if the user names it."""


def is_dotted(value: object) -> bool:
    """Whether a value is written like package.module.Class."""
    return isinstance(value, str) and "." in value and all(part.isidentifier() for part in value.split("."))


def module_of(path: str) -> str:
    """The module that a class is looked for in; the class itself is the last word."""
    return path.rpartition(".")[0]


def is_of_packages(module: str) -> bool:
    """Whether a module is one of PACKAGES, or inside one."""
    return any(f"{module}.".startswith(f"{package}.") for package in PACKAGES)


def find_module(name: str) -> ModuleSpec:
    """Where Python would load a module from. Neither it nor what it lies in is imported.

    Raises:
        LookupError: if there is none. The message is one line.
    """
    folders, found = None, ""
    for word in name.split("."):
        found = f"{found}.{word}" if found else word
        spec = next(filter(None, (_ask(finder, found, folders) for finder in sys.meta_path)), None)
        if spec is None:
            hint = did_you_mean(word, [module.name for module in pkgutil.iter_modules(folders)])
            if folders == []:
                hint = "; a class is looked for directly in a module, not in another class"
            raise LookupError(f"there is no module {found!r} where Python looks{hint}")
        folders = list(spec.submodule_search_locations or ())
    return spec


def _ask(finder: Any, name: str, folders: list[str] | None) -> ModuleSpec | None:
    if finder is PathFinder and folders is not None:
        return _find_in(folders, name)
    return finder.find_spec(name, folders) if hasattr(finder, "find_spec") else None


def _find_in(folders: list[str], name: str) -> ModuleSpec | None:
    """What PathFinder would find, which for a package without an __init__.py in another needs that to be imported."""
    namespace = ModuleSpec(name, None, is_package=True)
    for importer in filter(None, map(pkgutil.get_importer, folders)):
        spec = importer.find_spec(name)
        if spec and spec.loader:
            return spec
        namespace.submodule_search_locations += spec.submodule_search_locations if spec else []
    return namespace if namespace.submodule_search_locations else None
