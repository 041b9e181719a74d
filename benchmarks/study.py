"""A study beside the shell loop that it replaces: the same runs, one after the other, a new process each.

    python -m benchmarks.study

Twelve nano runs of 20 s or more: four rungs, three seeds. The loop is what one would type without a launcher, with
torch's default threads. Says the wall time of each, their ratio, and whether the accuracies are the same within the
noise of seeds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

RUNGS = ("modern_recipe", "depthwise_conv", "kernel_7", "separate_downsampling")
SEEDS = ("0", "1", "2")
TRAIN = (sys.executable, "-m", "experiments.train")


def seconds(*commands: list[str]) -> float:
    began = time.perf_counter()
    for command in commands:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def results(runs: Path) -> dict[tuple[str, int], dict[str, float]]:
    """{(rung, seed): summary}"""
    summaries = {}
    for path in runs.glob("*/summary.json"):
        rung = json.loads(path.with_name("config.json").read_text())["rung"]
        summary = json.loads(path.read_text())
        summaries[rung, summary["seed"]] = summary
    return summaries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=6, help="of each run; 20 s or more is meant")
    epochs = f"recipe.epochs={parser.parse_args().epochs}"
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory() as folder:
        study, loop = Path(folder) / "study", Path(folder) / "loop"
        sweep = ["-m", f"rung={','.join(RUNGS)}", f"seed={','.join(SEEDS)}", epochs, f"runs={study}"]
        together = seconds([*TRAIN, *sweep])
        console.print(f"study: {together:.0f} s")
        one_by_one = seconds(
            *(
                [*TRAIN, f"rung={rung}", f"seed={seed}", epochs, f"runs={loop}"]
                for rung, seed in itertools.product(RUNGS, SEEDS)
            )
        )
        ours, theirs = results(study), results(loop)
        shortest = min(summary["wall_seconds"] for summary in theirs.values())
        console.print(f"loop:  {one_by_one:.0f} s, its shortest run {shortest:.0f} s")
        console.print(f"ratio: {together / one_by_one:.3f}")
    for rung in RUNGS:
        ours_top1, theirs_top1 = ([runs[rung, int(seed)]["top1"] for seed in SEEDS] for runs in (ours, theirs))
        console.print(
            f"{rung:22} top-1 {statistics.mean(ours_top1):.2f} ± {statistics.stdev(ours_top1):.2f} in the study, "
            f"{statistics.mean(theirs_top1):.2f} ± {statistics.stdev(theirs_top1):.2f} in the loop"
        )


if __name__ == "__main__":
    main()
