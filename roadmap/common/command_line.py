"""Parsers of the commands that are not Hydra's."""

from __future__ import annotations

import argparse
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, without the usage, as the commands that Hydra parses do. Exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")
