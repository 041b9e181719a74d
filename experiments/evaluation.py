"""How good a network is on a set of images, each counted once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.data import Batch
from experiments.outcomes import Outcomes
from experiments.processes import Processes


@torch.inference_mode()
def evaluate(
    network: nn.Module,
    batches: Iterable[Batch],
    finish: Callable[[Tensor], Tensor],
    processes: Processes,
    precision: Callable[[], AbstractContextManager] = nullcontext,
    outcomes: Outcomes | None = None,
    confusion: Tensor | None = None,
) -> dict[str, float]:
    """val_loss, top1 and top5 (percent) over all images of all processes' batches, and how many `images` those are.

    For each image of this process, `outcomes` gets whether its top-1 is right, and `confusion`, (classes, classes), 1
    added at [label, prediction].
    """
    network.eval()
    images_seen, loss, top1, top5 = 0, 0.0, 0, 0
    for images, labels, samples, *_ in batches:
        with precision():
            logits = network(finish(images))
        logits, labels = logits.float(), labels.to(logits.device)
        ranked = logits.topk(min(5, logits.shape[1])).indices
        right = ranked == labels[:, None]
        images_seen += len(labels)
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        top1 += right[:, 0].sum().item()
        top5 += right.sum().item()
        if outcomes is not None:
            outcomes.add((index for _, index in samples), right[:, 0])
        if confusion is not None:
            ones = torch.ones(len(labels), dtype=confusion.dtype)
            confusion.index_put_((labels.cpu(), ranked[:, 0].cpu()), ones, accumulate=True)
    images_seen, loss, top1, top5 = processes.sum(images_seen, loss, top1, top5)
    if not images_seen:
        raise ValueError("there are no images to evaluate")
    found = {"val_loss": loss / images_seen, "top1": 100 * top1 / images_seen, "top5": 100 * top5 / images_seen}
    return found | {"images": int(images_seen)}
