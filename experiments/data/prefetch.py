"""The next batch is fetched, moved and normalised while the device computes with this one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from experiments.data.batch import Batch, Sample
from experiments.data.transforms import Preprocess


class DeviceBatch(NamedTuple):
    images: Tensor
    """(N, 3, H, W), float32, normalised, on the device."""
    labels: Tensor
    """(N,), int64, on the device."""
    samples: list[Sample]


def prefetch(batches: Iterable[Batch], preprocess: Preprocess) -> Iterator[DeviceBatch]:
    """Batches as the network takes them. On a GPU they are made ready in a stream of their own, beside the step before,
    which the GPU may still be at; the host is two steps ahead of it at most, lest batches pile up."""
    if preprocess.stream is None:
        yield from (_on_device(batch, preprocess) for batch in batches)
        return
    network, batches, before = torch.cuda.current_stream(preprocess.device), iter(batches), None
    preprocess.stream.wait_stream(network)  # in which images that lie on the GPU were put there
    while True:
        with torch.cuda.stream(preprocess.stream):
            if (batch := next(batches, None)) is None:
                return
            following = _on_device(batch, preprocess)
        network.wait_stream(preprocess.stream)
        for tensor in following[:2]:
            tensor.record_stream(network)  # or its memory were given away before the network has read it
        yield following
        step = network.record_event()
        if before:
            before.synchronize()
        before = step


def _on_device(batch: Batch, preprocess: Preprocess) -> DeviceBatch:
    return DeviceBatch(preprocess(batch.images, batch.erased), preprocess.move(batch.labels), batch.samples)
