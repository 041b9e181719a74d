"""Studies of synthetic records, for the tests of what is told and drawn of them."""

from __future__ import annotations

from pathlib import Path

from records import write_run, write_study

from roadmap.conf import OURS

A = {0: 80.1, 1: 80.9, 2: 81.3}
B = {0: 79.0, 1: 80.2, 2: 79.9}


def write_pair(folder: Path, gelu: dict[int, float] = A, kernel_7: dict[int, float] = B, **changes) -> Path:
    """A rung and its parent, seed by seed."""
    for rung, accuracies in {"gelu": gelu, "kernel_7": kernel_7}.items():
        for seed, top1 in accuracies.items():
            write_run(folder, rung, seed=seed, top1=top1, **changes)
    return folder


def write_everything(folder: Path) -> Path:
    """The ladder and leave-one-out with three seeds, and the sections study with one."""
    road = OURS.road(regime="nano")
    write_study(folder)
    written = {rung.steps for rung in road.rungs}
    for number, steps in enumerate(road.leave_one_out()):
        if steps not in written:
            for seed in range(3):
                write_run(folder, steps=steps, seed=seed, top1=82.0 + number / 4 + (seed * number % 4) / 9)
    written |= set(road.leave_one_out())
    for number, steps in enumerate(road.unions(road.groups().values())):
        if steps not in written:
            write_run(folder, steps=steps, top1=74.0 + len(steps) / 2 + (number * 7 % 5) / 3)
    return folder
