"""Studies of synthetic records, for the tests of what is told and drawn of them."""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

from records import write_run, write_study

from roadmap import sets
from roadmap.steps import ladder

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
    write_study(folder)
    written = {rung.steps for rung in ladder("nano")}
    for number, steps in enumerate(sets.leave_one_out()):
        if steps not in written:
            for seed in range(3):
                write_set(folder, steps, seed, 82.0 + number / 4 + (seed * number % 4) / 9)
    written |= set(sets.leave_one_out())
    for number, steps in enumerate(sets.unions(sets.sections().values())):
        if steps not in written:
            write_set(folder, steps, 0, 74.0 + len(steps) / 2 + (number * 7 % 5) / 3)
    return folder


def write_set(folder: Path, steps: tuple[str, ...], seed: int, top1: float) -> Path:
    """A run of a set of steps that is no rung; the design is not looked at."""
    design = {"width": crc32(" ".join(steps).encode())}  # each its own series
    recipe = {"name": "modern" if "modern_recipe" in steps else "original"}
    config = {"steps": list(steps), "rung": None, "design": design, "recipe": recipe}
    return write_run(folder, None, seed=seed, top1=top1, config=config)
