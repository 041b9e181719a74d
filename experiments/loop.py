"""The training loop: one function, from top to bottom."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.checkpoint import Checkpoints
from experiments.data import Batch, Loader
from experiments.errors import SettingsError
from experiments.randomness import Purpose, derive, seed_all
from experiments.recipe import Objective, learning_rate, make_optimizer, set_learning_rate
from experiments.record import Record
from experiments.run import Run
from experiments.timm_names import PREFIX
from experiments.transforms import Finish
from roadmap.costs import count
from roadmap.network import build


class DivergedError(RuntimeError):
    """The loss is not finite."""


class StoppedError(RuntimeError):
    """The run was asked to stop, and has saved where it is."""


class Progress(Protocol):
    """Where a run tells how far it is."""

    def say(self, line: str) -> None: ...

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None: ...

    def epoch(self, row: dict[str, float]) -> None: ...


def train(run: Run, record: Record, progress: Progress, asked_to_stop: Callable[[], bool] = lambda: False) -> None:
    """Train and evaluate a run, and record it. A run that was stopped, by whatever, goes on from its last checkpoint,
    and ends with the weights and metrics, to the bit, that it would have had.

    Raises:
        DivergedError: at the first loss that is not finite.
        StoppedError: at the first step after `asked_to_stop`.
    """
    started = time.perf_counter()
    device = pick_device(run.device)
    data = Loader(run)
    finish = Finish(run.recipe, run.seed, device)
    seed_all(derive(Purpose.WEIGHTS, run.seed))
    network = make_network(run).to(device, memory_format=torch.channels_last)
    optimizer = make_optimizer(run.recipe, network)
    objective = Objective(run.recipe, run.data.num_classes)
    record.update(
        **cost_of(run),
        evaluated_on=data.evaluated_on,
        train_images=len(data.training),
        evaluation_images=len(data.evaluation),
        device=device_name(device),
        threads=torch.get_num_threads(),
    )
    steps_per_epoch, steps = data.steps_per_epoch, data.steps_per_epoch * run.recipe.epochs
    train_seconds = 0.0
    step, losses, seconds = 0, 0.0, 0.0  # optimizer steps of the run; summed losses and seconds of the epoch

    checkpoints = Checkpoints(run, progress.say)
    if state := checkpoints.load():
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        step, losses, seconds, train_seconds = (state[k] for k in ("step", "losses", "seconds", "train_seconds"))
        progress.say(f"going on after step {step} of {steps}")
    record.begin(state["epochs"] if state else [])

    def save() -> None:
        spent = {"losses": losses, "seconds": seconds, "train_seconds": train_seconds, "epochs": record.epochs}
        weights = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
        checkpoints.save(step, spent | weights)

    for epoch in range(len(record.epochs), run.recipe.epochs):
        epoch_started = time.perf_counter() - seconds
        network.train()
        for images, labels, samples in data.epoch(epoch, first=step - epoch * steps_per_epoch):
            lr = learning_rate(run.recipe, step, steps)
            set_learning_rate(optimizer, lr)
            images, labels = finish(images, samples), labels.to(device, non_blocking=True)
            seed_all(derive(Purpose.STEP, run.seed, step))

            optimizer.zero_grad()
            loss = objective(network, images, labels)
            loss.backward()
            optimizer.step()

            losses += (value := loss.item())
            if value - value != 0:  # nan or infinite
                raise DivergedError(f"the loss is {value} at step {step} of {steps} (learning rate {lr:.3g})")
            step += 1
            seconds = time.perf_counter() - epoch_started
            progress.step(epoch + 1, step - epoch * steps_per_epoch, steps_per_epoch, value)
            if asked_to_stop():
                save()
                raise StoppedError(f"stopped after step {step} of {steps}; the same command goes on from there")
            if checkpoints.due():
                save()

        train_seconds += seconds
        row = {"lr": optimizer.param_groups[0]["lr"], "train_loss": losses / steps_per_epoch}
        row |= evaluate(network, data.evaluation_batches(), finish)
        row["images_per_second"] = steps_per_epoch * run.recipe.batch_size / seconds
        row["seconds"] = time.perf_counter() - epoch_started
        record.epoch(**row)
        progress.epoch(record.epochs[-1])
        losses, seconds = 0.0, 0.0
        if epoch + 1 < run.recipe.epochs:
            save()

    save_weights(network, run.directory / "weights.pt")
    record.finish(
        "done",
        train_seconds=train_seconds,
        wall_seconds=time.perf_counter() - started,
        peak_memory_mb=peak_memory_mb(device),
    )
    checkpoints.clear()


@torch.inference_mode()
def evaluate(network: nn.Module, batches: Iterable[Batch], finish: Finish) -> dict[str, float]:
    """val_loss, top1 and top5 (percent) over all images of the batches, each counted once."""
    network.eval()
    total, loss, top1, top5 = 0, 0.0, 0, 0
    for images, labels, _ in batches:
        logits = network(finish(images)).float()
        labels = labels.to(logits.device)
        ranks = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        total += len(labels)
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        top1 += ranks[:, 0].sum().item()
        top5 += ranks.sum().item()
    return {"val_loss": loss / total, "top1": 100 * top1 / total, "top5": 100 * top5 / total}


def make_network(run: Run) -> nn.Module:
    """The network of the run's design, or timm's by its name with the recipe's stochastic depth."""
    if run.model == "design":
        return build(run.design, run.data.num_classes)
    import timm

    name = run.model.removeprefix(PREFIX)
    options = {"num_classes": run.data.num_classes, "drop_path_rate": run.design.drop_path or None}
    try:
        return timm.create_model(name, img_size=run.resolution, **options)
    except TypeError:  # convolutional networks take any size and don't know the argument
        pass
    try:
        return timm.create_model(name, **options)
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        raise SettingsError(
            f"{run.model} knows no stochastic depth, which the recipe asks for; add design.drop_path=0"
        ) from error


def cost_of(run: Run) -> dict[str, int]:
    with torch.device("meta"):
        network = make_network(run)
    try:
        return count(network, run.resolution)._asdict()
    except RuntimeError as error:
        raise SettingsError(f"{run.label} does not take images of {run.resolution} px: {error}") from error


def pick_device(name: str) -> torch.device:
    """auto: CUDA, else MPS, else CPU."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, is_there in available.items() if is_there)
    if not available[name]:
        raise SettingsError(f"device={name} is not available here; take device=auto")
    return torch.device(name)


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def peak_memory_mb(device: torch.device) -> float:
    """Of the GPU's allocator, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def save_weights(network: nn.Module, path: Path) -> None:
    """The state dict, as `torch.load(path, weights_only=True)` reads it, in place or not at all."""
    state: dict[str, Tensor] = {key: tensor.detach().cpu() for key, tensor in network.state_dict().items()}
    aside = path.with_suffix(".part")
    torch.save(state, aside)
    aside.replace(path)
