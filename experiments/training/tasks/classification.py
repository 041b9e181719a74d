"""Classification: the training loss, and the evaluation of networks on a set of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from timm.data import Mixup
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.config.settings import Recipe
from experiments.data.batch import Batch
from experiments.data.correct_images import CorrectImages
from experiments.data.prefetch import prefetch
from experiments.data.transforms import Preprocess
from experiments.runtime.processes import Processes


class Objective:
    """The training loss of a batch, after mixup or cutmix if the recipe mixes. Mixing draws from numpy's generator."""

    def __init__(self, recipe: Recipe, num_classes: int) -> None:
        self.smoothing = recipe.label_smoothing
        self.mixup = None
        if recipe.mixup or recipe.cutmix:
            self.mixup = Mixup(
                recipe.mixup,
                recipe.cutmix,
                prob=recipe.mixup_prob,
                switch_prob=recipe.mixup_switch_prob,
                mode=recipe.mixup_mode,
                label_smoothing=recipe.label_smoothing,
                num_classes=num_classes,
            )

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        if self.mixup is None:
            return F.cross_entropy(network(images), labels, label_smoothing=self.smoothing)
        images, targets = self.mixup(images, labels)  # targets: (N, classes), smoothed and mixed
        return F.cross_entropy(network(images), targets)


@torch.inference_mode()
def evaluate(
    networks: Sequence[nn.Module],
    batches: Iterable[Batch],
    preprocess: Preprocess,
    processes: Processes,
    precision: Callable[[], AbstractContextManager] = nullcontext,
    correct_images: CorrectImages | None = None,
    confusion: Tensor | None = None,
) -> list[dict[str, float]]:
    """For each network, val_loss, top1 and top5 (percent) over all images of all processes' batches, and the number of
    these `images`: in one pass, at whose end alone the host waits for the device.

    `correct_images` gets, and `confusion` (classes, classes; on the device) counts at [label, prediction], the first
    network's predictions for the images of this process.
    """
    for network in networks:
        network.eval()
    images_seen, batch_sums = 0, []
    for images, labels, samples in prefetch(batches, preprocess):
        images_seen += len(labels)
        for network in networks:
            with precision():
                logits = network(images)
            logits = logits.float()
            ranked = logits.topk(min(5, logits.shape[1])).indices
            correct = ranked == labels[:, None]
            loss = F.cross_entropy(logits, labels, reduction="sum")
            batch_sums.append(torch.stack([loss, correct[:, 0].float().sum(), correct.float().sum()]))
            if network is not networks[0]:
                continue
            if correct_images is not None:
                correct_images.add((index for _, index in samples), correct[:, 0])
            if confusion is not None:
                ones = torch.ones_like(labels, dtype=confusion.dtype)
                confusion.index_put_((labels, ranked[:, 0]), ones, accumulate=True)
    sums = torch.zeros(len(networks), 3)
    if batch_sums:
        sums = torch.stack(batch_sums).cpu().double().view(-1, len(networks), 3).sum(0)
    count, *totals = processes.sum(images_seen, *sums.flatten().tolist())
    if not count:
        raise ValueError("there are no images to evaluate")
    results: list[dict[str, float]] = []
    for total_loss, top1, top5 in zip(totals[::3], totals[1::3], totals[2::3], strict=True):
        result = {"val_loss": total_loss / count, "top1": 100 * top1 / count, "top5": 100 * top5 / count}
        results.append({**result, "images": int(count)})
    return results
