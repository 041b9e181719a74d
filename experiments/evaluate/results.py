"""A full evaluation: accuracy over all images and per class, confusion matrix, and throughput."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.config.initial_weights import Init
from experiments.config.settings import Data
from experiments.data.evaluation import EVALUATION_BATCH_SIZE, Evaluation
from experiments.data.images import ArrayImages, Images, Stream
from experiments.data.partition import partition
from experiments.data.readers import load_images
from experiments.data.transforms import Preprocess, evaluation_transform
from experiments.data.workers import end_workers, loader_workers
from experiments.errors import SettingsError
from experiments.evaluate.model import find_model
from experiments.runtime.devices import autocast, device_name, keep_memory, pick_device, set_precision
from experiments.runtime.processes import Processes, joined
from experiments.training.tasks.classification import evaluate
from roadmap.designs import Design

WORST = 5
"""The number of classes that the table shows."""


def evaluate_weights(init: Init, data: Data, config: DictConfig, design: Design | None) -> dict[str, Any]:
    """The result of an evaluation, ready for JSON; `--help` of `experiments.evaluate` describes it."""
    keep_memory()
    if config.threads:
        torch.set_num_threads(config.threads)
    set_precision(config.precision, pick_device(config.device))
    images, indices = _images(data)  # before anything is downloaded
    model = find_model(init, config.model, design, trust=config.trust)
    settings = {key: config[key] for key in ("resolution", "interpolation", "crop_pct") if config[key] is not None}
    transform = replace(model.transform, **settings)
    with joined(pick_device(config.device)) as processes:
        classes = images.classes
        if classes != model.classes:
            raise SettingsError(f"{init.source} is for {model.classes} classes, but {data.name} has {classes}")
        transforms = evaluation_transform(transform.resolution, transform.interpolation, transform.crop_pct)
        workers = loader_workers(config.workers, in_memory=isinstance(images, ArrayImages))
        broken: set[str] = set()
        skipped = broken if data.broken == "skip" else None
        evaluation = Evaluation(images, indices, transforms, processes, workers, skipped)
        network = model.network.to(processes.device).to(memory_format=torch.channels_last)
        preprocess = Preprocess(processes.device, transform.mean, transform.std)
        precision = partial(autocast, config.precision, processes.device)
        confusion = torch.zeros(classes, classes, dtype=torch.int64, device=processes.device)
        started = time.perf_counter()
        try:
            [result] = evaluate([network], evaluation.batches(), preprocess, processes, precision, confusion=confusion)
        finally:
            end_workers()
        seconds = time.perf_counter() - started
        confusion = processes.total(confusion.cpu())
        return {
            "weights": init.source,
            "digest": init.digest,
            "network": model.description,
            "data": asdict(data),
            "preparation": asdict(transform),
            "precision": config.precision,
            "device": device_name(processes.device),
            "processes": processes.world,
            **result,
            "broken_images": len(processes.gather_names(broken)),
            "images_per_second": result["images"] / seconds,
            "network_images_per_second": _throughput(
                network, transform.resolution, len(evaluation), processes, precision
            ),
            "per_class": _per_class(confusion),
            "confusion": confusion.tolist(),
        }


def _images(data: Data) -> tuple[Images | Stream, np.ndarray | None]:
    """The images to evaluate on, and the indices of those to use (None: all). The other part of the data may be
    missing."""
    part = data.train if data.holdout else data.val
    train, test = load_images(replace(data, train=part, val=part))
    return (train, partition(cast(Images, train), data).held_out) if data.holdout else (test, None)


def _throughput(network: torch.nn.Module, resolution: int, count: int, processes: Processes, precision: Any) -> float:
    """Images/s of the network alone, in batches like those that it was evaluated on: the median of some."""
    count = min(count, EVALUATION_BATCH_SIZE)
    images = torch.rand(count, 3, resolution, resolution, device=processes.device)
    images = images.contiguous(memory_format=torch.channels_last)
    times: list[float] = []
    with torch.inference_mode(), precision():
        while len(times) < 2 or (sum(times) < 1 and len(times) < 50):
            started = time.perf_counter()
            network(images)[0, 0].item()  # waits for the device
            times.append(time.perf_counter() - started)
    return count / float(np.median(times[1:])) * processes.world


def _per_class(confusion: torch.Tensor) -> list[dict[str, float | None]]:
    """For each class: images, accuracy (percent; None without images), and the class that it is most often mistaken
    for."""
    rows = []
    for label, row in enumerate(confusion):
        count, correct = int(row.sum()), int(row[label])
        mistakes = row.clone()
        mistakes[label] = 0
        taken_for = int(mistakes.argmax()) if mistakes.sum() else None
        rows.append({"class": label, "images": count, "top1": 100 * correct / count if count else None})
        rows[-1] |= {"taken_for": taken_for, "times": int(mistakes.max())}
    return rows


def show(result: Mapping[str, Any]) -> None:
    """Print the result to the terminal."""
    console, transform = Console(highlight=False, markup=False), result["preparation"]
    crop = f", {transform['interpolation']}" + (f", crop {transform['crop_pct']:.3f}" if transform["crop_pct"] else "")
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in {
        "network": result["network"],
        "data": f"{result['data']['name']}, {result['images']:,} images, {len(result['per_class'])} classes",
        "at": f"{transform['resolution']} px{crop}, {result['precision']}, {result['device']}",
        "top-1": f"{result['top1']:.2f} %",
        "top-5": f"{result['top5']:.2f} %",
        "loss": f"{result['val_loss']:.4f}",
        "speed": f"{result['images_per_second']:.0f} images/s; "
        f"{result['network_images_per_second']:.0f} images/s for the network alone",
    }.items():
        table.add_row(name, Text(value))
    if result["broken_images"]:
        table.add_row("broken", f"{result['broken_images']} images could not be read and are not counted")
    console.print(table)
    worst = sorted((row for row in result["per_class"] if row["images"]), key=lambda row: row["top1"])[:WORST]
    classes = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("worst classes", "images", "top-1 (%)", "most often taken for"):
        classes.add_column(column, justify="left" if column == "most often taken for" else "right")
    for row in worst:
        taken = "" if row["taken_for"] is None else f"{row['taken_for']} ({row['times']})"
        classes.add_row(str(row["class"]), str(row["images"]), f"{row['top1']:.1f}", taken)
    console.print()
    console.print(classes)
