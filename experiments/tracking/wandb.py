"""Logs a run to Weights & Biases: a copy of its record, made by a process beside it (wandb_mirror.py).

The mirror reads the record. So training sends W&B nothing and waits for nothing: the logger starts the mirror, reads
its messages now and then, and at the end gives it some seconds. wandb is not imported here, so none of its threads,
exit hooks and signal handlers are in the process that trains.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import shlex
import string
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from experiments.config.run import Run
from experiments.config.settings import NAME
from experiments.records.record import Record
from roadmap.common.bounds import OneOf, Text, setting
from roadmap.common.statuses import Status

CONNECT = 10
"""Seconds after its start for which a run that ends sooner waits for W&B's answer."""
PATIENCE = 20
"""Seconds that a run waits at its end until W&B, if it has answered, has received everything."""
TAG = 64
"""Characters of a tag, at most, in W&B."""


@dataclass
class Wandb:
    """`logger=wandb`. If W&B fails, nothing here raises, and nothing but `end` waits."""

    project: str = setting(bounds=Text(r"[^/\\#?%:]+", "1 to 128 characters, none of / \\ # ? % :", 128))
    entity: str | None = setting(bounds=NAME)
    mode: str = setting(bounds=OneOf(("auto", "online", "offline")))

    def start(self, run: Run, record: Record, say: Callable[[str], None]) -> None:
        self.run, self.record, self.say = run, record, say
        self.id = (record.summary["wandb"] or {"id": _new_id()})["id"]
        record.update(wandb=record.summary["wandb"] or {"id": self.id, "url": None})
        self.sync = f"wandb sync --include-online {shlex.quote(str(run.directory.absolute() / 'wandb'))}"
        self.started, self.closing = time.monotonic(), False
        self.mirror: subprocess.Popen[bytes] | None = None
        self.rest, self.answered, self.over = b"", False, False
        self._start(self.mode)

    def step(self, *_: float) -> None:
        self._receive()

    def epoch(self, row: dict[str, float]) -> None:
        """The mirror reads it in the record."""

    def _receive(self) -> None:
        """Handle the mirror's messages. If it has died before its work was done, another copies the run offline."""
        while self.mirror:
            try:
                received = os.read(self.mirror.stdout.fileno(), 1 << 16)
            except BlockingIOError:
                return
            if not received:
                self._end()
                if not self.over and self.mode != "offline":
                    self._start("offline")
                elif not self.over:
                    self.say("W&B no longer follows this run; its record is complete")
                return
            *lines, self.rest = (self.rest + received).split(b"\n")
            for line in lines:
                self._handle(**json.loads(line))

    def end(self, status: str) -> None:
        """Complete the copy, within CONNECT and PATIENCE seconds. What W&B has not received by then stays in the run's
        directory, and the log has the command that sends it."""
        self._wait(self.started + CONNECT, lambda: self.answered)
        if self.mirror and not self.answered and self.mode != "offline":
            self.say("W&B has not answered")
            self._end()
            self._start("offline")
        self.closing = True
        self._send("over")
        self._wait(time.monotonic() + PATIENCE)
        if self.mirror:
            self.say(f"W&B has not received everything within {PATIENCE} s; to send the rest: {self.sync}")
            self._end()

    def _start(self, mode: str) -> None:
        self.mode, self.rest = mode, b""
        self.answered = self.over = False  # as the mirror reports
        task = {
            "directory": str(self.run.directory.absolute()),
            "process": os.getpid(),
            "mode": mode,
            "id": self.id,
            "project": self.project,
            "entity": self.entity,
            "group": self.run.study_name,
            "name": self.run.name,
            "tags": tags(self.run),
        }
        try:
            self.mirror = subprocess.Popen(
                [sys.executable, "-P", str(Path(__file__).with_name("wandb_mirror.py"))],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=_environment(),
                start_new_session=True,  # the terminal's Ctrl-C is for the run
            )
        except OSError as error:
            self.mirror = None
            self.say(f"W&B does not follow this run: {error}")
            return
        os.set_blocking(self.mirror.stdout.fileno(), False)
        self._send(json.dumps(task))
        if self.closing:
            self._send("over")

    def _handle(self, say: str = "", url: str = "", offline: bool = False, over: bool = False) -> None:
        self.answered |= offline or bool(url)
        self.over |= over
        ended = (Status.RUNNING, Status.STOPPED, Status.DONE)
        if url and self.record.summary["status"] in ended:  # else the next attempt may write the record
            self.record.update(wandb={"id": self.id, "url": url})
        if say or url:
            self.say(say or f"W&B: {url}")
        if offline:
            self.say(f"W&B is kept offline; to send it: {self.sync}")

    def _send(self, line: str) -> None:
        if self.mirror:
            with suppress(OSError):  # it has died, which _receive() notices
                self.mirror.stdin.write(f"{line}\n".encode())

    def _wait(self, until: float, enough: Callable[[], bool] = lambda: False) -> None:
        """Handle messages while there is a mirror, until `enough` is true or it is too late."""
        self._receive()
        while self.mirror and not enough() and (left := until - time.monotonic()) > 0:
            select.select([self.mirror.stdout.fileno()], [], [], left)
            self._receive()

    def _end(self) -> None:
        """wandb's own process ends with the mirror, to which it was connected."""
        if self.mirror:
            with self.mirror:  # which closes its pipes and waits for its end
                self.mirror.kill()
        self.mirror = None


def tags(run: Run) -> list[str]:
    """The rung, or else the model, and the active steps."""
    names = dict.fromkeys([run.requested.rung or run.model, *(run.requested.steps or ())])
    return [name if len(name) <= TAG else f"{name[: TAG - 3]}..." for name in names]


def _new_id() -> str:
    """As wandb makes them, but not from `random`, whose state is the run's."""
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))


def _environment() -> dict[str, str]:
    """This process's, without variables that W&B would upload or misinterpret."""
    variables = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SLURM") and name not in ("WANDB_SERVICE", "WANDB_RUN_ID", "WANDB_RESUME")
    }
    return variables | {"WANDB_ERROR_REPORTING": "false"}  # wandb's telemetry on itself
