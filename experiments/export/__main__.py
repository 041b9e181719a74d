"""`python -m experiments.export RUN...`: a run's network for those who do not have this project."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from experiments.errors import FAILED, IMPOSSIBLE, INTERRUPTED, SettingsError
from experiments.export.run import WEIGHTS, RunToExport, find_run
from roadmap.common.command_line import Parser
from roadmap.common.files import in_words, printable
from roadmap.designs import did_you_mean

NEEDS = {
    "safetensors": ("safetensors",),
    "timm": ("safetensors",),
    "torch": (),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
}
"""{format: libraries of the extra `export` that it needs}."""


def main(argv: Sequence[str] | None = None) -> int:
    """Export runs. Returns the exit code: 0; 1 if a format is not possible, except that timm may lack the network
    unless that was asked for; 2 for a mistake, in one line; 130 if interrupted."""
    arguments = _parser().parse_args(argv)
    formats = arguments.formats or tuple(NEEDS)
    try:
        _check_libraries(formats)
        runs = [find_run(directory, arguments.ema) for directory in _with_weights(arguments.runs)]
        folders = _folders(runs, arguments.out)
        from experiments.export.formats import export_run
        from experiments.export.timm_layout import NotInTimmError

        failures = []
        for run, out in zip(runs, folders, strict=True):
            failures += export_run(run, out, formats, trust=arguments.trust, licence=arguments.licence, say=_say)
    except SettingsError as error:
        return _refuse(str(error))
    except OSError as error:
        return _refuse(in_words(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    if arguments.formats is None:
        failures = [error for error in failures if not isinstance(error, NotInTimmError)]
    return FAILED if failures else 0


def _with_weights(names: Sequence[str]) -> list[Path]:
    """The directories with weights. Of several, as of `runs/*`, the others are named: studies, speeds, unfinished runs.
    If none has weights, the first is kept, whose error says so."""
    directories = [Path(name) for name in names]
    having = [directory for directory in directories if os.path.lexists(directory / WEIGHTS)]
    if having:
        for directory in (directory for directory in directories if directory not in having):
            _say(f"{directory} has no {WEIGHTS} and is skipped")
    return having or directories[:1]


def _folders(runs: Sequence[RunToExport], out: str | None) -> list[Path]:
    """Where each run is written to.

    Raises:
        SettingsError: if two runs would be written to one folder.
    """
    if out is None:
        return [run.directory / "export" for run in runs]
    folders = [Path(out) / run.directory.resolve().name for run in runs]
    if twice := [folder for folder in folders if folders.count(folder) > 1]:
        raise SettingsError(f"two of these runs have the same name and would both be written to {twice[0]}")
    return folders


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m experiments.export",
        description="A run's network as safetensors with a model card, for timm, for torch.export, and as ONNX.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="directories of finished runs")
    parser.add_argument("--out", metavar="FOLDER", help="write to FOLDER/NAME OF THE RUN (default: RUN/export)")
    parser.add_argument("--formats", metavar="A,B", type=_formats, help=f"only these: {','.join(NEEDS)} (default: all)")
    parser.add_argument("--ema", action="store_true", help="the moving average of the weights (weights_ema.pt)")
    parser.add_argument(
        "--licence", metavar="ID", type=_licence, help="of the weights, as on Hugging Face: mit, cc-by-4.0"
    )
    parser.add_argument("--trust", action="store_true", help="run the code that the run's record names for its network")
    return parser


def _formats(text: str) -> tuple[str, ...]:
    for name in text.split(","):
        if name not in NEEDS:
            known = ", ".join(NEEDS)
            raise argparse.ArgumentTypeError(f"there is no format {name!r}{did_you_mean(name, NEEDS)} (known: {known})")
    return tuple(name for name in NEEDS if name in text.split(","))


def _licence(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]{0,59}", text):
        raise argparse.ArgumentTypeError(f"must be an identifier like mit, apache-2.0 or other, not {text!r}")
    return text


def _check_libraries(formats: Sequence[str]) -> None:
    """Raises:
    SettingsError: if a format needs a library that is not installed.
    """
    for name in formats:
        if lacking := [library for library in NEEDS[name] if find_spec(library) is None]:
            others = ",".join(other for other in formats if not {*NEEDS[other]} & {*lacking})
            raise SettingsError(
                f"{name} needs {', '.join(lacking)}: pip install -e '.[export]'"
                + (f", or leave it out: --formats {others}" if others else "")
            )


def _say(line: str) -> None:
    print(printable(line), flush=True)


def _refuse(message: str) -> int:
    print(f"error: {printable(message)}", file=sys.stderr)
    return IMPOSSIBLE


if __name__ == "__main__":
    sys.exit(main())
