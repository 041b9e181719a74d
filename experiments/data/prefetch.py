"""The next batch is loaded, moved and normalised while the device computes with this one."""

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
    """Batches as the network takes them. On a GPU they are prepared in a stream of their own, while the GPU may still
    compute the previous step. The host is at most two steps ahead of the GPU, so that batches don't pile up."""
    if preprocess.stream is None:
        yield from (_on_device(batch, preprocess) for batch in batches)
        return
    network, batches, previous = torch.cuda.current_stream(preprocess.device), iter(batches), None
    preprocess.stream.wait_stream(network)  # in which images that are kept on the GPU were moved there
    while True:
        with torch.cuda.stream(preprocess.stream):
            if (batch := next(batches, None)) is None:
                return
            prepared = _on_device(batch, preprocess)
        network.wait_stream(preprocess.stream)
        for tensor in prepared[:2]:
            tensor.record_stream(network)  # or its memory could be reused before the network has read it
        yield prepared
        step = network.record_event()
        if previous:
            previous.synchronize()
        previous = step


def _on_device(batch: Batch, preprocess: Preprocess) -> DeviceBatch:
    return DeviceBatch(preprocess(batch.images, batch.erased), preprocess.move(batch.labels), batch.samples)
