"""The table of `experiments.status`: a line a run, for terminals of any width.

Made by hand: rich takes seconds for thousands of lines.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from textwrap import wrap
from typing import NamedTuple

from experiments.status.states import State, States
from roadmap.common.files import printable

COLOURS = {"running": 32, "killed": 35, "failed": 31, "diverged": 31, "unfinished": 36, "queued": 2}
"""Numbers of ANSI's colours; `done` has none."""
REASONS = 40
"""Columns that are worth leaving for reasons at the right; with fewer, a reason replaces what is right of top-1."""
NAMED = 3
"""Skipped folders that are named."""
LIMITS = {"where": 12, "job": 12}
"""Columns that these have where not everything fits."""


class Line(NamedTuple):
    """A run's cells."""

    run: str
    state: str
    epoch: str
    top1: str
    speed: str
    left: str
    where: str
    job: str


NONE = "-"
HEADER = Line("run", "state", "epoch", "top-1", "img/s", "left", "where", "job")
ON_THE_RIGHT = ("epoch", "top1", "speed", "left")
BEFORE_REASON = ("run", "state", "epoch", "top1")


def board(
    states: States, wanted: Sequence[str], width: int | None = None, height: int | None = None, *, colour: bool = False
) -> list[str]:
    """Counts, a header, and a line for each run in one of the wanted states; of `width` columns and `height` lines
    at most, if given."""
    chosen = [one for one in states.runs if one.state in wanted]
    top = wrap(_counts(states), width) if width else [_counts(states)]
    below = [_cut(line, width) for line in _skipped(states)]
    if not chosen:
        return top + below
    room = len(chosen) if height is None else height - len(top) - len(below) - 1
    shown = chosen if len(chosen) <= room else chosen[: max(1, room - 1)]
    table = _table([_line(one) for one in shown], [_reason(one) for one in shown], width)
    if colour:
        table[1:] = [_painted(text, one.state) for text, one in zip(table[1:], shown, strict=True)]
    more = [f"... and {len(chosen) - len(shown)} more"] if len(shown) < len(chosen) else []
    return [*top, *table, *more, *below]


def _skipped(states: States) -> list[str]:
    """A line for each of the first NAMED folders that were skipped."""
    lines = [printable(f"skipped {directory}: {why}") for directory, why in states.skipped[:NAMED]]
    more = len(states.skipped) - len(lines)
    return [*lines, *([f"... and {more} more skipped"] if more else [])]


def _counts(states: States) -> str:
    counts = states.counts()
    texts = [f"{len(states.runs) + states.not_begun} runs", *(f"{count} {state}" for state, count in counts.items())]
    texts += [f"{states.not_begun} not begun"] if states.not_begun else []
    texts += [f"{len(states.skipped)} skipped (no record)"] if states.skipped else []
    return f"{texts[0]}: {', '.join(texts[1:])}"


def _line(one: State) -> Line:
    return Line(
        run=one.run,
        state=one.state,
        epoch=f"{one.epochs_done}/{one.epochs}" if one.epochs is not None else NONE,
        top1=f"{one.top1:.2f}" if one.top1 is not None else NONE,
        speed=_short(one.images_per_second) if one.images_per_second is not None else NONE,
        left=_time(one.seconds_left) if one.seconds_left is not None else NONE,
        where=_where(one),
        job=_job(one),
    )


def _reason(one: State) -> str | None:
    return one.reason if one.state != "done" else None


def _table(lines: list[Line], reasons: list[str | None], width: int | None) -> list[str]:
    """A header and the lines. Where they are too wide, gaps, names, places and jobs are made narrower."""
    columns = [name for name in Line._fields if any(getattr(line, name) != NONE for line in lines)]
    widths = _widths(lines, columns)
    header, gap = HEADER, "  "
    if width is not None and _total(widths, gap) > width:
        gap = " "
        widths |= {name: min(widths[name], limit) for name, limit in LIMITS.items() if name in widths}
        room = max(8, width - _total(widths, gap) + widths["run"])
        header, names = _shortened([line.run for line in lines], room)
        lines = [line._replace(run=name) for line, name in zip(lines, names, strict=True)]
        widths["run"] = max(len(name) for name in [header.run, *names])
    longest = max((len(reason) for reason in reasons if reason), default=0)
    beside = width is None or _total(widths, gap) + len(gap) + min(longest, REASONS) <= width
    rows = [_row(header, widths, gap)]
    for line, reason in zip(lines, reasons, strict=True):
        kept = {name: widths[name] for name in widths if beside or not reason or name in BEFORE_REASON}
        rows.append(_row(line, kept, gap) + (gap + reason if reason else ""))
    return [_cut(row.rstrip(), width) for row in rows]


