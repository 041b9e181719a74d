"""The identities of twenty runs, pinned: a run that somebody has trained is found again by any later version.

Where one of these changes, either TRAINING_VERSION was raised or a default was changed by mistake. A new setting that
is off by default changes none of them.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.config.run import Run

PINNED = json.loads(Path(__file__).with_name("identities.json").read_text())


@pytest.mark.parametrize("overrides", PINNED)
def test_a_run_is_found_again(overrides: str, run_of: Callable[..., Run]) -> None:
    assert run_of(*overrides.split()).identity == PINNED[overrides]


def test_they_are_twenty_different_runs() -> None:
    assert len({*PINNED.values()}) == 20
