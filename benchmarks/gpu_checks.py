"""Whether training on a GPU is right: the checks of benchmarks/gpu.py."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.gpu_speeds import Bench, Row, Say, Silent, composed, prepared
from experiments.config.run import Run
from experiments.data.loader import Loader
from experiments.data.prefetch import prefetch
from experiments.data.transforms import Preprocess
from experiments.records.record import Record
from experiments.runtime.devices import autocast
from experiments.runtime.processes import Processes
from experiments.runtime.randomness import Purpose, derive, seed_all
from experiments.training.loop import StoppedError, train
from experiments.training.models import make_network
from experiments.training.recipe import make_optimizer, parameter_groups

Weights = dict[str, Tensor]

ROUNDINGS = 100
"""That may come together: 7 times as much as noise of a rounding on each product came to on a CPU."""
ROUNDING = {"float32": 2**-24, "tf32": 2**-11, "bf16": 2**-9, "fp16": 2**-11}
"""Half the distance from 1 to the next number."""
SMOOTH = {"BatchNorm": "step=[patchify_stem,gelu]", "LayerNorm": "rung=separate_downsampling"}
"""Networks without ReLU and max pooling, where a rounding decides which way a gradient goes."""


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
    """Batches as the network gets them, prepared while the network computes, compared with those of the CPU."""
    run = composed(
        "regime=resnet50", "recipe=modern", "recipe.random_erasing=1", f"resolution={bench.sizes.resolution}"
    )
    batches = prepared(run, bench.sizes.batch, 8, bench.device)
    here, there = (
        [[tensor.cpu() for tensor in one[:2]] for one in prefetch(batches, Preprocess(device))]
        for device in (bench.device, torch.device("cpu"))
    )
    pairs = [*zip(here, there, strict=True)]
    measured = max((one[0] - other[0]).abs().max().item() for one, other in pairs)
    labels = all(torch.equal(one[1], other[1]) for one, other in pairs)
    facts = {"measured": measured, "allowed": 2**-20, "labels": labels, "ok": labels and measured <= 2**-20}
    say({"what": f"{len(pairs)} batches of {bench.sizes.batch}"} | facts)


def cropping(bench: Bench, say: Say) -> None:
    """Batches cropped on the device, from images that lie there, beside those of the CPU: at 32 px equal, above it up
    to 2 of 255 apart."""
    for resolution, allowed in ((32, 2**-20), (48, 2.1 / 255 / 0.224)):
        size = (f"resolution={resolution}", "recipe.batch_size=32", "data.subset=0.1", "data.holdout=0.01")
        run = composed("regime=resnet50", "recipe=original", "data.cache=device", *size)
        here, there = (
            [one.images.cpu() for one in prefetch(Loader(run, Processes(device)).epoch(0), Preprocess(device))]
            for device in (bench.device, torch.device("cpu"))
        )
        measured = max((one - other).abs().max().item() for one, other in zip(here, there, strict=True))
        facts = {"measured": measured, "allowed": allowed, "ok": measured <= allowed}
        say({"what": f"{len(here)} batches of 32 at {resolution} px"} | facts)


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
        everything = ("regime=resnet50", "recipe=convnext", "resolution=32", "recipe.ema_decay=0.9")
        run = small(bench, override, *everything, "design.drop_path=0.1", "precision=bf16")
        expected, again = trained(bench, run), trained(bench, run)
        stopped, looks = replace(run, runs=bench.folder / f"stopped-{norm}"), count(1)
        with suppress(StoppedError), patch("experiments.training.sync.SECONDS_APART", 0):  # a look after every step
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
