"""Locks that are released when the process that holds them dies, on local and on shared file systems."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

PATIENCE = 1.0
"""Seconds to wait for a lock: its last holder may still be exiting, and checking whether a lock is free takes it."""


def lock_file(path: Path, patience: float = PATIENCE, *, shared: bool = False) -> TextIO | None:
    """Lock a file, which is created if missing. Close the returned file to unlock it; None if another process holds the
    lock. Several processes may hold it, if it is `shared` for each.

    On a file system without locks, every process gets it. The file's content is kept, and a symbolic link is refused:
    it could name any file.

    Raises:
        OSError: if the file cannot be created.
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
    """Release the lock, even if a forked process still has the file open."""
    with suppress(OSError):  # no locks on this file system
        fcntl.flock(file, fcntl.LOCK_UN)
    file.close()


@contextmanager
def locked(path: Path, patience: float = PATIENCE) -> Iterator[bool]:
    """Hold a lock within the block. Yields whether it was free."""
    file = lock_file(path, patience)
    try:
        yield file is not None
    finally:
        if file:
            unlock(file)
