"""Kill a nano run at random moments, go on, and compare: does it end as an undisturbed one, to the bit?

    python -m benchmarks.kills --kills 30

Each time a run of four epochs is started anew, killed (kill -9, its loader workers too) at a moment drawn from all that
follows its first line in the log, started again with another number of loader workers, and compared with one that was
left alone, bit by bit.
Exit code 0 if all are identical.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console

RUN = (
    *("rung=gelu", "recipe=convnext", "recipe.epochs=4", "data.subset=0.3", "data.holdout=0.05"),
    "recipe.random_erasing=0.25",
    *("recipe.cutmix=1.0", "checkpoint_minutes=0.005", "threads=1", "device=cpu"),
)
METRICS = ("epoch", "lr", "train_loss", "val_loss", "top1", "top5", "ema_val_loss", "ema_top1", "ema_top5")


def start(runs: Path, workers: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "experiments.train", *RUN, f"runs={runs}", f"workers={workers}"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, start_new_session=True, **quiet)
    while process.poll() is None and not [*runs.glob("*/log.txt")]:
        time.sleep(0.02)
    return process


def result(runs: Path) -> tuple[list[list[float]], dict[str, torch.Tensor]]:
    [directory] = runs.glob("*/")
    rows = [json.loads(line) for line in (directory / "epochs.jsonl").read_text().splitlines()]
    weights = {
        f"{file}:{name}": tensor
        for file in ("weights.pt", "weights_ema.pt")
        for name, tensor in torch.load(directory / file, weights_only=True).items()
    }
    return [[row[name] for name in METRICS] for row in rows], weights


def identical(first: tuple, second: tuple) -> bool:
    (rows, weights), (second_rows, second_weights) = first, second
    if rows != second_rows or weights.keys() != second_weights.keys():
        return False
    return all(torch.equal(weights[name], second_weights[name]) for name in weights)


def resumed_at(runs: Path) -> str:
    [log] = runs.glob("*/log.txt")
    lines = [line for line in log.read_text().splitlines() if "going on after" in line]
    return lines[-1].partition("going on ")[2] if lines else "from the beginning"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw, console, good = random.Random(arguments.seed), Console(highlight=False), 0
    with tempfile.TemporaryDirectory() as folder:
        process, began = start(Path(folder) / "whole", 0), time.monotonic()
        if code := process.wait():
            sys.exit(f"error: the undisturbed run ended with exit code {code}")
        duration = time.monotonic() - began
        whole = result(Path(folder) / "whole")
        for number in range(arguments.kills):
            runs, moment = Path(folder) / str(number), draw.uniform(0, duration)
            process = start(runs, workers=draw.randrange(3))
            time.sleep(moment)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code = start(runs, workers=draw.randrange(3)).wait()
            same = code == 0 and identical(whole, result(runs))
            good += same
            verdict = "identical" if same else "DIFFERENT"
            console.print(f"{number + 1:3}  killed after {moment:5.1f} s, went on {resumed_at(runs):<24} {verdict}")
    console.print(f"{good} of {arguments.kills} ended as the undisturbed run of {duration:.1f} s did, to the bit")
    sys.exit(good != arguments.kills)


if __name__ == "__main__":
    main()
