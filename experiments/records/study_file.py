"""The file of a study, `runs/studies/NAME.json`: the command that last launched it, the names of its runs, of those
among them that may diverge (tuning.py in experiments/launch/), whether these are a search whose second phase has not
begun (there, too), and the looks at their results (looks.py there), which name the runs of earlier launches, too."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from roadmap.common.files import read_json, read_object, write


def file_name(study: str) -> str:
    """A study's name as that of a file, and of jobs."""
    return re.sub(r"[^\w.-]", "_", study)


def study_file(runs: Path, study: str) -> Path:
    return runs / "studies" / f"{file_name(study)}.json"


def write_study(
    file: Path,
    command: str,
    names: Iterable[str],
    may_diverge: Iterable[str],
    looks: Sequence[Mapping[str, Any]],
    is_search: bool = False,
) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {
        "command": command,
        "runs": sorted(names),
        "may_diverge": sorted(may_diverge),
        "looks": looks,
    }
    content |= {"is_search": True} if is_search else {}
    write(file, json.dumps(content, indent=1) + "\n")


def run_names(file: Path, *, all_launches: bool = False) -> list[str]:
    """The names of the runs of a study's last launch, or of all its launches.

    Raises:
        ValueError: if the file cannot be read, or lists names that no run can have. The message is one line.
    """
    try:
        content = read_json(file)
        names = content["runs"]
        if all_launches:
            names = sorted({*names, *(name for look in content.get("looks", ()) for name in look["runs"])})
        if all(os.path.basename(name) == name and "\0" not in name for name in names):
            return names
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} can't be read; launch the study again, which rewrites it") from error
    raise ValueError(f"{file} lists names that no run can have; launch the study again, which rewrites it")


def is_search(file: Path) -> bool:
    """Whether the last launch was the search of a tuned study, whose second phase has not begun."""
    return (read_object(file) or {}).get("is_search") is True


def may_diverge(file: Path) -> set[str]:
    """The names of those runs whose divergence is a result, not a failure."""
    names = (read_object(file) or {}).get("may_diverge")
    return {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()
