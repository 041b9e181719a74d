"""The JSON files of a run record (docs/records.md): for what trains, and for what reads. Standard library alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from roadmap.common.files import printable, read_json

CONFIG, SUMMARY = "config.json", "summary.json"
LATENCY = "latency"
"""The `task` in the summary of a record that is no run: of a network whose speed was measured (experiments/latency)."""
MODES = ("inference", "training")
"""What is timed of a network: a forward pass; a whole training step."""


class BrokenRecordError(ValueError):
    """There is no record that can be used. The message is one line: why."""


def read_record_file(
    directory: str | os.PathLike, name: str, parse: Callable[[bytes], Any] = json.loads
) -> dict[str, Any]:
    """The JSON object in a file of a run's directory.

    Raises:
        BrokenRecordError: if there is none that can be read.
    """
    try:
        value = read_json(os.path.join(directory, name), parse)
    except FileNotFoundError:
        raise BrokenRecordError(f"no {name}") from None
    except OSError as error:
        raise BrokenRecordError(f"{name} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise BrokenRecordError(f"{name} is not JSON ({printable(error)})") from None
    if not isinstance(value, dict):
        raise BrokenRecordError(f"{name} is not a JSON object")
    return value
