"""`python -m analysis.report RUNS... [--out FOLDER]`: the ladder in the terminal, and a report of the runs."""

from __future__ import annotations

import argparse
import gc
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from roadmap.common.command_line import Parser, positive
from roadmap.common.files import in_words, printable


def main(argv: list[str] | None = None) -> int:
    """Write the report and print the ladders. Returns the exit code: 2 after a mistake, reported in one line."""
    arguments = _parser().parse_args(argv)

    from rich.console import Console  # imported here, so that --help and a mistyped option answer at once
    from rich.text import Text

    from analysis.report.files import write_report
    from analysis.report.terminal import print_ladder, print_sections
    from analysis.sources.load import load
    from analysis.sources.rows import disagreements
    from analysis.sources.runs import RecordsError
    from analysis.sources.wandb import load_wandb
    from analysis.statistics.comparison import comparisons
    from analysis.statistics.diagnostics import noise_concerns
    from analysis.statistics.looks import look_concerns

    try:
        runs = load_wandb(arguments.wandb) if arguments.wandb else load(arguments.runs)
        compared = comparisons(runs)
        sources = [arguments.wandb] if arguments.wandb else arguments.runs
        out = arguments.out or Path("reports", report_name(runs.runs["study"].dropna(), sources))
        report = write_report(runs, compared, out, arguments.reference, arguments.margin)
    except RecordsError as error:
        return _mistake(str(error))
    except OSError as error:
        return _mistake(f"cannot write {in_words(error)}; choose another folder with --out")
    console = Console(highlight=False)
    print_sections(report.across, console)
    for chapter in report.chapters:
        if len(chapter.comparison.counted):
            print_ladder(chapter.ladder, console, chapter.effects, chapter.factorial)
            for sentence in [*look_concerns(chapter.comparison.runs), *noise_concerns(chapter.comparison)]:
                console.print(Text(sentence, "yellow"))
            console.print()
    print_sections(report.speeds, console)
    if report.more:
        console.print(f"{report.more} more comparison{'s' * (report.more > 1)}, one row each in the report.")
    if runs.left_out_note:
        console.print(f"{runs.left_out_note}.", style="yellow")
    for sentence in disagreements(runs.runs):
        console.print(Text(sentence, "yellow"), soft_wrap=True)
    if runs.skipped:
        console.print(f"{len(runs.skipped)} skipped; the report names them.", style="yellow")
    console.print(f"Report: {out / 'report.html'}", markup=False, soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m analysis.report",
        description="Analyze runs: print the ladder, and write a report with tables and figures.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "runs", nargs="*", metavar="RUNS", default=[], help="run directories, folders that contain some, or globs"
    )
    source.add_argument("--wandb", metavar="ENTITY/PROJECT", help="the runs of a Weights & Biases project instead")
    parser.add_argument(
        "--reference",
        metavar="NETWORK",
        help="network that the changes are from, such as a rung, instead of each rung's parent",
    )
    parser.add_argument(
        "--margin",
        metavar="POINTS",
        type=positive,
        help="also test which changes are negligible: within ±POINTS (docs/seeds.md); choose it before you see results",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="folder to write to (default: reports/STUDY; of several studies, reports/ and the name of RUNS)",
    )
    return parser


def report_name(studies: Iterable[str], sources: Sequence[str]) -> str:
    """The name of a report's folder: of the study, or, if the runs belong to several, of the one folder or project that
    they are from. Studies are named by records, which anyone may have written: it is no path."""
    names = {*studies}
    name = names.pop() if len(names) == 1 else Path(sources[0]).resolve().name if len(sources) == 1 else ""
    return re.sub(r"[^\w.-]", "_", name)[:100].strip("._") or "runs"


def _mistake(message: str) -> int:
    print(f"error: {printable(message)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    gc.disable()  # with ten thousand runs it would scan millions of objects again and again, all of them in use
    sys.exit(main())
