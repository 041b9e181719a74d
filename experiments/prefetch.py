"""The next batch is fetched, moved and normalised while the device computes with this one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from experiments.batch import Batch, Sample
from experiments.transforms import Finish


class Ready(NamedTuple):
    images: Tensor
    """(N, 3, H, W), float32, normalised, on the device."""
    labels: Tensor
    """(N,), int64, on the device."""
    samples: list[Sample]


def ready(batches: Iterable[Batch], finish: Finish) -> Iterator[Ready]:
    """Batches as the network takes them. On a GPU, one ahead, in a stream that the network's waits for."""
    if finish.device.type != "cuda":
        yield from (_finished(batch, finish) for batch in batches)
        return
    aside, ahead = torch.cuda.Stream(finish.device), None
    for batch in batches:
        with torch.cuda.stream(aside):
            following = _finished(batch, finish)
        if ahead:
            yield ahead
        torch.cuda.current_stream(finish.device).wait_stream(aside)
        for tensor in following[:2]:
            tensor.record_stream(torch.cuda.current_stream(finish.device))  # or its memory were given away too early
        ahead = following
    if ahead:
        yield ahead


def _finished(batch: Batch, finish: Finish) -> Ready:
    labels = batch.labels.to(finish.device, non_blocking=True)
    return Ready(finish(batch.images, batch.erased), labels, batch.samples)
