"""The file of a study, `runs/studies/NAME.json`: the command that last launched it, the names of its runs, and the
looks at their results (experiments/launch/looks.py), which name the runs of earlier launches, too."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from roadmap.common.files import read_json, write


def file_name(study: str) -> str:
    """A study's name as that of a file, and of jobs."""
    return re.sub(r"[^\w.-]", "_", study)


def study_file(runs: Path, study: str) -> Path:
    return runs / "studies" / f"{file_name(study)}.json"


def write_study(file: Path, command: str, names: Sequence[str], looks: Sequence[Mapping[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write(file, json.dumps({"command": command, "runs": sorted(names), "looks": looks}, indent=1) + "\n")


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
