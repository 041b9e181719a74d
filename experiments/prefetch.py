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
    """Batches as the network takes them. On a GPU they are made ready in a stream of their own, beside the step before,
    which the GPU may still be at; the host is two steps ahead of it at most, lest batches pile up."""
    if finish.stream is None:
        yield from (_finished(batch, finish) for batch in batches)
        return
    network, batches, before = torch.cuda.current_stream(finish.device), iter(batches), None
    finish.stream.wait_stream(network)  # in which images that lie on the GPU were put there
    while True:
        with torch.cuda.stream(finish.stream):
            if (batch := next(batches, None)) is None:
                return
            following = _finished(batch, finish)
        network.wait_stream(finish.stream)
        for tensor in following[:2]:
            tensor.record_stream(network)  # or its memory were given away before the network has read it
        yield following
        step = network.record_event()
        if before:
            before.synchronize()
        before = step


def _finished(batch: Batch, finish: Finish) -> Ready:
    return Ready(finish(batch.images, batch.erased), finish.move(batch.labels), batch.samples)
