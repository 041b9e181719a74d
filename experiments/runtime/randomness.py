"""Random numbers of a run depend on its seed and on their purpose, never on the process or on earlier draws.

A sample's augmentation depends on (seed, epoch, sample), an epoch's order on (seed, epoch), and what is random in a
step (mixup, stochastic depth) on (seed, step). So results do not depend on the number of loader workers, and a run can
be resumed at any step without saving the state of generators.
"""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import numpy as np
import torch


class Purpose(IntEnum):
    """What random numbers are for; part of every key, so that no two purposes share a stream."""

    WEIGHTS = 0
    ORDER = 1
    SAMPLE = 2
    ERASING = 3
    STEP = 4


def derive(purpose: Purpose, *key: int) -> int:
    """A 64-bit seed for a purpose and a key such as (seed, epoch, sample); equal for equal arguments."""
    digest = hashlib.blake2b(struct.pack(f"<{len(key) + 1}q", purpose, *key), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def seed_all(seed: int) -> None:
    """Seed the global generators of all devices in use, from which timm's mixup and the network draw."""
    seed_cpu(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


def seed_cpu(seed: int) -> None:
    """Seed the CPU's global generators, from which the transforms draw."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)


@contextmanager
def preserved() -> Iterator[None]:
    """Restore the state of the global generators afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def permutation(length: int, purpose: Purpose, *key: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(derive(purpose, *key))
    return torch.randperm(length, generator=generator)
