"""Whether training on a GPU is right, how fast it is, and what the host waits for: one command for a machine with one.

    python -m benchmarks.gpu --json gpu.json          # less than 9 minutes on one GPU; no network, no data set
    python -m benchmarks.gpu --parts precisions       # a part alone: --help names them
    python -m benchmarks.gpu --device cpu --quick     # whether every part runs, at tiny sizes: a minute or two

First checks, each through the training loop where it can be: small networks with BatchNorm and with LayerNorm are
trained for 18 steps, and the weights that they come to compared with those of float32 on the CPU, or of the same run
without what is checked. "measured" is the distance between the two over the distance that training has moved them, and
"allowed" 100 roundings of the precision. What is allowed also has 100 roundings of the weights themselves, in float32.

Then speeds at 224 px, in bf16: `experiments.training.loop.train` on batches of uint8 that were made before, in turns
with a bare step and with that of timm's train.py. A ratio is taken within a round; its median is shown, with the
smallest and the largest. Then a profile of `train`, and nano runs that share the GPU. Compiled networks come last:
nobody knows how long compilers take.

Each part is a process of its own and has a share of the minutes, so that one that fails or hangs stops no other. Its
results are printed when it ends and saved to --json as they come. The exit code is 1 if a check failed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import gpu_checks, gpu_speeds
from benchmarks.gpu_speeds import FULL, QUICK, Bench, Row, Say
from experiments.runtime.machine import cores, has_gpus


class Part(NamedTuple):
    run: Callable[[Bench, Say], None]
    weight: float
    """Of its share of the time that is left: about the seconds that it may take."""


CHECKS = {
    "precisions": Part(gpu_checks.precisions, 40),
    "fp16 scaling": Part(gpu_checks.scaling, 10),
    "fused": Part(gpu_checks.fused, 10),
    "erasing": Part(gpu_checks.erasing, 10),
    "cropping": Part(gpu_checks.cropping, 10),
    "compile": Part(gpu_checks.compiled, 50),
    "resume": Part(gpu_checks.resumed, 30),
    "gradient checkpointing": Part(gpu_checks.recomputed, 20),
}
MEASUREMENTS = {
    "ResNet-50": Part(partial(gpu_speeds.speed, network="ResNet-50"), 45),
    "ConvNeXt-T": Part(partial(gpu_speeds.speed, network="ConvNeXt-T"), 50),
    "profile": Part(gpu_speeds.profile, 30),
    "nano": Part(gpu_speeds.nano, 130),
    "ConvNeXt-T compiled": Part(partial(gpu_speeds.speed, network="ConvNeXt-T", compile=True), 90),
    "ResNet-50 compiled": Part(partial(gpu_speeds.speed, network="ResNet-50", compile=True), 90),
}
PARTS = CHECKS | MEASUREMENTS


def work(name: str, bench: Bench, pipe: Connection) -> None:
    """A part in a process of its own."""
    os.setsid()  # so that whatever it starts ends with it
    torch.set_num_threads(
        1 if bench.device.type == "cpu" else cores()
    )  # threads that wait for a busy core take minutes
    if bench.device.type == "cpu":
        torch.compile = partial(torch.compile, backend="aot_eager")  # traced, but without the minutes of a compiler
    try:
        PARTS[name].run(bench, pipe.send)
    except Exception as error:
        lines = str(error).splitlines() or [""]
        pipe.send({"what": "failed", "reason": f"{type(error).__name__}: {lines[0]}"[:300], "ok": False})


def rows_of(name: str, bench: Bench, seconds: float) -> Iterator[Row]:
    """The rows of a part as they come, for so long; the last says why if it did not end."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["experiments.launch.preload"])
    pipe, its_end = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(name, bench, its_end), name=name)
    process.start()
    its_end.close()
    deadline = time.monotonic() + seconds
    try:
        while pipe.poll(max(0.0, deadline - time.monotonic())):
            yield pipe.recv()
        yield {"what": "failed", "reason": f"it took more than its {seconds:.0f} s", "ok": False}
    except EOFError:
        process.join()
        if process.exitcode:
            yield {"what": "failed", "reason": f"its process ended with {process.exitcode}", "ok": False}
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()


def table(name: str, part: Row) -> Table:
    rows = part["rows"]
    table = Table(title=f"{name}, {part['seconds']:.0f} s", title_justify="left", box=box.SIMPLE_HEAD)
    columns = [*dict.fromkeys(key for row in rows for key in row)]
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(written(row.get(column, "")) for column in columns))
    return table


def written(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return str(value)


def describe(device: torch.device) -> str:
    if device.type == "cpu":
        return f"cpu, {cores()} cores"
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip().replace("\n", "; ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: whether it runs, not how fast")
    parser.add_argument("--minutes", type=float, default=8.5, help="for all parts together (8.5)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS], metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results, as they come")
    args = parser.parse_args()
    if args.device == "cuda" and not has_gpus():
        parser.error("there is no GPU here; --device cpu --quick shows that every part runs")
    if args.device == "cpu" and not args.quick:
        parser.error("--device cpu takes hours at full size; add --quick")
    device, sizes = (
        torch.device("cuda", 0) if args.device == "cuda" else torch.device("cpu"),
        QUICK if args.quick else FULL,
    )
    versions = {name: version(name) for name in ("torch", "timm")}
    results: Row = {"device": describe(device), "quick": args.quick} | versions | {"parts": {}}
    console = Console()
    console = Console(width=max(console.width, 110), highlight=False)
    console.print(", ".join([results["device"], *(f"{name} {one}" for name, one in versions.items())]))
    deadline = time.monotonic() + 60 * args.minutes
    for number, name in enumerate(args.parts):
        share = PARTS[name].weight / sum(PARTS[other].weight for other in args.parts[number:])
        began, rows = time.monotonic(), {}
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            for row in rows_of(name, Bench(device, sizes, Path(folder)), max(5.0, share * (deadline - began))):
                rows[row["what"]] = row
                results["parts"][name] = {"seconds": time.monotonic() - began, "rows": [*rows.values()]}
                if args.json:
                    args.json.write_text(json.dumps(results, indent=1) + "\n")
        if rows:
            console.print(table(name, results["parts"][name]))
    wrong = [
        name for name in CHECKS if name in results["parts"] for row in results["parts"][name]["rows"] if not row["ok"]
    ]
    if wrong:
        console.print(f"checks that failed: {', '.join(dict.fromkeys(wrong))}")
        sys.exit(1)


if __name__ == "__main__":
    main()
