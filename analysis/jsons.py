"""JSON as records hold it: fast where it is strict, Python's way where a diverged run wrote NaN."""

from __future__ import annotations

import json
from typing import Any

import orjson


class BrokenRecordError(ValueError):
    """A place that looks like a run but is not a record. The message is one line."""


def parse(text: bytes | str) -> Any:
    """The value of a JSON text, NaN and Infinity included.

    Raises:
        ValueError: if it is none.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:  # NaN is not JSON; a run that diverged has it all the same
        return json.loads(text)


def read_object(path: str) -> dict[str, Any]:
    """The JSON object that a file holds.

    Raises:
        BrokenRecordError: if it holds none, or cannot be read.
    """
    name = path.rsplit("/", 1)[-1]
    try:
        with open(path, "rb") as file:
            value = parse(file.read())
    except FileNotFoundError:
        raise BrokenRecordError(f"no {name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BrokenRecordError(f"{name} cannot be read ({one_line(error)})") from None
    if not isinstance(value, dict):
        raise BrokenRecordError(f"{name} holds no JSON object")
    return value


def plain(value: Any) -> Any:
    """The value with whole floats as integers: W&B does not tell 1.0 from 1, and equal settings must compare equal."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return value


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())
