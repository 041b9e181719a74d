"""Classes from outside our tables, named by dotted path: package.module.Class.

Imports no torch, and nothing that a path names; `roadmap.own` does.
"""

from __future__ import annotations

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
