"""`python -m analysis.report RUNS... [--out reports/ladder]`: the ladder in the terminal, and a report of the runs."""

from __future__ import annotations

import argparse
import gc
import sys
from pathlib import Path

from roadmap.common.command_line import Parser
from roadmap.common.files import in_words, printable


def main(argv: list[str] | None = None) -> int:
    """Write the report and print the ladders. Returns the exit code: 2 for a mistake, told in one line."""
    arguments = _parser().parse_args(argv)

    from rich.console import Console  # here, so that --help and a mistyped option answer at once
    from rich.text import Text

    from analysis.report.files import write_report
    from analysis.report.terminal import print_ladder
    from analysis.sources.load import load
    from analysis.sources.rows import disagreements
    from analysis.sources.runs import RecordsError
    from analysis.sources.wandb import load_wandb
    from analysis.statistics.comparison import comparisons
    from analysis.statistics.diagnostics import noise_concerns

    try:
        runs = load_wandb(arguments.wandb) if arguments.wandb else load(arguments.runs)
        found = comparisons(runs)
        told = write_report(runs, found, arguments.out, arguments.reference)
    except RecordsError as error:
        return _mistake(str(error))
    except OSError as error:
        return _mistake(f"cannot write {in_words(error)}; choose another --out")
    console = Console(highlight=False)
    for section in told:
        if len(section.comparison.counted):
            print_ladder(section.ladder, console, section.effects)
            for sentence in noise_concerns(section.comparison):
                console.print(Text(sentence, "yellow"))
            console.print()
    if len(found) > len(told):
        console.print(f"{len(found) - len(told)} more comparisons, a row each in the report.")
    if runs.left_out_note:
        console.print(f"{runs.left_out_note}.", style="yellow")
    for sentence in disagreements(runs.runs):
        console.print(Text(sentence, "yellow"), soft_wrap=True)
    if runs.skipped:
        console.print(f"{len(runs.skipped)} skipped; the report names them.", style="yellow")
    console.print(f"Report: {arguments.out / 'report.html'}", markup=False, soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="roadmap-report", description="What do the runs mean? A ladder and a report.")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "runs", nargs="*", metavar="RUNS", default=[], help="run directories, folders that hold some, or globs"
    )
    where.add_argument("--wandb", metavar="ENTITY/PROJECT", help="the runs of a Weights & Biases project instead")
    parser.add_argument(
        "--reference", metavar="NETWORK", help="what changes are from, a rung, say: instead of each step's parent"
    )
    parser.add_argument("--out", type=Path, default=Path("reports/ladder"), help="folder to write to (%(default)s)")
    return parser


def _mistake(message: str) -> int:
    print(f"error: {printable(message)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    gc.disable()  # of ten thousand runs, it would walk millions of objects, again and again, that are needed to the end
    sys.exit(main())
