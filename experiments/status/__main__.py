"""`python -m experiments.status [RUNS...]`: what the runs are doing, a line a run, told from their records alone."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence

from experiments.status.board import board
from experiments.status.states import STATES, NothingError, States, read_states
from roadmap.common.command_line import Parser
from roadmap.common.files import in_words, printable

EVERY = 3.0
"""Seconds between two looks of --watch; more where a look itself takes long."""
CLOSED_PIPE = 141  # what a shell reports of a program that SIGPIPE ended


def main(argv: Sequence[str] | None = None) -> int:
    """Print the runs that the command line asks for. Returns the exit code: 2 for a mistake, told in one line."""
    arguments = _parser().parse_args(argv)

    def look() -> States:
        return read_states(arguments.runs or ["runs"], arguments.study)

    try:
        if arguments.watch:
            return watch(look, arguments.state)
        states = look()
        if arguments.json:
            chosen = [one.to_json() for one in states.runs if one.state in arguments.state]
            print(json.dumps(chosen, indent=1))
        else:
            in_terminal = sys.stdout.isatty()
            width = shutil.get_terminal_size().columns if in_terminal or "COLUMNS" in os.environ else None
            colour = in_terminal and "NO_COLOR" not in os.environ
            print("\n".join(board(states, arguments.state, width, colour=colour)))
        sys.stdout.flush()
    except NothingError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    except OSError as error:  # of the terminal, or of the file that it is
        print(f"error: {in_words(error)}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="roadmap-status", description="What are the runs doing? A line a run, from the records alone.")
    parser.add_argument("runs", nargs="*", metavar="RUNS", help="folders that hold run directories (runs)")
    parser.add_argument("--study", metavar="NAME", help="only the runs of a study, and how many have not begun")
    parser.add_argument("--state", metavar="A,B", type=_states, default=STATES, help=f"only these: {', '.join(STATES)}")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--watch", action="store_true", help="look again every few seconds, until Ctrl-C")
    how.add_argument("--json", action="store_true", help="a JSON list, an object a run")
    return parser


def _states(text: str) -> tuple[str, ...]:
    for state in text.split(","):
        if state not in STATES:
            raise argparse.ArgumentTypeError(f"there is no state {state!r} (known: {', '.join(STATES)})")
    return tuple(text.split(","))


def watch(look: Callable[[], States], wanted: Sequence[str]) -> int:
    """As many lines as fit the terminal, again and again. Ctrl-C is how it ends."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        raise NothingError("--watch needs a terminal; --json is for programs")
    try:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                began = time.monotonic()
                lines = board(look(), wanted, console.width, console.height - 1, colour=True)
                live.update(Text.from_ansi("\n".join(lines)), refresh=True)
                time.sleep(max(EVERY, 4 * (time.monotonic() - began)))
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
