"""The training loop: one function, from top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn

from experiments.config.run import Run
from experiments.data.loader import Loader
from experiments.data.prefetch import prefetch
from experiments.data.transforms import Preprocess
from experiments.errors import StoppedError
from experiments.records.record import Record
from experiments.runtime.devices import autocast, device_name, peak_memory_mb, set_precision
from experiments.runtime.processes import Processes
from experiments.runtime.randomness import Purpose, derive, seed_all
from experiments.training.checkpoint import Checkpoints
from experiments.training.median_stopping import stop_if_hopeless
from experiments.training.models import cost_of, initial_network, save_weights
from experiments.training.recipe import learning_rate, make_average, make_optimizer, set_learning_rate
from experiments.training.sync import SyncPoints
from experiments.training.tasks import TASKS
from roadmap.common.statuses import Status


class DivergedError(RuntimeError):
    """The loss is not finite."""


class Progress(Protocol):
    """What a run reports its progress to."""

    def say(self, line: str) -> None: ...

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None: ...

    def epoch(self, row: dict[str, float]) -> None: ...


def train(
    run: Run,
    record: Record,
    progress: Progress,
    processes: Processes,
    stop_requested: Callable[[], bool] = lambda: False,
) -> None:
    """Train and evaluate a run, and record it. A run that was stopped, by whatever, resumes from its last checkpoint,
    and ends with the weights and metrics, to the bit, that it would have had.

    Raises:
        SettingsError: if the run is impossible with these data, this network or this device.
        DivergedError: at the first synchronization after a loss that is not finite, or after such an evaluation.
        HopelessError: after an epoch that `stop_below` does not let pass.
        StoppedError: at the first synchronization after `stop_requested`, of any process.
    """
    started = time.perf_counter()
    device = processes.device
    set_precision(run.precision, device)
    precision = partial(autocast, run.precision, device)
    data = Loader(run, processes, progress.say, stop_requested)
    preprocess = Preprocess(device)
    network = initial_network(run, data.num_classes, processes, progress.say)
    optimizer = make_optimizer(run.recipe, network, scaled=run.precision == "fp16")
    scaler = torch.amp.GradScaler(device.type, enabled=run.precision == "fp16")
    average = make_average(run.recipe, network)
    task = TASKS[run.task.name]
    objective = task.Objective(run.recipe, data.num_classes)
    steps_per_epoch, steps = data.steps_per_epoch, data.steps_per_epoch * run.recipe.epochs
    record.update(
        **cost_of(run, data.num_classes),
        evaluated_on=data.evaluated_on,
        train_images=data.training_images,
        evaluation_images=len(data.evaluation),
        classes=data.num_classes,
        device=device_name(device),
        processes=processes.world,
        accumulation=run.split.accumulation,
        threads=torch.get_num_threads(),
    )

    record.class_names(data.class_names)

    step, train_seconds = 0, 0.0  # optimizer steps of the run, and seconds of its finished epochs' steps
    losses, seconds = 0.0, 0.0  # the epoch's: sum of its steps' losses, and seconds
    checkpoints = Checkpoints(run, progress.say, processes)
    stateful: dict[str, Any] = {"network": network, "optimizer": optimizer, "scaler": scaler}
    stateful |= {"average": average} if average else {}
    if state := checkpoints.load():
        for name, part in stateful.items():
            part.load_state_dict(state[name])
        step, losses, seconds, train_seconds = (state[k] for k in ("step", "losses", "seconds", "train_seconds"))
        data.load_state_dict(state, step)
        progress.say(f"resuming after step {step} of {steps}")
    record.begin(state["epochs"] if state else [])
    parallel = processes.parallel(network)
    forward = torch.compile(parallel) if run.compile else parallel

    def save() -> None:
        counters = {"losses": losses, "seconds": seconds, "train_seconds": train_seconds, "epochs": record.epochs}
        states = {name: part.state_dict() for name, part in stateful.items()}
        checkpoints.save(step, counters | data.state_dict() | states)

    for epoch in range(len(record.epochs), run.recipe.epochs):
        epoch_started = time.perf_counter() - seconds
        network.train()
        last = (epoch + 1) * steps_per_epoch
        batches = prefetch(data.epoch(epoch, first=step - epoch * steps_per_epoch), preprocess)
        sync_points, pending = SyncPoints(processes), []  # losses since the last synchronization, on the device
        while step < last:
            set_learning_rate(optimizer, learning_rate(run.recipe, step, steps))
            optimizer.zero_grad()
            for part in range(run.split.accumulation):
                images, labels, _ = next(batches)
                number = step * run.split.passes + part * processes.world + processes.rank
                seed_all(derive(Purpose.STEP, run.seed, number))
                with processes.averaging(parallel, when=part == run.split.accumulation - 1):
                    with precision():
                        loss = objective(forward, images, labels) / run.split.accumulation
                    scaler.scale(loss).backward()
                pending.append(loss.detach())
            if run.recipe.clip_grad:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(network.parameters(), run.recipe.clip_grad)
            scaler.step(optimizer)
            scaler.update()
            if average:
                average.update(network)
            step += 1

            if sync_points.due() or step == last:
                synced = sync_points.synchronize(pending, stop=stop_requested(), save=checkpoints.due())
                for loss in finite(synced.losses, run, step, steps):
                    losses += loss
                pending = []
                seconds = time.perf_counter() - epoch_started
                progress.step(epoch + 1, step - epoch * steps_per_epoch, steps_per_epoch, loss)
                if (synced.stop or synced.save) and data.resumes_within_epochs:
                    save()
                if synced.stop:
                    processes.sum(0)  # no process leaves before the first has written
                    where = data.resume_point(epoch)
                    raise StoppedError(f"stopped after step {step} of {steps}; the same command resumes from {where}")

        train_seconds += seconds
        networks = {"": network} | ({"ema_": average.module} if average else {})
        for evaluated in networks.values():
            processes.equal_buffers(evaluated)
        correct = data.evaluation.correct_images()
        results = task.evaluate(
            [*networks.values()], data.evaluation.batches(), preprocess, processes, precision, correct
        )
        row = {"lr": learning_rate(run.recipe, step - 1, steps), "train_loss": losses / steps_per_epoch}
        for prefix, result in zip(networks, results, strict=True):
            row |= {prefix + name: result[name] for name in run.task.results}
        if not math.isfinite(loss := row.get("val_loss", 0.0)):
            raise DivergedError(f"the loss in evaluation is {loss} after epoch {epoch + 1}")
        row["images_per_second"] = steps_per_epoch * run.recipe.batch_size / seconds
        row["seconds"] = time.perf_counter() - epoch_started
        record.epoch(row, evaluation_images=results[0]["images"], broken_images=data.report_broken())
        progress.epoch(record.epochs[-1])
        losses, seconds = 0.0, 0.0
        if epoch + 1 < run.recipe.epochs:
            save()
            stop_if_hopeless(run, record, processes)

    if processes.is_first:
        save_weights(network, run.directory / "weights.pt")
        if average:
            save_weights(average.module, run.directory / "weights_ema.pt")
    record.images(correct.to_json(processes) if correct else None)
    record.finish(
        Status.DONE,
        train_seconds=train_seconds,
        wall_seconds=time.perf_counter() - started,
        peak_memory_mb=peak_memory_mb(device),
    )
    checkpoints.clear()


def finite(losses: Sequence[float], run: Run, step: int, steps: int) -> list[float]:
    """The losses of the steps before `step`, given those of all their passes.

    Raises:
        DivergedError: if one is not finite.
    """
    passes = run.split.accumulation
    of_steps = [sum(losses[first : first + passes]) for first in range(0, len(losses), passes)]
    for number, loss in enumerate(of_steps, step - len(of_steps)):
        if not math.isfinite(loss):
            lr = learning_rate(run.recipe, number, steps)
            raise DivergedError(f"the loss is {loss} at step {number} of {steps} (learning rate {lr:.3g})")
    return of_steps
