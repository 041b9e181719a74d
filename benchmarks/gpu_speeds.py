"""How fast training on a GPU is, and what the host waits for: the measurements of benchmarks/gpu.py."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import hydra
import timm
import torch
from timm.data.loader import PrefetchLoader
from timm.data.mixup import mixup_target
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.utils import AverageMeter, ModelEmaV3
from torch import Tensor, nn

from experiments.config.overrides import with_steps
from experiments.config.run import Run, to_run
from experiments.config.settings import register
from experiments.data.batch import Batch, Erased
from experiments.data.prefetch import prefetch
from experiments.data.transforms import Erasing, Preprocess
from experiments.records.record import Record
from experiments.runtime.devices import autocast, set_precision
from experiments.runtime.processes import Processes
from experiments.runtime.randomness import seed_all
from experiments.training.loop import train
from experiments.training.models import make_network
from experiments.training.recipe import make_average, make_optimizer
from experiments.training.tasks.classification import Objective
from roadmap.conf import CONF, OURS

Row = dict[str, Any]

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


class Silent:
    """A run's progress that nobody follows."""

    def say(self, line: str) -> None: ...

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None: ...

    def epoch(self, row: dict[str, float]) -> None: ...


def composed(*overrides: str) -> Run:
    register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return to_run(hydra.compose("config", with_steps(overrides, OURS)))


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
    """Takes the place of `experiments.data.loader.Loader`, and of its evaluation."""

    num_classes, class_names, resumes_within_epochs, evaluated_on = CLASSES, None, True, "holdout"

    def __init__(self, batches: list[Batch], steps: int) -> None:
        self.made, self.steps_per_epoch = batches, steps
        self.training_images = steps * len(batches[0].labels)
        self.evaluation = self

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        return islice(cycle(self.made), first, self.steps_per_epoch)

    def __len__(self) -> int:
        return len(self.made[0].labels)

    def state_dict(self) -> dict:
        return {}

    def report_broken(self) -> int:
        return 0

    def correct_images(self) -> None: ...

    def batches(self) -> Iterator[Batch]:
        return iter(self.made[:1])


Turn = Callable[[int], None]
"""Trains so many steps."""


def bare(run: Run, batch: Batch, device: torch.device) -> Turn:
    """A training step alone, on a batch that is ready on the device."""
    seed_all(0)
    network = make_network(run, CLASSES).to(device, memory_format=torch.channels_last).train()
    optimizer, average = make_optimizer(run.recipe, network), make_average(run.recipe, network)
    objective = Objective(run.recipe, CLASSES)
    forward = torch.compile(network) if run.compile else network
    images, labels, _ = next(prefetch([batch], Preprocess(device)))

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
    average = ModelEmaV3(model, recipe.ema_decay) if recipe.ema_decay else None
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


def speed(bench: Bench, say: Say, network: str, compile: bool = False) -> None:
    """`train` beside a bare step and timm's."""
    sizes, device = bench.sizes, bench.device
    overrides, name = sizes.networks[network]
    how = ("precision=bf16", f"compile={str(compile).lower()}", f"recipe.epochs={sizes.rounds + 1}", "recipe.lr=1e-4")
    size = (f"recipe.batch_size={sizes.batch}", f"micro_batch_size={sizes.batch}", f"resolution={sizes.resolution}")
    run = composed("regime=resnet50", *overrides, *how, *size, f"runs={bench.folder}")
    batches = prepared(run, sizes.batch, 4, device)
    turns = {"bare step": bare(run, batches[0], device), "timm's train.py": timms(run, name, batches, device)}
    as_ours, as_timm = partial(set_precision, run.precision, device), partial(set_precision, "tf32", device)
    prepare = {"train()": as_ours, "bare step": as_ours, "timm's train.py": as_timm}
    with patch("experiments.training.loop.Loader", lambda *_: Prepared(batches, sizes.steps)):
        train(run, Record(run), Rounds(bench, turns, prepare, say), Processes(device))


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
        with patch.multiple("experiments.training.loop", prefetch=traced(trace, first=5, steps=steps), **substitutes):
            train(run, Record(run), Silent(), Processes(bench.device))
        for row in waits(json.loads(trace.read_text())["traceEvents"], steps):
            say(row | {"what": f"{what}: {row['what']}"})


def traced(trace: Path, first: int, steps: int) -> Callable:
    """Takes the place of `experiments.data.prefetch.prefetch`: has torch trace steps of the second epoch."""
    epochs = count()

    def ready_and_traced(batches: Iterator[Batch], preprocess: Preprocess) -> Iterator:
        profiler = torch.profiler.profile() if next(epochs) == 1 else None
        for step, batch in enumerate(prefetch(batches, preprocess)):
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
