"""The lower bounds of pyproject.toml are the versions that can be tested together: those of .ci/lowest.txt."""

import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
NEWER_ONLY = {"ruff", "mypy", "pre-commit", "jupyterlab"}  # tools of those who write it: nothing here calls them
ASKED = [
    requirement
    for text in chain(PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    if (requirement := Requirement(text)).name not in {PROJECT["name"], *NEWER_ONLY}
]


@pytest.fixture(scope="module")
def tested() -> dict[str, Version]:
    lines = (ROOT / ".ci" / "lowest.txt").read_text("utf-8").splitlines()
    return {name: Version(version) for name, version in (line.split("==") for line in lines)}


@pytest.mark.parametrize("requirement", ASKED, ids=lambda requirement: requirement.name)
def test_lower_bound_was_tested(requirement: Requirement, tested: dict[str, Version]) -> None:
    [bound] = re.findall(r">=([\d.]+)", str(requirement.specifier))
    assert Version(bound) == tested[requirement.name]


def test_nothing_else_is_pinned(tested: dict[str, Version]) -> None:
    assert tested.keys() == {requirement.name for requirement in ASKED}