def _widths(lines: Sequence[Line], columns: Sequence[str]) -> dict[str, int]:
    return {name: max(len(getattr(line, name)) for line in [HEADER, *lines]) for name in columns}


def _total(widths: dict[str, int], gap: str) -> int:
    return sum(widths.values()) + len(gap) * (len(widths) - 1)


def _row(line: Line, widths: dict[str, int], gap: str) -> str:
    cells = [(name, _cut(getattr(line, name), width), width) for name, width in widths.items()]
    return gap.join(cell.rjust(width) if name in ON_THE_RIGHT else cell.ljust(width) for name, cell, width in cells)


def _shortened(names: Sequence[str], room: int) -> tuple[Line, list[str]]:
    """The header, and names of at most `room` columns: without the regime if they share it, then as label, seed and
    the identity's first four digits, of which the label is cut."""
    regimes = {name.partition("-")[0] for name in names}
    if len(regimes) == 1:
        names = [name.partition("-")[2] or name for name in names]
    if max(map(len, names)) <= room:
        return HEADER, list(names)
    return HEADER._replace(run=_cut("run, seed, id", room)), [_shorter(name, room) for name in names]


def _shorter(name: str, room: int) -> str:
    parts = re.fullmatch(r"(.+)-seed(\d+)-([0-9a-f]{4})[0-9a-f]*", name)
    if not parts:
        return _cut(name, room)
    end = f" {parts[2]} {parts[3]}"
    label = max(4, room - len(end))
    return _cut(parts[1], label).ljust(label) + end


def _cut(text: str, width: int | None) -> str:
    return text if width is None or len(text) <= width else text[: width - 1] + "…"


def _painted(text: str, state: str) -> str:
    return f"\x1b[{COLOURS[state]}m{text}\x1b[0m" if state in COLOURS else text


def _short(number: float) -> str:
    """At most five characters up to a million: 0.8, 965, 12.3k, 123k."""
    if number >= 99_950:
        return f"{number / 1000:.0f}k"
    if number >= 9_999.5:
        return f"{number / 1000:.1f}k"
    return f"{number:.0f}" if number >= 9.95 else f"{number:.1f}"


def _time(seconds: int) -> str:
    """42s, 12m, 3h05m, 2d04h."""
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days}d{hours % 24:02d}h"
    if hours:
        return f"{hours}h{minutes % 60:02d}m"
    return f"{minutes}m" if minutes else f"{seconds}s"


def _where(one: State) -> str:
    """The host without its domain, and of it the GPUs, or else how many processes."""
    if one.host is None:
        return NONE
    if one.gpus:
        return f"{one.host.partition('.')[0]}:{_ranges(one.gpus)}"
    return one.host.partition(".")[0] + (f" x{one.processes}" if one.processes and one.processes > 1 else "")


def _ranges(gpus: str) -> str:
    """`0-3` for 0,1,2,3."""
    numbers = gpus.split(",")
    if len(numbers) > 2 and all(one.isdecimal() for one in numbers):
        first, last = int(numbers[0]), int(numbers[-1])
        if [int(one) for one in numbers] == list(range(first, last + 1)):
            return f"{first}-{last}"
    return gpus


def _job(one: State) -> str:
    """The job's id and its place in the array, as SLURM's tools write them; its name while it has no id."""
    if one.job is None:
        return NONE
    job, index = one.job.get("id") or one.job.get("name"), one.job.get("index")
    return NONE if job is None else job if index is None or "_" in job else f"{job}_{index}"
