"""The process that copies a run's record to Weights & Biases while another trains it (experiments/tracking/wandb.py).

The first line of its standard input says what to copy; a second line, or the end of the input, that the run is over.
Its standard output has one JSON message per line: {"say": "a line for log.txt"}; {"url": "..."} or {"offline": true}
when W&B, or this disk, has accepted the run; {"over": true} when its work is done.

It imports nothing from this package, so that it starts in any working directory.
"""

from __future__ import annotations

import io
import json
import os
import re
import select
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import wandb

POLL = 2.0
"""Seconds between two readings of the record."""
CONNECT = 60.0
"""Seconds in which W&B must answer; otherwise the run is kept offline."""
LAST = 120
"""Seconds for which this process may outlive its run, which does not end it if it is killed."""


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(
            number, signal.SIG_IGN
        )  # a cluster sends them to all processes of a job; the run decides when to end
    output = os.dup(1)
    os.dup2(2, 1)  # so that only messages are written to the output
    orders = open(0, "rb", buffering=0)  # noqa: SIM115 - open as long as the process lives

    def send(**message: Any) -> None:
        if "say" in message:
            message["say"] = in_one_line(message["say"])
        with suppress(BrokenPipeError):  # the run was killed: copy what it left
            os.write(output, f"{json.dumps(message)}\n".encode())

    try:
        follow(json.loads(orders.readline()), orders, send)
    except Exception as error:
        send(say=f"W&B: {type(error).__name__}: {error}")
        os._exit(1)  # wandb's exit hooks would wait for what has failed


def follow(task: dict[str, Any], orders: BinaryIO, send: Callable[..., None]) -> None:
    """Copy the run while it is trained, and the rest when it is over."""
    import wandb

    sys.stderr = errors = LoggedErrors(send)
    mode = find_mode(task["mode"])
    if mode == "disabled":
        send(say="W&B is switched off by its own settings", over=True)
        return
    run = start(task, mode)
    folder, online = Path(task["directory"], "wandb"), mode == "online"
    send(url=run.url) if online else send(offline=True)
    copy = Copy(run, Path(task["directory"]), folder / f"{run.id}.epochs", online)
    while not select.select([orders], [], [], POLL)[0]:
        copy.update()
    signal.alarm(LAST)
    copy.update()
    if copy.summary["status"] == "unfinished":
        run.mark_preempting()
    run.finish(exit_code=0 if copy.summary["status"] in ("done", "stopped") else 1)
    if online and not errors.seen:  # W&B has every row, also those that an earlier attempt kept offline
        for file in folder.glob("*run-*/*.wandb"):
            file.with_suffix(".wandb.synced").touch()
    send(over=True)
    wandb.teardown()


def find_mode(mode: str) -> Any:
    """online, offline or disabled. `auto` follows wandb's settings, WANDB_MODE among them, and is offline if wandb
    finds no account. It neither prompts nor uses the network."""
    import wandb
    from wandb.sdk.lib.wbauth import authenticate_session  # wandb.login would contact its server

    if mode != "auto":
        return mode
    settings = wandb.setup().settings
    mode = {"dryrun": "offline", "run": "online"}.get(settings.mode, settings.mode)
    if mode != "online":
        return mode
    return mode if authenticate_session(host=settings.base_url, source="auto", prompt=False) else "offline"


def start(task: dict[str, Any], mode: Any) -> wandb.Run:
    """W&B's run, new or resumed, with the record's config.

    Raises:
        wandb.Error: if W&B refuses, or does not answer within CONNECT seconds.
    """
    import wandb

    config = read(Path(task["directory"], "config.json"))
    summary = read(Path(task["directory"], "summary.json"))
    settings = wandb.Settings(
        console="off",
        disable_code=True,
        save_code=False,
        disable_git=True,  # a remote's URL may hold a password; the commit is in the summary
        disable_job_creation=True,
        label_disable=True,
        symlink=False,
        init_timeout=CONNECT,
        x_save_requirements=False,
        x_stats_pid=task["process"],
        x_stats_track_process_tree=True,  # with its loader workers
        x_transaction_log_flush_interval=POLL,  # what W&B has not received survives if this process is killed
    )
    run = wandb.init(
        **{name: task[name] for name in ("id", "project", "entity", "group", "name", "tags")},
        config=config | {name: summary[name] for name in ("identity", "series")},
        dir=task["directory"],
        job_type="train",
        mode=mode,
        resume="allow",
        allow_val_change=True,
        settings=settings,
    )
    run.define_metric("epoch", summary="none")
    run.define_metric("*", step_metric="epoch", summary="none")  # the summary is the record's, not W&B's own
    return run


class Copy:
    """W&B's copy of a run's record. No epoch is sent twice, also not by different attempts at the run."""

    def __init__(self, run: wandb.Run, directory: Path, sent: Path, online: bool) -> None:
        self.run, self.directory, self.sent = run, directory, sent
        self.summary: dict[str, Any] = {}
        if online:
            self.first = run.starting_step  # W&B knows what it has received
        else:
            self.first = int(sent.read_text() or 0) + 1 if sent.exists() else 1

    def update(self) -> None:
        """Send the new epochs, and the summary if it has changed."""
        summary = {name: value for name, value in read(self.directory / "summary.json").items() if name != "wandb"}
        rows = self.directory / "epochs.jsonl"
        for row in map(json.loads, rows.read_text("utf-8").splitlines() if rows.exists() else ()):
            if row["epoch"] >= self.first:
                self.run.log(row, step=row["epoch"], commit=True)
                self.first = row["epoch"] + 1
                self.sent.write_text(f"{row['epoch']}\n")
        if summary != self.summary:
            self.run.summary.update(summary)
            self.summary = summary


class LoggedErrors(io.TextIOBase):
    """Replaces standard error: what wandb reports as an error goes to log.txt, once each; the rest is dropped."""

    def __init__(self, send: Callable[..., None]) -> None:
        self.send, self.seen = send, set[str]()

    def write(self, text: str) -> int:
        for line in text.splitlines():
            line = re.sub(r"\x1b\[[0-9;]*m", "", line)
            if "ERROR" in line and line not in self.seen:
                self.seen.add(line)
                self.send(say=f"W&B: {line.partition('ERROR')[2]}")
        return len(text)


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8"))


def in_one_line(text: str) -> str:
    """Without line breaks, and without the value of any environment variable whose name suggests a secret."""
    for name, value in os.environ.items():
        if re.search("KEY|TOKEN|SECRET|PASSWORD", name.upper()) and len(value) >= 8:
            text = text.replace(value, "***")
    return " ".join(text.split())


if __name__ == "__main__":
    main()
