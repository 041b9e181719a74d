"""`python -m roadmap`: the networks of a road in a regime, with our counts and the published numbers."""

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
from roadmap.conf import CONF, OURS, Conf
from roadmap.roads import OWN, Rung

if TYPE_CHECKING:
    from roadmap.costs import Cost

PUBLISHED_RESOLUTION = 224
SMALLEST_RESOLUTION = 32  # the last stage's maps are 1/32 of the image
CLOSED_PIPE = 141  # what a shell reports of a program that SIGPIPE ended


class CountedRung(NamedTuple):
    """A rung with its counted cost."""

    rung: Rung
    cost: Cost
    change: float | None
    """Published top-1 minus the parent's; None for the first rung, and where either is not published."""

    @property
    def has_discrepancy(self) -> bool:
        """Whether the printed GFLOPs differ from the count by more than rounding."""
        printed = self.rung.published
        return printed is not None and f"{self.cost.macs / 1e9:.2f}" != f"{printed.gflops:.2f}"


class CountedLadder(NamedTuple):
    """The rungs of a road in a regime, counted for one resolution and number of classes."""

    road: str
    regime: str
    published: str | None
    """The regime of the published numbers; None if there are none."""
    resolution: int
    classes: int
    rungs: tuple[CountedRung, ...]

    def discrepancies(self) -> list[CountedRung]:
        """Rungs whose printed GFLOPs differ from the count; none if the printed ones are of other networks."""
        if self.published != self.regime or self.resolution != PUBLISHED_RESOLUTION:
            return []
        return [counted for counted in self.rungs if counted.has_discrepancy]

    def notes(self) -> list[str]:
        """The notes below the table."""
        side_branches = [rung.name for rung, *_ in self.rungs if not rung.adopted]
        distant_parents: dict[str | None, list[str]] = {}
        for (above, *_), (rung, *_) in pairwise(self.rungs):
            if rung.parent != above.name:
                distant_parents.setdefault(rung.parent, []).append(rung.name)
        changes = [f"from {parent} for {listed(names)}" for parent, names in distant_parents.items()]
        notes = ["MACs are multiply-adds."]
        if self.published:
            notes = [
                f"Published: {self.published} regime, ImageNet-1K, {PUBLISHED_RESOLUTION} px."
                " MACs are multiply-adds; the paper prints them as FLOPs.",
                f"{'; '.join(['Change: from the step above', *changes])}.",
            ]
        if side_branches:
            notes.append(f"In parentheses, measured and not adopted: {listed(side_branches)}.")
        discrepancies = [
            f"{rung.name} {rung.published.gflops:.2f} printed, {cost.macs / 1e9:.2f} counted"
            for rung, cost, _ in self.discrepancies()
            if rung.published
        ]
        if discrepancies:
            notes.append(f"* Discrepancies of the printed table: {'; '.join(discrepancies)}.")
        return notes


def main(argv: Sequence[str] | None = None) -> int:
    """Print the ladder that the command line describes; returns the exit status."""
    options = (reader := parser()).parse_args(argv)
    if options.config_dir and not options.config_dir.is_dir():
        reader.error(f"--config-dir {options.config_dir} is not a folder")
    try:
        conf = Conf((CONF, *([options.config_dir] if options.config_dir else [])))
        ladder = count(options.regime, options.resolution, options.road, conf)
    except ValueError as error:
        reader.error(str(error))
    try:
        print(FORMATS[options.format](ladder))
        sys.stdout.flush()
    except BrokenPipeError:  # as by `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    if options.format == "csv":
        print(*ladder.notes(), sep="\n", file=sys.stderr)
    return 0


def parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m roadmap", description=__doc__.split(": ", 1)[1].capitalize(), allow_abbrev=False)
    for group, default in {"regime": "resnet50", "road": "convnext"}.items():
        names = ", ".join(OURS.options(group))
        parser.add_argument(f"--{group}", metavar="NAME", default=default, help=f"{names} (default: %(default)s)")
    parser.add_argument("--config-dir", metavar="DIR", type=Path, help="folder with your own regimes, roads, steps")
    parser.add_argument("--resolution", metavar="PX", type=_resolution, help="image size (default: the regime's own)")
    parser.add_argument("--format", choices=FORMATS, default="table", help="(default: %(default)s)")
    return parser


def count(regime: str, resolution: int | None = None, road: str = "convnext", conf: Conf = OURS) -> CountedLadder:
    """Count a road's networks in a regime, by default at the regime's resolution.

    A regime with published numbers has the 1000 classes of ImageNet-1K; any other has 10.

    Raises:
        ValueError: if there is no such regime or road, or their files are wrong. The message is one line.
    """
    from rich.console import Console

    rungs, published = conf.ladder(regime, road), conf.road(road, regime).published
    resolution = resolution or conf.load("regime", regime).get("resolution", PUBLISHED_RESOLUTION)
    classes = 1000 if published == regime else 10
    by_name = {rung.name: rung for rung in rungs}
    counted = []
    with Console(stderr=True).status(f"Counting the {regime} ladder ..."):  # shown only on a terminal
        from roadmap.costs import cost

        for rung in rungs:
            here, before = rung.published, by_name[rung.parent].published if rung.parent else None
            change = here.top1 - before.top1 if here and before else None
            counted.append(CountedRung(rung, cost(rung.design, resolution, classes), change))
    published = published if any(rung.published for rung in rungs) else None
    return CountedLadder(road, regime, published, resolution, classes, tuple(counted))


