"""`python -m roadmap`: a road's rungs in a regime, what each costs beside what was published for it."""

from __future__ import annotations

import argparse
import csv
import io
import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from roadmap.common.command_line import Parser
from roadmap.common.words import listed
from roadmap.conf import CONF, OURS, Conf, regimes
from roadmap.roads import OWN, Rung

if TYPE_CHECKING:
    from roadmap.costs import Cost

PUBLISHED_RESOLUTION = 224
SMALLEST_RESOLUTION = 32  # the last stage's maps are 1/32 of the image
CLOSED_PIPE = 141  # what a shell reports of a program that SIGPIPE ended


class Line(NamedTuple):
    """A rung, counted and compared."""

    rung: Rung
    cost: Cost
    change: float | None
    """Published top-1 minus the parent's; None for the first rung, and where either is not published."""


class Sheet(NamedTuple):
    """A road in a regime, counted for one resolution and number of classes."""

    road: str
    regime: str
    published: str | None
    """The regime that the published numbers are of; None if there are none."""
    resolution: int
    classes: int
    lines: tuple[Line, ...]

    def discrepancies(self) -> list[Line]:
        """Where the printed GFLOPs differ from the count by more than rounding, if they are of the same networks."""
        if self.published != self.regime or self.resolution != PUBLISHED_RESOLUTION:
            return []
        printed = [line for line in self.lines if line.rung.published]
        return [line for line in printed if f"{line.cost.macs / 1e9:.2f}" != f"{line.rung.published.gflops:.2f}"]

    def notes(self) -> list[str]:
        """What a reader of the table has to know."""
        side_branches = [line.rung.name for line in self.lines if not line.rung.adopted]
        notes = ["MACs are multiply-adds."]
        if self.published:
            notes = [
                f"Published: {self.published} regime, ImageNet-1K, {PUBLISHED_RESOLUTION} px."
                " MACs are multiply-adds; the paper prints them as FLOPs.",
                "; ".join(["Change: from the step above", *self._distant_parents()]) + ".",
            ]
        if side_branches:
            notes.append(f"In parentheses, measured and not adopted: {listed(side_branches)}.")
        differing = [
            f"{line.rung.name} {line.rung.published.gflops:.2f} printed, {line.cost.macs / 1e9:.2f} counted"
            for line in self.discrepancies()
        ]
        if differing:
            notes.append(f"* Discrepancies of the printed table: {'; '.join(differing)}.")
        return notes

    def _distant_parents(self) -> list[str]:
        """'from kernel_7 for gelu' and its like: parents that are not the line above, each with its children."""
        children: dict[str, list[str]] = {}
        for above, line in pairwise(self.lines):
            if line.rung.parent != above.rung.name:
                children.setdefault(line.rung.parent, []).append(line.rung.name)
        return [f"from {parent} for {listed(names)}" for parent, names in children.items()]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the ladder that the command line asks for; returns the exit status."""
    options = (reader := parser()).parse_args(argv)
    if options.config_dir and not options.config_dir.is_dir():
        reader.error(f"--config-dir {options.config_dir} is no folder")
    try:
        conf = Conf((CONF, *([options.config_dir] if options.config_dir else [])))
        sheet = count(options.regime, options.resolution, options.road, conf)
    except ValueError as error:
        reader.error(str(error))
    try:
        print(FORMATS[options.format](sheet))
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    if options.format == "csv":
        print(*sheet.notes(), sep="\n", file=sys.stderr)
    return 0


def parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m roadmap", description=__doc__.split(": ", 1)[1].capitalize(), allow_abbrev=False)
    parser.add_argument(
        "--regime",
        metavar="NAME",
        default="resnet50",
        help=f"{', '.join(regimes())} (default: %(default)s)",
    )
    roads = ", ".join(OURS.options("road"))
    parser.add_argument("--road", metavar="NAME", default="convnext", help=f"{roads} (default: %(default)s)")
    parser.add_argument("--config-dir", metavar="DIR", type=Path, help="a folder of your own regimes, roads and steps")
    parser.add_argument("--resolution", metavar="PX", type=_resolution, help="image size (default: the regime's own)")
    parser.add_argument("--format", choices=FORMATS, default="table", help="(default: %(default)s)")
    return parser


def count(regime: str, resolution: int | None = None, road: str = "convnext", conf: Conf = OURS) -> Sheet:
    """Count a road's networks in a regime, by default at the regime's own resolution.

    A regime with a published table of its own is of ImageNet-1K's 1000 classes; another one is of 10.

    Raises:
        ValueError: if there is no such regime or road, or their files are wrong. The message is one line.
    """
    from rich.console import Console

    rungs, published = conf.ladder(regime, road), conf.road(road, regime).published
    resolution = resolution or conf.load("regime", regime).get("resolution", PUBLISHED_RESOLUTION)
    classes = 1000 if published == regime else 10
    by_name = {rung.name: rung for rung in rungs}
    lines = []
    with Console(stderr=True).status(f"Counting the {regime} ladder ..."):  # drawn on a terminal alone
        from roadmap.costs import cost

        for rung in rungs:
            here, before = rung.published, by_name[rung.parent].published if rung.parent else None
            change = here.top1 - before.top1 if here and before else None
            lines.append(Line(rung, cost(rung.design, resolution, classes), change))
    published = published if any(rung.published for rung in rungs) else None
    return Sheet(road, regime, published, resolution, classes, tuple(lines))


def as_table(sheet: Sheet) -> str:
    """For a terminal of 80 columns: the count on the left, the published numbers on the right."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    def half(title: str, headers: Sequence[str], sides: Sequence[str]) -> Table:
        style = {"title_style": "bold", "title_justify": "left", "padding": (0, 1, 0, 0)}
        table = Table(title=title, box=SIMPLE_HEAD, show_edge=False, pad_edge=False, **style)
        for header, side in zip(headers, sides, strict=True):
            table.add_column(header, justify=side, no_wrap=True)
        return table

    headers, rows = _cells(sheet)
    title = f"{sheet.road}: {sheet.regime}\n{sheet.resolution} px, {sheet.classes} classes\n"
    counted = half(title, ["", *headers[:3]], ["left", "left", "right", "right"])
    title = f"published: {sheet.published or '-'}\nImageNet-1K, {PUBLISHED_RESOLUTION} px\n"
    published = half(title, headers[3:], ["left", "right", "right"])
    section = None
    for line, row in zip(sheet.lines, rows, strict=True):
        style = None if line.rung.adopted else "dim"
        numbered = line.rung.section not in (section, OWN) and len(line.rung.section) <= 3
        counted.add_row(line.rung.section if numbered else "", *row[:3], style=style)
        published.add_row(*row[3:], style=style)
        section = line.rung.section
    both = Table.grid(padding=(0, 3, 0, 0))
    both.add_row(counted, *([published] if sheet.published else []))

    console = Console(highlight=False)
    console.width = max(console.width, 80)
    with console.capture() as captured:
        console.print(both, "", *sheet.notes(), sep="\n")
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def as_markdown(sheet: Sheet) -> str:
    """The table, and a paragraph a note."""
    headers, rows = _cells(sheet)
    headers[3] = f"{headers[3]}, published: {sheet.published}, ImageNet-1K, {PUBLISHED_RESOLUTION} px"
    shown = None if sheet.published else 3
    headers, rows = headers[:shown], [row[:shown] for row in rows]
    lines = [headers, [":--", *("--:" for _ in headers[1:])], *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join([table, *sheet.notes()]).replace("*", r"\*")


def as_csv(sheet: Sheet) -> str:
    """Plain numbers under the same names for every regime, so that the sheets of several can be joined."""
    records = [
        {
            "road": sheet.road,
            "regime": sheet.regime,
            "resolution": sheet.resolution,
            "classes": sheet.classes,
            "rung": rung.name,
            "parent": rung.parent,
            "section": rung.section,
            "title": rung.title,
            "adopted": "yes" if rung.adopted else "no",
            **cost._asdict(),
            "published_regime": sheet.published,
            "published_top1": rung.published and rung.published.top1,
            "published_top1_std": rung.published and rung.published.std,
            "published_change": None if change is None else round(change, 2),
            "published_gflops": rung.published and rung.published.gflops,
        }
        for rung, cost, change in sheet.lines
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().rstrip("\n")


FORMATS = {"table": as_table, "csv": as_csv, "markdown": as_markdown}


def _cells(sheet: Sheet) -> tuple[list[str], list[list[str]]]:
    """Headers and rows of text: step, MACs, parameters; published top-1, its change, GFLOPs."""
    macs_unit, macs = _in_unit([line.cost.macs for line in sheet.lines])
    params_unit, params = _in_unit([line.cost.params for line in sheet.lines])
    headers = ["step", f"MACs ({macs_unit})", f"params ({params_unit})", "top-1 (%)", "change", "GFLOPs"]
    differing = sheet.discrepancies()
    rows = []
    for line, line_macs, line_params in zip(sheet.lines, macs, params, strict=True):
        name, published = line.rung.name, line.rung.published
        rows.append(
            [
                name if line.rung.adopted else f"({name})",
                line_macs,
                line_params,
            ]
        )
        if published is None:
            rows[-1] += ["-"] * 3
            continue
        std = "" if published.std is None else f" ± {published.std:.2f}"
        change = (
            "-" if line.change is None and line.rung.parent else "" if line.change is None else f"{line.change:+.2f}"
        )
        mark = "*" if line in differing else ""
        rows[-1] += [f"{published.top1:.2f}{std}", change, f"{mark}{published.gflops:.2f}"]
    return headers, rows


def _in_unit(counts: Sequence[int]) -> tuple[str, list[str]]:
    """The largest of G, M and k that leaves none of the counts below 1, and the counts in it."""
    unit, size = next((u for u in (("G", 1e9), ("M", 1e6), ("k", 1e3)) if min(counts) >= u[1]), ("k", 1e3))
    return unit, [f"{count / size:.2f}" for count in counts]


def _resolution(text: str) -> int:
    if not text.isdecimal() or int(text) < SMALLEST_RESOLUTION:
        raise argparse.ArgumentTypeError(
            f"must be a whole number of at least {SMALLEST_RESOLUTION} pixels, not {text!r}"
        )
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
