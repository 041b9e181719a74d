"""Locks that die with the process that holds them, on this machine and on a file system that several share."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

PATIENCE = 1.0
"""Seconds to wait for a lock: a predecessor may still be dying, and a look at whether it lives takes a moment."""


def lock_file(path: Path, patience: float = PATIENCE, *, shared: bool = False) -> TextIO | None:
    """Lock a file, which is created. Close what is returned to unlock it; None if another process holds it. Several
    processes may hold it if it is `shared` by each.

    Where the file system knows no locks, everybody has it. What is in the file stays, and a link is not followed: what
    it names may be anybody's.

    Raises:
        OSError: if there can be no such file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file, deadline = open(path, "r+", opener=_open), time.monotonic() + patience  # noqa: SIM115
    while True:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() > deadline:
                file.close()
                return None
            time.sleep(0.05)
        except OSError:  # no locks on this file system
            return file


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


def unlock(file: TextIO) -> None:
    """Also where a process that this one has forked has the file open still."""
    with suppress(OSError):  # no locks on this file system
        fcntl.flock(file, fcntl.LOCK_UN)
    file.close()


@contextmanager
def locked(path: Path, patience: float = PATIENCE) -> Iterator[bool]:
    """Whether the lock was had; it is held within the block."""
    file = lock_file(path, patience)
    try:
        yield file is not None
    finally:
        if file:
            unlock(file)
