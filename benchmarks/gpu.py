"""Whether training on a GPU is right, how fast it is, and what the host waits for: one command for a machine with one.

    python -m benchmarks.gpu --json gpu.json          # less than 9 minutes on one GPU; no network, no data set
    python -m benchmarks.gpu --parts precisions       # a part alone: --help names them
    python -m benchmarks.gpu --device cpu --quick     # whether every part runs, at tiny sizes: a minute or two

First checks, each through the training loop where it can be: small networks with BatchNorm and with LayerNorm are
trained for 18 steps, and the weights that they come to compared with those of float32 on the CPU, or of the same run
without what is checked. "measured" is the distance between the two over the distance that training has moved them, and
"allowed" 100 roundings of the precision. What is allowed also has 100 roundings of the weights themselves, in float32.

Then speeds at 224 px, in bf16: `experiments.loop.train` on batches of uint8 that were made before, in turns with a bare
step and with that of timm's train.py. A ratio is taken within a round; its median is shown, with the smallest and the
largest. Then a profile of `train`, and nano runs that share the GPU. Compiled networks come last: nobody knows how long
compilers take.

Each part is a process of its own and has a share of the minutes, so that one that fails or hangs stops no other. Its
results are printed when it ends and saved to --json as they come. The exit code is 1 if a check failed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from itertools import count, cycle, islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import hydra
import timm
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from timm.data.loader import PrefetchLoader
from timm.data.mixup import mixup_target
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.utils import AverageMeter, ModelEmaV3
from torch import Tensor, nn

from experiments.batch import Batch, Erased
from experiments.devices import autocast, set_precision
from experiments.loop import StoppedError, train
from experiments.machine import cores, has_gpus
from experiments.models import make_network
from experiments.prefetch import ready
from experiments.processes import Processes
from experiments.randomness import Purpose, derive, seed_all
from experiments.recipe import make_average, make_optimizer, parameter_groups
from experiments.record import Record
from experiments.requested import spelled_out
from experiments.run import Run, to_run
from experiments.settings import register
from experiments.transforms import Erasing, Finish
from roadmap.conf import CONF, OURS

Row = dict[str, Any]
Weights = dict[str, Tensor]

ROUNDINGS = 100
"""That may come together: 7 times as much as noise of a rounding on each product came to on a CPU."""
ROUNDING = {"float32": 2**-24, "tf32": 2**-11, "bf16": 2**-9, "fp16": 2**-11}
"""Half the distance from 1 to the next number."""
SMOOTH = {"BatchNorm": "step=[patchify_stem,gelu]", "LayerNorm": "rung=separate_downsampling"}
"""Networks without ReLU and max pooling, where a rounding decides which way a gradient goes."""
CLASSES = 1000


class Sizes(NamedTuple):
    width: int
    """Of the networks of the checks."""
    resolution: int
    batch: int
    steps: int
    """Of a turn."""
    rounds: int
    networks: dict[str, tuple[tuple[str, ...], str]]
    """{name: (overrides of ours, timm's name)}"""
    side_by_side: tuple[int, ...]
    nano: tuple[str, ...]
    """Overrides of a nano run."""


FULL = Sizes(
    *(16, 224, 128, 50, 3),
    {
        "ResNet-50": (("design=resnet50",), "resnet50"),
        "ConvNeXt-T": (CONVNEXT := ("design=convnext_tiny", "recipe=convnext"), "convnext_tiny"),
    },
    *((1, 4, 8, 16), ("recipe.epochs=10",)),
)
TINY = ("design.width=8", "design.depths=[1,1,1,1]")
QUICK = Sizes(
    *(8, 64, 4, 3, 2),
    {"ResNet-50": (TINY, "test_resnet"), "ConvNeXt-T": ((*CONVNEXT, *TINY), "test_convnext")},
    *((1, 2), ("recipe.epochs=1", "data.subset=0.05", "data.holdout=0.02", "threads=1")),
)


class Bench(NamedTuple):
    device: torch.device
    sizes: Sizes
    folder: Path


Say = Callable[[Row], None]


# Runs.


class Silent:
    """A run's progress that nobody follows."""

    def say(self, line: str) -> None: ...

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None: ...

    def epoch(self, row: dict[str, float]) -> None: ...


def composed(*overrides: str) -> Run:
    register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return to_run(hydra.compose("config", spelled_out(overrides, OURS)))


def small(bench: Bench, *overrides: str) -> Run:
    """18 steps in 2 epochs, evaluated on 400 held-out images."""
    network = (
        f"design.width={bench.sizes.width}",
        "design.depths=[1,1,1,1]",
        "design.layer_scale=1",
        "design.drop_path=0",
    )
    data = ("data.subset=0.04", "data.holdout=0.04", "recipe.epochs=2", "recipe.batch_size=40", "recipe.lr=1e-3")
    return composed(*network, *data, "precision=float32", *overrides)


def trained(bench: Bench, run: Run, device: torch.device | None = None) -> Weights:
    return go_on(bench, replace(run, runs=Path(tempfile.mkdtemp(dir=bench.folder))), device)


def go_on(
    bench: Bench, run: Run, device: torch.device | None = None, stop: Callable[[], bool] = lambda: False
) -> Weights:
    """The weights that a run ends with, and their average's.

    Raises:
        StoppedError: if it was stopped.
    """
    record = Record(run)
    try:
        train(run, record, Silent(), Processes(device or bench.device), stop)
    except StoppedError:
        record.finish("unfinished")
        raise
    weights, average = (
        torch.load(path, weights_only=True) if (path := run.directory / name).exists() else {}
        for name in ("weights.pt", "weights_ema.pt")
    )
    return weights | {f"ema.{name}": tensor for name, tensor in average.items()}


def initial(run: Run) -> Weights:
    seed_all(derive(Purpose.WEIGHTS, run.seed))
    return make_network(run, 10).state_dict()


def compared(what: str, start: Weights, expected: Weights, weights: Weights, precision: str = "float32") -> Row:
    """How far weights are from those expected, both trained from `start`."""

    def vector(of: Weights) -> Tensor:
        names = [name for name, tensor in start.items() if tensor.is_floating_point() and "running" not in name]
        return torch.cat([of[name].double().cpu().flatten() for name in names])

    first, right, here = vector(start), vector(expected), vector(weights)
    moved = (right - first).norm()
    measured = ((here - right).norm() / moved).item()
    allowed = ROUNDINGS * (ROUNDING[precision] + ROUNDING["float32"] * (first.norm() / moved).item())
    return {"what": what, "measured": measured, "allowed": allowed, "to the bit": is_equal(weights, expected)} | {
        "ok": measured <= allowed  # not so if it is not a number
    }


def is_equal(weights: Weights, expected: Weights) -> bool:
    return weights.keys() == expected.keys() and all(torch.equal(weights[name], expected[name]) for name in weights)


# Checks.


def precisions(bench: Bench, say: Say) -> None:
    """Each precision beside float32 on the CPU."""
    gently = partial(torch.amp.GradScaler, init_scale=2.0**8)  # a step that is skipped would be no rounding
    for norm, override in SMOOTH.items():
        run = small(bench, override)
        expected = trained(bench, run, torch.device("cpu"))
        for precision in ROUNDING:
            with patch("torch.amp.GradScaler", gently):
                weights = trained(bench, replace(run, precision=precision))
            say(compared(f"{precision}, {norm}", initial(run), expected, weights, precision))


def scaling(bench: Bench, say: Say) -> None:
    """A step whose gradient overflows in fp16 is skipped, the first one too; the next is not."""
    for name in ("sgd", "adamw"):
        torch.manual_seed(0)
        network = nn.Linear(64, 64).to(bench.device)
        optimizer = make_optimizer(replace(small(bench).recipe, optimizer=name), network, scaled=True)
        scaler = torch.amp.GradScaler(bench.device.type)
        weights, scales = [network.weight.detach().clone()], [scaler.get_scale()]
        for overflows in (True, False):
            optimizer.zero_grad()
            with autocast("fp16", bench.device):
                loss = network(torch.ones(8, 64, device=bench.device)).square().mean()
            scaler.scale(loss).backward()
            if overflows:
                network.weight.grad[3, 5] = torch.inf
            scaler.step(optimizer)
            scaler.update()
            weights.append(network.weight.detach().clone())
            scales.append(scaler.get_scale())
        before, skipped, after = weights
        moved = (after - skipped).abs().max().item()
        facts = {"skipped": torch.equal(before, skipped), "scale": scales, "moved": moved}
        ok = facts["skipped"] and scales[1] == scales[0] / 2 and 0 < moved < 1
        say({"what": f"{name}, fp16"} | facts | {"ok": ok})


def fused(bench: Bench, say: Say) -> None:
    """The optimizers of our recipes beside torch's plain ones, on equal gradients."""
    run = small(bench, "recipe=modern", "recipe.lr=0.01")
    plain = {"sgd": partial(torch.optim.SGD, momentum=0.9), "adamw": torch.optim.AdamW}
    for name, make in plain.items():
        recipe = replace(run.recipe, optimizer=name, momentum=0.9)
        ends = []
        for is_ours in (True, False):
            seed_all(0)
            network = make_network(run, 10).to(bench.device, memory_format=torch.channels_last)
            start = {key: tensor.clone() for key, tensor in network.state_dict().items()}
            groups = parameter_groups(recipe, network)
            optimizer = (
                make_optimizer(recipe, network) if is_ours else make(groups, recipe.lr, foreach=False, fused=False)
            )
            for _ in range(10):
                for parameter in network.parameters():
                    parameter.grad = torch.randn_like(parameter)
                optimizer.step()
            ends.append(network.state_dict())
        say(compared(f"fused {name}", start, ends[1], ends[0]))


def erasing(bench: Bench, say: Say) -> None:
    """Batches as the network gets them, made ready one ahead, beside those of the CPU."""
    run = composed(
        "regime=resnet50", "recipe=modern", "recipe.random_erasing=1", f"resolution={bench.sizes.resolution}"
    )
    batches = prepared(run, bench.sizes.batch, 8, bench.device)
    here, there = (
        [[tensor.cpu() for tensor in one[:2]] for one in ready(batches, Finish(device))]
        for device in (bench.device, torch.device("cpu"))
    )
    pairs = [*zip(here, there, strict=True)]
    measured = max((one[0] - other[0]).abs().max().item() for one, other in pairs)
    labels = all(torch.equal(one[1], other[1]) for one, other in pairs)
    facts = {"measured": measured, "allowed": 2**-20, "labels": labels, "ok": labels and measured <= 2**-20}
    say({"what": f"{len(pairs)} batches of {bench.sizes.batch}"} | facts)


def compiled(bench: Bench, say: Say) -> None:
    """torch.compile beside eager."""
    for norm, override in SMOOTH.items():
        run = small(bench, override)
        weights = [trained(bench, replace(run, compile=compile)) for compile in (False, True)]
        say(compared(f"compiled, {norm}", initial(run), *weights))


def recomputed(bench: Bench, say: Say) -> None:
    """Gradient checkpointing beside none, with stochastic depth."""
    for norm, override in SMOOTH.items():
        run = small(bench, override, "design.drop_path=0.5")
        weights = [trained(bench, replace(run, gradient_checkpointing=again)) for again in (False, True)]
        say(compared(f"recomputed, {norm}", initial(run), *weights))


def resumed(bench: Bench, say: Say) -> None:
    """A run that was stopped within an epoch, beside one that was not, in bf16 and with all that is random."""
    for norm, override in SMOOTH.items():
        everything = ("regime=resnet50", "recipe=convnext", "resolution=32", "recipe.ema=0.9")
        run = small(bench, override, *everything, "design.drop_path=0.1", "precision=bf16")
        expected, again = trained(bench, run), trained(bench, run)
        stopped, looks = replace(run, runs=bench.folder / f"stopped-{norm}"), count(1)
        with suppress(StoppedError), patch("experiments.looks.APART", 0):  # a look after every step
            go_on(bench, stopped, stop=lambda looks=looks: next(looks) == 4)
        if not [*stopped.directory.glob("checkpoints/step-00000004.pt")]:
            raise RuntimeError("the run did not stop after step 4")
        weights = go_on(bench, stopped)
        row = compared(f"resumed, {norm}", initial(run), expected, weights, "bf16")
        twice = compared("", initial(run), expected, again)
        if twice["to the bit"]:
            row |= {"allowed": 0.0, "ok": row["to the bit"]}
        else:
            row["allowed"] = max(row["allowed"], 10 * twice["measured"])
            row["ok"] = row["measured"] <= row["allowed"]
        say(row | {"same run twice": "to the bit" if twice["to the bit"] else f"{twice['measured']:.1e}"})


# Speeds.


def prepared(run: Run, size: int, number: int, device: torch.device) -> list[Batch]:
    """Batches of noise as loader workers hand them over: uint8, channels-last, pinned for a GPU, erasing drawn."""
    pin = Tensor.pin_memory if device.type == "cuda" else Tensor.clone
    erasing = Erasing(run.recipe, run.resolution, 0) if run.recipe.random_erasing else None
    torch.manual_seed(0)
    batches = []
    for first in range(0, size * number, size):
        images = pin(torch.randint(256, (size, run.resolution, run.resolution, 3), dtype=torch.uint8))
        labels = pin(torch.randint(CLASSES, (size,)))
        samples = [(0, first + index) for index in range(size)]
        erased = erasing and Erased(*map(pin, erasing(samples)))
        batches.append(Batch(images.permute(0, 3, 1, 2), labels, samples, erased=erased))
    return batches


class Prepared:
    """Takes the place of `experiments.data.Loader`, and of its evaluation."""

    num_classes, streamed, fingerprint, evaluated_on = CLASSES, False, "", "holdout"

    def __init__(self, batches: list[Batch], steps: int) -> None:
        self.made, self.steps_per_epoch = batches, steps
        self.training_images = steps * len(batches[0].labels)
        self.broken: set[str] = set()
        self.evaluation = self

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        return islice(cycle(self.made), first, self.steps_per_epoch)

    def __len__(self) -> int:
        return len(self.made[0].labels)

    def outcomes(self) -> None: ...

    def batches(self) -> Iterator[Batch]:
        return iter(self.made[:1])


Turn = Callable[[int], None]
"""Trains so many steps."""


def bare(run: Run, batch: Batch, device: torch.device) -> Turn:
    """A training step alone, on a batch that is ready on the device."""
    seed_all(0)
    network = make_network(run, CLASSES).to(device, memory_format=torch.channels_last).train()
    optimizer, average = make_optimizer(run.recipe, network), make_average(run.recipe, network)
    objective = run.task.objective(run.recipe, CLASSES)
    forward = torch.compile(network) if run.compile else network
    images, labels, _ = next(ready([batch], Finish(device)))

    def turn(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            with autocast(run.precision, device):
                loss = objective(forward, images, labels)
            loss.backward()
            optimizer.step()
            if average:
                average.update(network)

    return turn


def timms(run: Run, name: str, batches: Sequence[Batch], device: torch.device) -> Turn:
    """timm's network trained as timm's train.py does on one GPU, with --channels-last --amp --amp-dtype bfloat16
    --pin-mem, the recipe's options, and --torchcompile if the run compiles. It is not in timm's package: this has
    what it does for each batch. Its loader normalises and erases on the device, one batch ahead; batches come mixed
    from its loader workers; its optimizer is torch's choice, not fused; it reads the loss after each step."""
    seed_all(0)
    recipe, mixes = run.recipe, run.recipe.mixup or run.recipe.cutmix
    model = timm.create_model(name, num_classes=CLASSES, drop_path_rate=run.design.drop_path)
    model.to(device, memory_format=torch.channels_last).train()
    options = {"momentum": recipe.momentum} if recipe.optimizer == "sgd" else {"betas": tuple(recipe.betas)}
    optimizer = create_optimizer_v2(model, recipe.optimizer, recipe.lr, recipe.weight_decay, **options)
    average = ModelEmaV3(model, recipe.ema) if recipe.ema else None
    loss_fn = SoftTargetCrossEntropy() if mixes else nn.CrossEntropyLoss()
    forward = torch.compile(model) if run.compile else model
    made = []
    for images, labels, *_ in batches:
        target = mixup_target(labels, CLASSES, 0.7, recipe.label_smoothing) if mixes else labels
        pin = Tensor.pin_memory if device.type == "cuda" else Tensor.clone
        made.append((pin(images.contiguous()), pin(target)))
    erasing = {"re_prob": recipe.random_erasing, "re_mode": recipe.erasing_mode, "re_count": recipe.erasing_count}
    losses, seconds = AverageMeter(), AverageMeter()

    def turn(steps: int) -> None:
        loader = PrefetchLoader([*islice(cycle(made), steps)], device=device, **erasing)
        began = time.time()
        optimizer.zero_grad()
        for images, target in loader:
            images = images.contiguous(memory_format=torch.channels_last)
            with autocast(run.precision, device):
                loss = loss_fn(forward(images), target)
            loss.backward()
            optimizer.step()
            losses.update(loss.item(), len(images))
            optimizer.zero_grad()
            if average:
                average.update(model)
            seconds.update(time.time() - began)
            began = time.time()

    return turn


class Rounds(Silent):
    """After each epoch of a run, everybody else has a turn of as many steps. The first round warms up."""

    def __init__(self, bench: Bench, turns: dict[str, Turn], prepare: dict[str, Callable[[], None]], say: Say) -> None:
        self.bench, self.turns, self.prepare, self.say_row = bench, turns, prepare, say
        self.rates: dict[str, list[float]] = {name: [] for name in ("train()", *turns)}
        self.order: list[str] = []

    def epoch(self, row: dict[str, float]) -> None:
        sizes, is_first = self.bench.sizes, not self.order
        self.order = self.order[1:] + self.order[:1] or [*self.turns]
        for name in self.order:
            self.prepare[name]()
            synchronize(self.bench.device)
            began = time.perf_counter()
            self.turns[name](3 if is_first else sizes.steps)
            synchronize(self.bench.device)
            if not is_first:
                self.rates[name].append(sizes.batch * sizes.steps / (time.perf_counter() - began))
        self.prepare["train()"]()
        if not is_first:
            self.rates["train()"].append(row["images_per_second"])
            for name, rates in self.rates.items():
                ratios = [ours / other for ours, other in zip(self.rates["train()"], rates, strict=True)]
                row = {"what": name, "images/s": statistics.median(rates)}
                if name != "train()":
                    row |= {"train() over it": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
                self.say_row(row)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def flags(run: Run, device: torch.device, *, as_timm: bool = False, benchmark: bool = False) -> None:
    """What a process is set to for a turn: as `train` sets it, or timm's train.py, or with cuDNN's benchmark."""
    set_precision("tf32" if as_timm else run.precision, device)
    torch.backends.cudnn.benchmark = as_timm or benchmark


def speed(bench: Bench, say: Say, network: str, compile: bool = False) -> None:
    """`train` beside a bare step and timm's."""
    sizes, device = bench.sizes, bench.device
    overrides, name = sizes.networks[network]
    how = ("precision=bf16", f"compile={str(compile).lower()}", f"recipe.epochs={sizes.rounds + 1}", "recipe.lr=1e-4")
    size = (f"recipe.batch_size={sizes.batch}", f"micro_batch_size={sizes.batch}", f"resolution={sizes.resolution}")
    run = composed("regime=resnet50", *overrides, *how, *size, f"runs={bench.folder}")
    batches = prepared(run, sizes.batch, 4, device)
    turns = {"bare step": bare(run, batches[0], device), "timm's train.py": timms(run, name, batches, device)}
    as_ours, as_timm = partial(flags, run, device), partial(flags, run, device, as_timm=True)
    prepare = {"train()": as_ours, "bare step": as_ours, "timm's train.py": as_timm}
    if not compile:
        turns["bare step, cudnn.benchmark"] = bare(run, batches[0], device)
        prepare["bare step, cudnn.benchmark"] = partial(flags, run, device, benchmark=True)
    with patch("experiments.loop.Loader", lambda *_: Prepared(batches, sizes.steps)):
        train(run, Record(run), Rounds(bench, turns, prepare, say), Processes(device))


# What the host waits for.


def profile(bench: Bench, say: Say) -> None:
    """Steps of the second epoch of `train`: ConvNeXt-T on prepared batches, and a nano run on images on the device."""
    sizes = bench.sizes
    size = (f"recipe.batch_size={sizes.batch}", f"micro_batch_size={sizes.batch}", f"resolution={sizes.resolution}")
    how = ("recipe.epochs=2", "recipe.lr=1e-4", f"runs={bench.folder}", "precision=bf16")
    large = composed("regime=resnet50", *sizes.networks["ConvNeXt-T"][0], *size, *how)
    nano = composed("rung=separate_downsampling", "data.cache=device", "data.subset=0.2", "data.holdout=0.02", *how)
    batches = prepared(large, sizes.batch, 4, bench.device)
    steps = min(20, sizes.steps - 1)
    for what, run, substitutes in (
        ("ConvNeXt-T", large, {"Loader": lambda *_: Prepared(batches, steps + 10)}),
        ("nano", nano, {}),
    ):
        trace = bench.folder / "trace.json"
        with patch.multiple("experiments.loop", ready=traced(trace, first=5, steps=steps), **substitutes):
            train(run, Record(run), Silent(), Processes(bench.device))
        for row in waits(json.loads(trace.read_text())["traceEvents"], steps):
            say(row | {"what": f"{what}: {row['what']}"})


def traced(trace: Path, first: int, steps: int) -> Callable:
    """Takes the place of `experiments.prefetch.ready`: has torch trace steps of the second epoch."""
    epochs = count()

    def ready_and_traced(batches: Iterator[Batch], finish: Finish) -> Iterator:
        profiler = torch.profiler.profile() if next(epochs) == 1 else None
        for step, batch in enumerate(ready(batches, finish)):
            if profiler and step == first:
                profiler.start()
            if profiler and step == first + steps:
                profiler.stop()
                profiler.export_chrome_trace(str(trace))
            yield batch

    return ready_and_traced


ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
CALLS = ("cuda_runtime", "cuda_driver")
LOOKS = ("aten::item", "aten::_local_scalar_dense", "aten::nonzero")
"""Operations after which the host knows a value on the device."""


def waits(events: list[dict], steps: int) -> Iterator[Row]:
    """From a trace's events: how long the device is idle, which copies go through memory that is not pinned, how often
    the host looks at a value, and the calls of CUDA that take the host longest, with the operation that makes them."""
    events = [event for event in events if event.get("ph") == "X"]
    on_device = sorted((event["ts"], event["ts"] + event["dur"]) for event in events if event.get("cat") in ON_DEVICE)
    if on_device:
        busy, end = 0.0, on_device[0][0]
        for start, stop in on_device:
            busy += max(0.0, stop - max(start, end))
            end = max(end, stop)
        whole = end - on_device[0][0]
        yield {"what": "device idle", "ms per step": (whole - busy) / 1e3 / steps, "share": 1 - busy / whole}
    names = Counter(event["name"] for event in events if "Pageable" in event["name"] or event["name"] in LOOKS)
    for name, number in names.items():
        yield {"what": name, "per step": number / steps}
    operations: dict[int, list] = defaultdict(list)  # {thread: of each operation (start, end, name)}
    for event in sorted((event for event in events if event.get("cat") == "cpu_op"), key=lambda event: event["ts"]):
        operations[event["tid"]].append((event["ts"], event["ts"] + event["dur"], event["name"]))
    calls: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") in CALLS:
            own = operations[event["tid"]]
            before = own[max(0, (position := bisect_right(own, (event["ts"],))) - 100) : position]
            inside = next((name for _, end, name in reversed(before) if end >= event["ts"] + event["dur"]), "")
            within = f" in {inside}" if inside and "Launch" not in event["name"] else ""
            calls[event["name"] + within].append(event["dur"])
    for name, durations in sorted(calls.items(), key=lambda item: -sum(item[1]))[:8]:
        yield {"what": name, "ms per step": sum(durations) / 1e3 / steps, "per step": len(durations) / steps}


# Runs side by side.


def nano(bench: Bench, say: Say) -> None:
    """Nano runs that share the GPU: images/s of training, evaluation not counted, summed over them."""
    for jobs in bench.sizes.side_by_side:
        runs = bench.folder / f"{jobs}-side-by-side"
        setting = "runs_per_gpu" if bench.device.type == "cuda" else "jobs"
        seeds = ",".join(map(str, range(jobs)))
        overrides = ("rung=separate_downsampling", "data.cache=device", *bench.sizes.nano)
        words = [sys.executable, "-m", "experiments.train", "-m", *overrides, f"seed={seeds}", f"runs={runs}"]
        words += [f"device={bench.device.type}", f"hydra.launcher.{setting}={jobs}"]
        began = time.perf_counter()
        ended = subprocess.run(words, capture_output=True, text=True)
        seconds = time.perf_counter() - began
        lines = [line for line in (ended.stdout + "\n" + ended.stderr).splitlines() if line.strip()]
        if ended.returncode:
            raise RuntimeError(f"{jobs} side by side: {lines[-1] if lines else ended.returncode}")
        summaries = [json.loads(path.read_text()) for path in runs.glob("*/summary.json")]
        rates = [summary["images_per_second"] for summary in summaries]
        facts = {"images/s": sum(rates), "slowest": min(rates), "seconds": seconds, "launcher": lines[0].strip()}
        say({"what": f"{len(rates)} side by side"} | facts)


# All of it.


class Part(NamedTuple):
    run: Callable[[Bench, Say], None]
    weight: float
    """Of its share of the time that is left: about the seconds that it may take."""


CHECKS = {
    "precisions": Part(precisions, 40),
    "fp16 scaling": Part(scaling, 10),
    "fused": Part(fused, 10),
    "erasing": Part(erasing, 10),
    "compile": Part(compiled, 50),
    "resume": Part(resumed, 30),
    "gradient checkpointing": Part(recomputed, 20),
}
MEASUREMENTS = {
    "ResNet-50": Part(partial(speed, network="ResNet-50"), 45),
    "ConvNeXt-T": Part(partial(speed, network="ConvNeXt-T"), 50),
    "profile": Part(profile, 30),
    "nano": Part(nano, 130),
    "ConvNeXt-T compiled": Part(partial(speed, network="ConvNeXt-T", compile=True), 90),
    "ResNet-50 compiled": Part(partial(speed, network="ResNet-50", compile=True), 90),
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
    context.set_forkserver_preload(["experiments.warm"])
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
    asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    return subprocess.run(asked, capture_output=True, text=True).stdout.strip().replace("\n", "; ")


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
