"""How long thousands of runs take to load and to report, beside the plain loop over the same files.

    python -m benchmarks.analysis
    python -m benchmarks.analysis --runs 1000 --epochs 100

Writes synthetic records in a temporary folder: seventeen rungs, as many seeds as it takes, and, a quarter of the runs,
a sweep of learning rates. Then says, for that many runs and for half as many: seconds, of the clock and of processors,
and peak memory of a fresh process that loads the run table; that reads every epoch; and that writes a whole report.
The plain loop is what one would type in a notebook: `json.load`, `pandas.read_json` and `pandas.concat`. It reads a
part of the runs, and is scaled to all. Synthetic records say nothing about accuracy.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from roadmap.conf import OURS, ladder

LOAD = "import sys, analysis; runs = analysis.load(sys.argv[1]).runs"
EPOCHS = "import sys, analysis; epochs = analysis.load(sys.argv[1]).epochs"
REPORT = """
import sys
from analysis.report.__main__ import main
sys.exit(main([sys.argv[1], '--out', sys.argv[1] + '-report']))
"""
PLAIN = """
import glob, json, sys
import pandas
runs, epochs = [], []
for path in sorted(glob.glob(sys.argv[1] + "/*/"))[: int(sys.argv[2])]:
    config, summary = (json.load(open(path + name)) for name in ("config.json", "summary.json"))
    runs.append(config | summary)
    epochs.append(pandas.read_json(path + "epochs.jsonl", lines=True).assign(path=path))
runs, epochs = pandas.DataFrame(runs), pandas.concat(epochs)
"""
USED = """
import resource
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(sum(one.ru_utime + one.ru_stime for one in used), sum(one.ru_maxrss for one in used))
"""
"""Seconds of processors, and peak memory in KiB (Linux), of a process and the largest of its own, added."""
EPOCH_NAMES = ("lr", "train_loss", "val_loss", "top1", "top5", "images_per_second", "seconds")


class Cost(NamedTuple):
    seconds: float
    processor_seconds: float
    mebibytes: float


def measure(code: str, *arguments: object) -> Cost:
    """What a fresh process uses, start of Python included."""
    code = f"try:\n  exec({code!r})\nexcept SystemExit as end:\n  assert not end.code\n{USED}"
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"error: {done.stderr.strip().splitlines()[-1]}")
    processor_seconds, kibibytes = map(float, done.stdout.splitlines()[-1].split())
    return Cost(seconds, processor_seconds, kibibytes / 1024)


def settings() -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Rung, seed and what differs, without an end: of four runs, three are of a ladder and one is of a sweep."""
    names = [rung.name for rung in ladder("nano")]
    for seed in itertools.count():
        for index, name in enumerate(names):
            yield name, seed, {}
            if index % 3 == 0:
                yield names[-1], seed, {"recipe.lr": round(1e-3 * 2 ** (index / 3), 6)}


def write_runs(folder: Path, runs: int, epochs: int) -> None:
    """Write this many records, of this many epochs each."""
    random = np.random.default_rng(0)
    bases = {rung.name: base_config(rung.name, epochs) for rung in ladder("nano")}
    rise = 80 - 60 * np.exp(-np.arange(1, epochs + 1) / (epochs / 5))
    for rung, seed, differs in itertools.islice(settings(), runs):
        config = bases[rung] | {"seed": seed, "differs": differs}
        if differs:
            config["recipe"] = config["recipe"] | {"lr": differs["recipe.lr"]}
        noise = random.normal(size=(len(EPOCH_NAMES), epochs))
        top1 = (rise + 0.3 * noise[3]).round(2)
        columns = [4e-3 + 1e-5 * noise[0], 2 + 0.1 * noise[1], 1 + 0.1 * noise[2], top1, np.full(epochs, 98.9)]
        columns += [1400 + 50 * noise[5], 8 + 0.2 * noise[6]]
        rows = zip(range(1, epochs + 1), *(column.tolist() for column in columns), strict=True)
        lines = [orjson.dumps(dict(zip(("epoch", *EPOCH_NAMES), row, strict=True))) for row in rows]
        summary = summary_of(config, rung, epochs, float(top1[-1]))
        run = f"{folder}/nano-{rung}-seed{seed}-{summary['identity'][:8]}"
        os.mkdir(run)
        for name, text in {
            "config.json": orjson.dumps(config, option=orjson.OPT_INDENT_2),
            "summary.json": orjson.dumps(summary, option=orjson.OPT_INDENT_2),
            "epochs.jsonl": b"\n".join(lines) + b"\n",
        }.items():
            with open(f"{run}/{name}", "wb") as file:
                file.write(text)


