"""Dotted paths of classes: package.module.Class.

Imports neither torch nor what a path names; `roadmap.own` does.
"""

from __future__ import annotations

import pkgutil
import sys
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any, cast

from roadmap.common.bounds import did_you_mean

PACKAGES = ("torch.nn", "timm.layers", "roadmap")
"""Packages whose layers may always be built. Anything else is user-defined code, and runs only if the user names it."""


def is_dotted(value: object) -> bool:
    """Whether a value has the form package.module.Class."""
    return isinstance(value, str) and "." in value and all(part.isidentifier() for part in value.split("."))


def module_of(path: str) -> str:
    """The module part of a dotted path; the last word is the class."""
    return path.rpartition(".")[0]


def is_of_packages(module: str) -> bool:
    """Whether a module is one of PACKAGES, or inside one."""
    return any(f"{module}.".startswith(f"{package}.") for package in PACKAGES)


def find_module(name: str) -> ModuleSpec:
    """The spec from which Python would load a module. Neither it nor its packages are imported.

    Raises:
        LookupError: if there is none. The message is one line.
    """
    folders: list[str] | None = None
    prefix = ""
    for word in name.split("."):
        prefix = f"{prefix}.{word}" if prefix else word
        spec = next(filter(None, (_find_spec(finder, prefix, folders) for finder in sys.meta_path)), None)
        if spec is None:
            hint = did_you_mean(word, [module.name for module in pkgutil.iter_modules(folders)])
            if folders == []:
                hint = "; a class must be directly in a module, not in another class"
            raise LookupError(f"Python finds no module {prefix!r}{hint}")
        folders = list(spec.submodule_search_locations or ())
    return cast(ModuleSpec, spec)


def _find_spec(finder: Any, name: str, folders: list[str] | None) -> ModuleSpec | None:
    if finder is PathFinder and folders is not None:
        return _find_in(folders, name)
    return finder.find_spec(name, folders) if hasattr(finder, "find_spec") else None


def _find_in(folders: list[str], name: str) -> ModuleSpec | None:
    """What PathFinder would find; for a namespace package within another, PathFinder would import the outer one."""
    locations: list[str] = []
    for importer in filter(None, map(pkgutil.get_importer, folders)):
        spec = importer.find_spec(name)
        if spec and spec.loader:
            return spec
        locations += (spec.submodule_search_locations or []) if spec else []
    namespace = ModuleSpec(name, None, is_package=True)
    namespace.submodule_search_locations = locations
    return namespace if locations else None
