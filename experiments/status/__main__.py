"""`python -m experiments.status [RUNS...]`: what the runs are doing, one line per run, from their records alone."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from experiments.status.board import board
from experiments.status.states import STATES, NoRunsError, States, read_states
from roadmap.common.command_line import Parser
from roadmap.common.files import in_words, printable, write

INTERVAL = 3.0
"""Seconds between two updates of --watch; more where reading the records takes long."""
SVG_WIDTH = 96
"""Most columns of the picture that --svg writes: on a page of documentation, its letters are still read easily."""
MONOSPACE = "ui-monospace, SFMono-Regular, Menlo, Consolas, DejaVu Sans Mono, monospace"
CLOSED_PIPE = 141  # as shells report a program that was ended by SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Print the state of runs. Returns the exit code: 2 for a mistake, which is reported in one line."""
    arguments = _parser().parse_args(argv)

    def read() -> States:
        return read_states(arguments.runs or ["runs"], arguments.study)

    try:
        if arguments.watch:
            return watch(read, arguments.state)
        states = read()
        if arguments.svg:
            write(arguments.svg, svg(states, arguments.state, _command(arguments)))
        elif arguments.json:
            chosen = [run.to_json() for run in states.runs if run.state in arguments.state]
            print(json.dumps(chosen, indent=1))
        else:
            in_terminal = sys.stdout.isatty()
            width = shutil.get_terminal_size().columns if in_terminal or "COLUMNS" in os.environ else None
            colour = in_terminal and "NO_COLOR" not in os.environ
            print("\n".join(board(states, arguments.state, width, colour=colour)))
        sys.stdout.flush()
    except NoRunsError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `| head` reads no further
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    except OSError as error:  # the terminal's, or that of the file in its place
        print(f"error: {in_words(error)}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m experiments.status",
        description="What the runs are doing: one line per run, from the records alone.",
    )
    parser.add_argument("runs", nargs="*", metavar="RUNS", help="folders of run directories (default: runs)")
    parser.add_argument("--study", metavar="NAME", help="only the runs of a study, and how many have not begun")
    parser.add_argument("--state", metavar="A,B", type=_states, default=STATES, help=f"only these: {', '.join(STATES)}")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--watch", action="store_true", help="update every few seconds, until Ctrl-C")
    output.add_argument("--json", action="store_true", help="a JSON list with one object per run")
    output.add_argument(
        "--svg", metavar="FILE", help="a picture of the table for a web page, without names of hosts and folders"
    )
    return parser


def _states(text: str) -> tuple[str, ...]:
    for state in text.split(","):
        if state not in STATES:
            raise argparse.ArgumentTypeError(f"there is no state {state!r} (known: {', '.join(STATES)})")
    return tuple(text.split(","))


def watch(read: Callable[[], States], wanted: Sequence[str]) -> int:
    """Show as many lines as fit into the terminal, again and again until Ctrl-C."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        raise NoRunsError("--watch needs a terminal; --json is for programs")
    try:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                start = time.monotonic()
                lines = board(read(), wanted, console.width, console.height - 1, colour=True)
                live.update(Text.from_ansi("\n".join(lines)), refresh=True)
                time.sleep(max(INTERVAL, 4 * (time.monotonic() - start)))
    except KeyboardInterrupt:
        return 0


def _command(arguments: argparse.Namespace) -> str:
    """What was typed, but for the picture's own file and the folders of paths."""
    words = [os.path.basename(os.path.abspath(folder)) for folder in arguments.runs]
    words += ["--study", arguments.study] if arguments.study else []
    words += ["--state", ",".join(arguments.state)] if arguments.state != STATES else []
    return printable(shlex.join(["python", "-m", "experiments.status", *words]))


def without_folders(text: str) -> str:
    """The text with the last component alone of each path: an absolute one may have spaces, a relative one has none."""
    text = re.sub(r"(?<![^\s'\"(=:])~?/[^:'\"]*/", "", text)
    return re.sub(
        r"[^\s'\"()=:]*/[^\s'\"()=:]*",
        lambda path: path[0] if re.fullmatch(r"\d+/\d+", path[0]) else path[0].rpartition("/")[2],
        text,
    )


def svg(states: States, wanted: Sequence[str], command: str) -> str:
    """The table as a terminal shows it after a command, as an SVG file that loads nothing and names neither hosts nor
    folders."""
    from rich.console import Console
    from rich.text import Text

    runs = (replace(run, host=None, job=None, reason=without_folders(run.reason or "")) for run in states.runs)
    skipped = ((os.path.basename(os.path.abspath(folder)), without_folders(why)) for folder, why in states.skipped)
    states = replace(states, runs=tuple(runs), skipped=tuple(skipped))
    lines = [f"$ {command}", *board(states, wanted, SVG_WIDTH, colour=True)]
    text = Text.from_ansi("\n".join(lines))
    width = max(80, *map(len, text.plain.splitlines()))
    console = Console(record=True, file=io.StringIO(), width=width)
    console.print(text, no_wrap=True)
    picture = console.export_svg(title="", unique_id="status")
    picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)  # of a font on a server
    return picture.replace("Fira Code, monospace", MONOSPACE)


if __name__ == "__main__":
    sys.exit(main())