def base_config(name: str, epochs: int) -> dict[str, Any]:
    rung = next(rung for rung in ladder("nano") if rung.name == name)
    composed = OURS.compose("nano", rung.steps)
    return {
        "regime": "nano",
        "network": name,
        "rung": name,
        "steps": list(rung.steps),
        "road": OURS.road(regime="nano").to_json(),
        "model": "design",
        "design": asdict(rung.design),
        "recipe": OmegaConf.to_container(composed.recipe, resolve=True) | {"epochs": epochs},
        "data": {"name": "fashion_mnist_sample", "num_classes": 10, "subset": 1.0, "holdout": 0.0},
        "resolution": 32,
        "precision": "float32",
        "init": None,
        "micro_batch_size": 64,
        "sync_batch_norm": False,
    }


def summary_of(config: dict[str, Any], rung: str, epochs: int, top1: float) -> dict[str, Any]:
    series = digest([rung, config["differs"]])
    return {
        "status": "done",
        "reason": None,
        "identity": digest([series, config["seed"]]),
        "series": series,
        "seed": config["seed"],
        "study": "sweep" if config["differs"] else "ladder",
        **{"task": "classification", "metric": "top1"},
        **{"top1": top1, "top5": 98.9, "val_loss": 1.0, "top1_best": top1, "epoch_best": epochs},
        **{"macs": 6_400_000, "params": 386_000, "activations": 25_000, "evaluated_on": "test"},
        **{"train_images": 10_000, "evaluation_images": 10_000, "epochs_done": epochs, "epochs": epochs},
        **{"images_per_second": 1400.1, "seconds_per_epoch": 8.1, "train_seconds": 7.1, "wall_seconds": 9.1},
        **{"peak_memory_mb": 596.5, "device": "cpu", "threads": 1, "processes": 1, "accumulation": 1},
        **{"started": "2026-01-01T00:00:00+00:00", "finished": "2026-01-01T01:00:00+00:00", "host": "a", "gpus": None},
        "versions": {"python": "3.11.7", "torch": "2.9.0", "torchvision": "0.24.0", "timm": "1.0.22"},
        "git": {"commit": "0" * 40, "dirty": False},
    }


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=300, help="of each run")
    parser.add_argument("--plain", type=int, default=500, help="runs that the plain loop reads")
    parser.add_argument("--in", dest="folder", type=Path, help="where to write; by default where temporary files are")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        whole, half = Path(folder) / "whole", Path(folder) / "half"
        for path, runs in {whole: arguments.runs, half: arguments.runs // 2}.items():
            path.mkdir()
            write_runs(path, runs, arguments.epochs)
        measure(LOAD, half)  # compiles what is imported
        plain_runs = min(arguments.plain, arguments.runs)
        plain = measure(PLAIN, whole, plain_runs)
        measured = {
            what: (measure(code, half), measure(code, whole))
            for what, code in {"load": LOAD, "load + epochs": EPOCHS, "full report": REPORT}.items()
        }
    table = Table(title=f"{arguments.runs:,} runs of {arguments.epochs:,} epochs; each line a fresh process", box=None)
    for heading in ("", "half", "all runs", "all / half", "processor", "memory", "/ plain loop"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    scaled, processor = (time * arguments.runs / plain_runs for time in plain[:2])
    for what, (less, more) in measured.items():
        seconds = (f"{less.seconds:.1f} s", f"{more.seconds:.1f} s", f"{more.seconds / less.seconds:.2f}")
        seconds += (f"{more.processor_seconds:.1f} s",)
        table.add_row(what, *seconds, f"{more.mebibytes:,.0f} MiB", f"{more.seconds / scaled:.3f}")
    table.add_row("plain loop", "", f"{scaled:.0f} s", "", f"{processor:.0f} s", f"{plain.mebibytes:,.0f} MiB", "1")
    console.print(table)
    console.print(
        f"The plain loop read {plain_runs:,} runs in {plain.seconds:.1f} s; its times, not its memory, are scaled."
    )


if __name__ == "__main__":
    main()
