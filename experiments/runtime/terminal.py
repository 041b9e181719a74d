"""The terminal that runs and studies print to."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from rich.console import Console


class Terminal(Console):
    """A terminal, a file or a pipe. If it fails, as a closed pipe does, training continues silently."""

    def __init__(self) -> None:
        super().__init__(highlight=False, markup=False)  # a path may look like markup

    def print(self, *objects: Any, **options: Any) -> None:
        try:
            super().print(*objects, **options)
        except OSError:  # a full disk
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        with suppress(SystemExit):
            super().on_broken_pipe()
