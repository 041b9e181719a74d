"""What runs and studies speak to."""

from __future__ import annotations

from contextlib import suppress

from rich.console import Console


class Terminal(Console):
    """A terminal, or what reads in its place and may go away, as `| head` does: what is trained goes on in silence."""

    def __init__(self) -> None:
        super().__init__(highlight=False, markup=False)  # a path may look like markup

    def on_broken_pipe(self) -> None:
        with suppress(SystemExit):
            super().on_broken_pipe()
