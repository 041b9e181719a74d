"""Many independent, short computations, on all cores: a plan should answer within seconds."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from experiments.runtime.machine import cores

Item = TypeVar("Item")
Result = TypeVar("Result")

FEW = 8
"""Of so few items, forking is not worth it."""

_function: Callable[[Any], Any]


def on_all_cores(function: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item]) -> list[Result]:
    """The results of `function` for items: of all together, or of a part in each of several forked processes, one per
    core. An item's result must not depend on which others are in its part.

    Raises:
        Exception: what `function` raises.
    """
    processes = cores() if sys.platform == "linux" else 1  # elsewhere a fork is not safe
    if len(items) <= FEW or processes == 1:
        return function(items)
    size = -(-len(items) // processes)
    parts = [items[first : first + size] for first in range(0, len(items), size)]
    with multiprocessing.get_context("fork").Pool(len(parts), _remember, [function]) as pool:
        answers = pool.map(_answer, parts, chunksize=1)
    if None in answers:
        return function(items)  # to raise here what can't always be sent from another process
    return [result for answer in answers for result in answer]


def _remember(function: Callable[[Any], Any]) -> None:
    """In a new process, which must not use torch's threads: they exist in the process that it was forked from alone."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    global _function
    _function = function


def _answer(part: Sequence[Any]) -> list[Any] | None:
    try:
        return _function(part)
    except Exception:
        return None
