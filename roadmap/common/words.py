"""Lists, counts and times in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence


def listed(words: Iterable[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    *first, last = [*words] or [""]
    return f"{', '.join(first)} and {last}" if first else last


def shortened(words: Iterable[str], most: int, join: Callable[[list[str]], str] = listed) -> str:
    """The first `most` words, and how many more there are: "a, b and 3 more"."""
    words = [*words]
    return join(words[:most] + [f"{len(words) - most} more"] * (len(words) > most))


def counted(count: int, noun: str) -> str:
    """ "1 run", "2 runs"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def counted_each(counts: Sequence[int], noun: str) -> str:
    """ "1 run", "2 and 3 runs"."""
    return listed([*map(str, counts[:-1]), counted(counts[-1], noun)])


def duration(seconds: float) -> str:
    """The two largest units: "42s", "12m05s", "3h05m", "2d04h"."""
    seconds = round(seconds)
    for unit, length, next_unit, next_length in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if seconds >= length:
            return f"{seconds // length}{unit}{seconds % length // next_length:02d}{next_unit}"
    return f"{seconds}s"
