"""Commands in processes of their own, without the seconds of CPU that importing torch and timm takes each of them.

They are forked from a server that has imported everything (experiments/launch/preload.py), as the runs of a study are.
The runs of studies that they launch are forked from them, without a server of their own, so these do not notice that
their launcher is killed as they would otherwise. A test of such things takes the fixture `launch`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from experiments.launch import local
from experiments.train import main

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["experiments.launch.preload"])  # whichever test starts it


class Forked:
    """`python -m experiments.train ARGUMENTS` in a folder; of `subprocess.Popen`'s interface what tests need."""

    def __init__(self, arguments: tuple[str, ...], folder: Path, environment: dict[str, str], output: Path) -> None:
        self.arguments, self.output = arguments, output
        self.process = SERVER.Process(target=_command, args=(arguments, folder, environment, output))
        self.process.start()
        self.pid = self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.arguments, timeout, self.output.read_text())
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """What it has written to its standard output and error, once it has ended."""
        self.wait(timeout)
        return self.output.read_text(), None

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _command(arguments: tuple[str, ...], folder: Path, environment: dict[str, str], output: Path) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    multiprocessing.set_start_method(None, force=True)  # the default again, which `SERVER` has set to its own
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    local.multiprocessing = SimpleNamespace(get_context=lambda _: multiprocessing.get_context("fork"))
    sys.argv = ["experiments.train", *arguments]
    sys.path.insert(0, str(folder))  # as of python -m
    main()
