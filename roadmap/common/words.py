"""Lists and times in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable


def listed(words: Iterable[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    *first, last = [*words] or [""]
    return f"{', '.join(first)} and {last}" if first else last


def shortened(words: Iterable[str], most: int, join: Callable[[list[str]], str] = listed) -> str:
    """At most this many of the words, and how many more there are: "a, b and 3 more"."""
    words = [*words]
    return join(words[:most] + [f"{len(words) - most} more"] * (len(words) > most))


def clock(seconds: float) -> str:
    """Minutes and seconds: "12:05"."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"
