"""The process that copies a run's record to Weights & Biases while another trains it (experiments/tracking/wandb.py).

The first line of its standard input says what to copy; a second, or the end of that input, that the run is over. On
its standard output it answers in JSON, a message a line: {"say": "a line for log.txt"}; {"url": "..."}, or
{"offline": true}, when W&B, or this disk, has taken the run; {"over": true} when its work is done.

It imports nothing of this package, so that it starts wherever the run was started.
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
"""Seconds between two looks at the record."""
CONNECT = 60.0
"""Seconds in which W&B must answer; else the run is kept offline."""
LAST = 120
"""Seconds that this process outlives its run at most: a run that was killed does not end it."""


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # a cluster sends them to all of a job; it is the run that decides
    answers = os.dup(1)
    os.dup2(2, 1)  # nothing else gets among them
    orders = open(0, "rb", buffering=0)  # noqa: SIM115 - open as long as the process lives

    def tell(**message: Any) -> None:
        if "say" in message:
            message["say"] = in_one_line(message["say"])
        with suppress(BrokenPipeError):  # the run was killed: go on to the end of what it left
            os.write(answers, f"{json.dumps(message)}\n".encode())

    try:
        follow(json.loads(orders.readline()), orders, tell)
    except Exception as error:
        tell(say=f"W&B: {type(error).__name__}: {error}")
        os._exit(1)  # wandb's exit hooks would wait for what has failed


def follow(asked: dict[str, Any], orders: BinaryIO, tell: Callable[..., None]) -> None:
    """Copy the run while it is trained, and when it is over the rest of it."""
    import wandb

    sys.stderr = complaints = Complaints(tell)
    mode = find_mode(asked["mode"])
    if mode == "disabled":
        tell(say="W&B is switched off by its own settings", over=True)
        return
    run = start(asked, mode)
    folder, online = Path(asked["directory"], "wandb"), mode == "online"
    tell(url=run.url) if online else tell(offline=True)
    copy = Copy(run, Path(asked["directory"]), folder / f"{run.id}.epochs", online)
    while not select.select([orders], [], [], POLL)[0]:
        copy.update()
    signal.alarm(LAST)
    copy.update()
    if copy.summary["status"] == "unfinished":
        run.mark_preempting()
    run.finish(exit_code=0 if copy.summary["status"] == "done" else 1)
    if online and not complaints.told:  # W&B has every row now, also those that an earlier attempt kept offline
        for one in folder.glob("*run-*/*.wandb"):
            one.with_suffix(".wandb.synced").touch()
    tell(over=True)
    wandb.teardown()


def find_mode(asked: str) -> str:
    """online, offline or disabled: `auto` is what wandb's own settings say, WANDB_MODE among them, and offline where
    wandb finds no account. It asks nobody, neither at a terminal nor over the network."""
    import wandb
    from wandb.sdk.lib.wbauth import authenticate_session  # wandb.login would ask its server

    if asked != "auto":
        return asked
    settings = wandb.setup().settings
    mode = {"dryrun": "offline", "run": "online"}.get(settings.mode, settings.mode)
    if mode != "online":
        return mode
    return mode if authenticate_session(host=settings.base_url, source="auto", prompt=False) else "offline"


def start(asked: dict[str, Any], mode: str) -> wandb.Run:
    """W&B's run, new or resumed, with the record's config.

    Raises:
        wandb.Error: if W&B refuses, or does not answer within CONNECT seconds.
    """
    import wandb

    config = read(Path(asked["directory"], "config.json"))
    summary = read(Path(asked["directory"], "summary.json"))
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
        x_stats_pid=asked["process"],
        x_stats_track_process_tree=True,  # its loader workers
        x_transaction_log_flush_interval=POLL,  # what W&B has not taken is on this disk, also if this process is ended
    )
    run = wandb.init(
        **{name: asked[name] for name in ("id", "project", "entity", "group", "name", "tags")},
        config=config | {name: summary[name] for name in ("identity", "series")},
        dir=asked["directory"],
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
    """What W&B has of a run's record. Epochs that it has been given, in this attempt or before, are not given again."""

    def __init__(self, run: wandb.Run, directory: Path, given: Path, online: bool) -> None:
        self.run, self.directory, self.given = run, directory, given
        self.summary: dict[str, Any] = {}
        if online:
            self.first = run.starting_step  # W&B knows best, also what was lost on the way
        else:
            self.first = int(given.read_text() or 0) + 1 if given.exists() else 1

    def update(self) -> None:
        """Give W&B the epochs that are new, and the summary if it has changed."""
        summary = {name: value for name, value in read(self.directory / "summary.json").items() if name != "wandb"}
        rows = self.directory / "epochs.jsonl"
        for row in map(json.loads, rows.read_text("utf-8").splitlines() if rows.exists() else ()):
            if row["epoch"] >= self.first:
                self.run.log(row, step=row["epoch"], commit=True)
                self.first = row["epoch"] + 1
                self.given.write_text(f"{row['epoch']}\n")
        if summary != self.summary:
            self.run.summary.update(summary)
            self.summary = summary


class Complaints(io.TextIOBase):
    """In place of standard error: what wandb calls an error goes to log.txt, each once; the rest nowhere."""

    def __init__(self, tell: Callable[..., None]) -> None:
        self.tell, self.told = tell, set[str]()

    def write(self, text: str) -> int:
        for line in text.splitlines():
            line = re.sub(r"\x1b\[[0-9;]*m", "", line)
            if "ERROR" in line and line not in self.told:
                self.told.add(line)
                self.tell(say=f"W&B: {line.partition('ERROR')[2]}")
        return len(text)


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8"))


def in_one_line(text: str) -> str:
    """Without line ends, and without the value of any variable whose name says that it is secret."""
    for name, value in os.environ.items():
        if re.search("KEY|TOKEN|SECRET|PASSWORD", name.upper()) and len(value) >= 8:
            text = text.replace(value, "***")
    return " ".join(text.split())


if __name__ == "__main__":
    main()
