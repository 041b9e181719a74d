"""A limit on the time of what a plan can do without, such as listing the files of a dataset."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class TimeIsUp(BaseException):
    """What was begun within `time_limit` takes longer. Like KeyboardInterrupt, no library takes it for an error."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Interrupt what runs in this context after so many seconds of wall time. Only in the main thread.

    Raises:
        TimeIsUp: then.
    """

    def expire(*_: object) -> None:
        raise TimeIsUp

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))  # 0 would be no limit
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
