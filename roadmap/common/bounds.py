"""The values that a setting may have, declared with it: `width: int = setting(64, Number("[1, 65536]"))`.

Bounds are in the metadata of a dataclass field, so that the switches of `Design` and the settings of the command line
are checked in the same way. Imports no torch.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, Field, dataclass, field, fields
from itertools import pairwise
from typing import Any, Protocol

BOUNDS = "bounds"


class Bounds(Protocol):
    def problem(self, value: Any) -> str | None:
        """What is wrong with a value, as in "must be in [0, 1), not 2"; None if nothing is."""
        ...


def setting(default: Any = MISSING, bounds: Bounds | None = None) -> Any:
    """A dataclass field with its bounds; each object gets its own copy of a mutable default (list, dict)."""
    if isinstance(default, (list, dict)):
        return field(default_factory=default.copy, metadata={BOUNDS: bounds})
    return field(default=default, metadata={BOUNDS: bounds})


def bounds_of(entry: Field) -> Bounds | None:
    return entry.metadata.get(BOUNDS)


def problems(value: Any) -> Iterator[tuple[str, str]]:
    """(field, problem) for each field of a dataclass object that is out of bounds. None is left to the type check."""
    for entry in fields(value):
        bounds, content = bounds_of(entry), getattr(value, entry.name)
        if bounds and content is not None and (problem := bounds.problem(content)):
            yield entry.name, problem


@dataclass(frozen=True)
class Number:
    """An interval in mathematical notation: "(0, 1]" is above 0 and at most 1. NaN is in none."""

    interval: str

    def problem(self, value: Any) -> str | None:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return f"must be a number in {self.interval}, not {value!r}"
        left, low, high, right = re.fullmatch(r"([\[(])(.+), (.+)([\])])", self.interval).groups()
        above = value >= _number(low) if left == "[" else value > _number(low)
        below = value <= _number(high) if right == "]" else value < _number(high)
        return None if above and below else f"must be in {self.interval}, not {value}"


def _number(text: str) -> float:
    base, _, power = text.partition("^")
    return int(base) ** int(power) if power else float(text)


@dataclass(frozen=True)
class OneOf:
    choices: tuple[str, ...]

    def problem(self, value: Any) -> str | None:
        if value in self.choices:
            return None
        return f"must be {' or '.join(self.choices)}, not {value!r}{did_you_mean(value, self.choices)}"


@dataclass(frozen=True)
class Text:
    """Printable, not empty, and matched by `pattern`."""

    pattern: str = r".+"
    like: str = "text on one line, not empty"
    longest: int = 4000

    def problem(self, value: Any) -> str | None:
        is_text = isinstance(value, str) and value.isprintable() and len(value) <= self.longest
        if is_text and re.fullmatch(self.pattern, value):
            return None
        shown = repr(value) if len(repr(value)) <= 80 else f"{value!r:.77}..."
        return f"must be {self.like}, not {shown}"


@dataclass(frozen=True)
class PathText:
    """A path that any file system accepts, whether it exists or not."""

    def problem(self, value: Any) -> str | None:
        too_long = len(os.fsencode(value)) > 4000 or any(len(os.fsencode(name)) > 255 for name in value.split("/"))
        return f"must be a path, but {value[:20]}... is too long for one" if too_long else Text().problem(value)


@dataclass(frozen=True)
class Each:
    """Bounds of a list's elements or a dict's values, of their number, and of their order."""

    bounds: Bounds
    counts: range = range(1000)
    ascending: bool = False

    def problem(self, value: Any) -> str | None:
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            return f"must be a list, not {value!r}"
        elements = list(value.values() if hasattr(value, "values") else value)
        if len(elements) not in self.counts:
            first, last = self.counts.start, self.counts.stop - 1
            return f"must be {first if first == last else f'{first} to {last}'} values, not {elements}"
        if problem := next((problem for element in elements if (problem := self.bounds.problem(element))), None):
            return problem
        if self.ascending and any(second <= first for first, second in pairwise(elements)):
            return f"must be in ascending order, each once, not {elements}"
        return None


def did_you_mean(word: object, choices: Iterable[str]) -> str:
    """'; did you mean X?' with the nearest of the choices, or '' if none is near."""
    near = difflib.get_close_matches(str(word), [str(choice) for choice in choices], n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
