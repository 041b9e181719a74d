"""The table of `experiments.status`: one line per run, for terminals of any width.

Formatted here, since rich takes seconds for the thousands of runs that a study may have.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from textwrap import wrap

from experiments.status.states import KILLED, RunState, States
from roadmap.common.files import printable
from roadmap.common.statuses import Status
from roadmap.common.words import counted, duration

COLOURS = {
    Status.RUNNING: 32,
    KILLED: 35,
    Status.FAILED: 31,
    Status.DIVERGED: 31,
    Status.UNFINISHED: 36,
    Status.QUEUED: 2,
    Status.STOPPED: 33,
}
"""Codes of ANSI."""
REASON_WIDTH = 40
"""Columns that suffice for reasons at the right; with fewer, a reason replaces what is right of top-1."""
SKIPPED = 3
"""Skipped folders that are named."""
NARROW = 12
"""Columns of `where` and `job` where not everything fits."""
NONE = "-"
ON_THE_RIGHT = ("epoch", "top-1", "img/s", "left")
BEFORE_REASON = ("run", "state", "epoch", "top-1")


def board(
    states: States, wanted: Sequence[str], width: int | None = None, height: int | None = None, *, colour: bool = False
) -> list[str]:
    """Counts, a header, and a line for each run in one of the wanted states; of at most `width` columns and `height`
    lines, if given."""
    runs = [run for run in states.runs if run.state in wanted]
    above = wrap(_counts(states), width or 10**6)
    for study in states.searches:
        line = f"{study}: its search has ended, but its second phase has not begun"
        line += "; unless its job waits in the queue, give the study’s command again"
        above += wrap(printable(line), width or 10**6)
    below = [_cut(printable(f"skipped {folder}: {why}"), width) for folder, why in states.skipped[:SKIPPED]]
    if len(states.skipped) > SKIPPED:
        below.append(f"... and {len(states.skipped) - SKIPPED} more skipped")
    if not runs:
        return above + below
    room = len(runs) if height is None else height - len(above) - len(below) - 1
    shown = runs if len(runs) <= room else runs[: max(1, room - 1)]
    header, *lines = _table(shown, width)
    if colour:
        lines = [_coloured(line, run.state) for line, run in zip(lines, shown, strict=True)]
    more = [f"... and {len(runs) - len(shown)} more"] if len(shown) < len(runs) else []
    return [*above, header, *lines, *more, *below]


def _counts(states: States) -> str:
    counts = [f"{count} {state}" for state, count in states.counts().items()]
    counts += [f"{states.not_begun} not begun"] if states.not_begun else []
    counts += [f"{len(states.skipped)} skipped (no record)"] if states.skipped else []
    return f"{counted(len(states.runs) + states.not_begun, 'run')}: {', '.join(counts)}"


def _cells(run: RunState) -> dict[str, str]:
    """{header: text}."""
    return {
        "run": run.run,
        "state": run.state,
        "epoch": NONE if run.epochs is None else f"{run.epochs_done}/{run.epochs}",
        "top-1": NONE if run.top1 is None else f"{run.top1:.2f}",
        "img/s": NONE if run.images_per_second is None else _short(run.images_per_second),
        "left": NONE if run.seconds_left is None else duration(run.seconds_left),
        "where": _where(run),
        "job": _job(run),
    }


def _table(runs: Sequence[RunState], width: int | None) -> list[str]:
    """A header and one line per run. Where they are too wide, names, hosts and jobs are shortened."""
    rows = [_cells(run) for run in runs]
    headers = {header: header for header in rows[0] if any(row[header] != NONE for row in rows)}
    widths = {header: max(len(header), *(len(row[header]) for row in rows)) for header in headers}
    gap = "  "

    def total() -> int:
        return sum(widths.values()) + len(gap) * (len(widths) - 1)

    if width is not None and total() > width:
        gap = " "
        widths |= {header: min(widths[header], NARROW) for header in ("where", "job") if header in widths}
        room = max(8, width - total() + widths["run"])
        headers["run"], *names = _shortened([run.run for run in runs], room)
        rows = [row | {"run": name} for row, name in zip(rows, names, strict=True)]
        widths["run"] = max(map(len, [headers["run"], *names]))

    def line(cells: dict[str, str], columns: Sequence[str]) -> str:
        texts = ((_cut(cells[name], widths[name]), widths[name], name in ON_THE_RIGHT) for name in columns)
        return gap.join(f"{text:>{size}}" if on_the_right else f"{text:<{size}}" for text, size, on_the_right in texts)

    reasons = [None if run.state == Status.DONE else run.reason for run in runs]
    longest = max(len(reason or "") for reason in reasons)
    is_beside = width is None or total() + len(gap) + min(longest, REASON_WIDTH) <= width
    before = [*headers] if is_beside else [name for name in headers if name in BEFORE_REASON]
    lines = [line(headers, [*headers])]
    for row, reason in zip(rows, reasons, strict=True):
        lines.append(line(row, before) + gap + reason if reason else line(row, [*headers]))
    return [_cut(text.rstrip(), width) for text in lines]


def _shortened(names: Sequence[str], width: int) -> list[str]:
    """A header and names of at most `width` columns: without the regime if it is the same for all, then as label, seed
    and the identity's first four digits, of which the label is cut."""
    if len({name.partition("-")[0] for name in names}) == 1:
        names = [name.partition("-")[2] or name for name in names]
    if max(map(len, names)) <= width:
        return ["run", *names]
    short = []
    for name in names:
        match = re.fullmatch(r"(.+)-seed(\d+)-([0-9a-f]{4})[0-9a-f]*", name)
        end = f" {match[2]} {match[3]}" if match else ""
        size = max(4, width - len(end))
        short.append(_cut(match[1] if match else name, size).ljust(size) + end)
    return [_cut("run, seed, id", width), *short]


def _cut(text: str, width: int | None) -> str:
    return text if width is None or len(text) <= width else text[: width - 1] + "…"


def _coloured(text: str, state: str) -> str:
    return f"\x1b[{COLOURS[state]}m{text}\x1b[0m" if state in COLOURS else text


def _short(number: float) -> str:
    """At most five characters up to a million: 0.8, 965, 12.3k, 123k."""
    if number >= 9_999.5:
        return f"{number / 1000:.{0 if number >= 99_950 else 1}f}k"
    return f"{number:.{0 if number >= 9.95 else 1}f}"


def _where(run: RunState) -> str:
    """The host without its domain, with its GPUs (0-3 for 0,1,2,3) or the number of processes."""
    if run.host is None:
        return NONE
    host = run.host.partition(".")[0]
    if not run.gpus:
        return f"{host} x{run.processes}" if (run.processes or 1) > 1 else host
    gpus = run.gpus.split(",")
    if len(gpus) > 2 and all(gpu.isdecimal() for gpu in gpus):
        first, last = int(gpus[0]), int(gpus[-1])
        if [*map(int, gpus)] == [*range(first, last + 1)]:
            return f"{host}:{first}-{last}"
    return f"{host}:{run.gpus}"


def _job(run: RunState) -> str:
    """The job's id and its index in the array, as SLURM's tools write them; its name while it has no id."""
    if run.job is None:
        return NONE
    job, index = run.job.get("id") or run.job.get("name"), run.job.get("index")
    return NONE if job is None else job if index is None or "_" in job else f"{job}_{index}"