def as_table(ladder: CountedLadder) -> str:
    """For a terminal of 80 columns: the counts on the left, the published numbers on the right."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    def half(title: str, headers: Sequence[str], left: int) -> Table:
        """A table of which the first `left` columns are left-aligned."""
        table = Table(title=title, box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        table.title_style, table.title_justify = "bold", "left"
        for index, header in enumerate(headers):
            table.add_column(header, justify="left" if index < left else "right", no_wrap=True)
        return table

    headers, rows = _cells(ladder)
    title = f"{ladder.road}: {ladder.regime}\n{ladder.resolution} px, {ladder.classes} classes\n"
    counted = half(title, ["", *headers[:3]], left=2)
    title = f"published: {ladder.published or '-'}\nImageNet-1K, {PUBLISHED_RESOLUTION} px\n"
    published = half(title, headers[3:], left=1)
    section = None
    for (rung, *_), row in zip(ladder.rungs, rows, strict=True):
        style = None if rung.adopted else "dim"
        numbered = rung.section not in (section, OWN) and len(rung.section) <= 3
        counted.add_row(rung.section if numbered else "", *row[:3], style=style)
        published.add_row(*row[3:], style=style)
        section = rung.section
    both = Table.grid(padding=(0, 3, 0, 0))
    both.add_row(counted, *([published] if ladder.published else []))

    console = Console(highlight=False)
    console.width = max(console.width, 80)
    with console.capture() as captured:
        console.print(both, "", *ladder.notes(), sep="\n")
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def as_markdown(ladder: CountedLadder) -> str:
    """The table, and one paragraph per note."""
    headers, rows = _cells(ladder)
    headers[3] = f"{headers[3]}, published: {ladder.published}, ImageNet-1K, {PUBLISHED_RESOLUTION} px"
    shown = None if ladder.published else 3
    headers, rows = headers[:shown], [row[:shown] for row in rows]
    lines = [headers, [":--", *("--:" for _ in headers[1:])], *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join([table, *ladder.notes()]).replace("*", r"\*")


def as_csv(ladder: CountedLadder) -> str:
    """Plain numbers in the same columns for every regime, so that several tables can be joined."""
    records = [
        {
            "road": ladder.road,
            "regime": ladder.regime,
            "resolution": ladder.resolution,
            "classes": ladder.classes,
            "rung": rung.name,
            "parent": rung.parent,
            "section": rung.section,
            "title": rung.title,
            "adopted": "yes" if rung.adopted else "no",
            **cost._asdict(),
            "published_regime": ladder.published,
            "published_top1": rung.published and rung.published.top1,
            "published_top1_std": rung.published and rung.published.std,
            "published_change": None if change is None else round(change, 2),
            "published_gflops": rung.published and rung.published.gflops,
        }
        for rung, cost, change in ladder.rungs
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().rstrip("\n")


FORMATS = {"table": as_table, "csv": as_csv, "markdown": as_markdown}


def _cells(ladder: CountedLadder) -> tuple[list[str], list[list[str]]]:
    """Headers and rows of text: step, MACs, parameters; published top-1, its change, GFLOPs."""
    macs_unit, macs = _in_unit([counted.cost.macs for counted in ladder.rungs])
    params_unit, params = _in_unit([counted.cost.params for counted in ladder.rungs])
    headers = ["step", f"MACs ({macs_unit})", f"params ({params_unit})", "top-1 (%)", "change", "GFLOPs"]
    discrepancies = ladder.discrepancies()
    rows = []
    for counted, macs_text, params_text in zip(ladder.rungs, macs, params, strict=True):
        rung, published = counted.rung, counted.rung.published
        numbers = ["-"] * 3
        if published:
            std = "" if published.std is None else f" ± {published.std:.2f}"
            unknown = "-" if rung.parent else ""
            change = unknown if counted.change is None else f"{counted.change:+.2f}"
            star = "*" if counted in discrepancies else ""
            numbers = [f"{published.top1:.2f}{std}", change, f"{star}{published.gflops:.2f}"]
        rows.append([rung.name if rung.adopted else f"({rung.name})", macs_text, params_text, *numbers])
    return headers, rows


def _in_unit(counts: Sequence[int]) -> tuple[str, list[str]]:
    """The largest of the units G, M and k in which no count is below 1, and the counts in it."""
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
