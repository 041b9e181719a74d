"""`python -m experiments.demo RUNS`: a picture goes in, and every rung of the road answers, on a page of a browser."""

from __future__ import annotations

import argparse
import os
import socket
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec

from analysis.sources.runs import RecordsError
from experiments.errors import INTERRUPTED, SettingsError
from roadmap.common.command_line import Parser
from roadmap.common.files import in_words, printable

LOCAL = "127.0.0.1"


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the demo until Ctrl-C. Returns the exit code: 0; 2 for a mistake, in one line; 130 if stopped earlier."""
    arguments = _parser().parse_args(argv)
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}  # read by imports
    try:
        if find_spec("gradio") is None:
            raise SettingsError("the demo needs gradio: pip install -e '.[demo]'")
        _check_free(arguments.host, arguments.port)
        with tempfile.TemporaryDirectory(prefix="roadmap-demo-") as folder:  # with whatever is uploaded
            os.environ["GRADIO_TEMP_DIR"] = folder
            _serve(arguments)
    except (SettingsError, RecordsError) as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {in_words(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _serve(arguments: argparse.Namespace) -> None:
    import torch

    from experiments.config.settings import SMALL
    from experiments.demo.content import demo_of
    from experiments.demo.page import page
    from experiments.demo.server import is_local, serve

    demo = demo_of(arguments.runs, arguments.weights, trust=arguments.trust)
    for problem in demo.problems:
        print(f"left out: {problem}", file=sys.stderr)
    if not is_local(arguments.host):
        print(f"note: whoever reaches this machine can use the page (--host {arguments.host})", file=sys.stderr)
    if all(network.transform.resolution <= SMALL for network in demo.networks):
        torch.set_num_threads(1)  # threads wait for each other longer than such networks compute
    serve(page(demo), arguments.host, arguments.port)


def _check_free(host: str, port: int | None) -> None:
    """Raises:
    SettingsError: if nothing can be served at that address, such as where something else is.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            probe.bind((host, port or 0))
        except OSError as error:
            at = f"{host}:{port}" if port else host
            raise SettingsError(f"cannot serve at {at}: {error.strerror}; choose another --host or --port") from error


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m experiments.demo",
        description="A page on which every rung of the road answers to a picture: its classes, its time, and where it "
        "looked.",
    )
    parser.add_argument("runs", nargs="*", metavar="RUNS", help="folders of run directories (default: runs)")
    parser.add_argument(
        "--weights", nargs="+", default=[], metavar="LIBRARY:MODEL.WEIGHTS", help="published networks to show, too, "
        "such as torchvision:resnet50.IMAGENET1K_V2 or timm:MODEL.TAG; downloaded where needed"
    )  # fmt: skip
    parser.add_argument("--trust", action="store_true", help="run the code of layers that the records name")
    parser.add_argument(
        "--host", type=_address, default=LOCAL, help=f"the address to serve (default: {LOCAL}, this machine alone)"
    )
    parser.add_argument("--port", type=_port, help="its port (default: the first free one from 7860 on)")
    return parser


def _address(text: str) -> str:
    try:
        return socket.gethostbyname(text)
    except (OSError, UnicodeError):  # which a name of impossible letters raises
        raise argparse.ArgumentTypeError(f"must be an IPv4 address of this machine or its name, not {text!r}") from None


def _port(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"must be a number from 1 to 65535, not {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
