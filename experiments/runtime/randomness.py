"""What is random in a run depends on the seed and on what it is for, never on who draws it or what was drawn before.

A sample's augmentation depends on (seed, epoch, sample), an epoch's order on (seed, epoch), and what is random in a
step (mixup, stochastic depth) on (seed, step): so results do not depend on the number of loader workers, and a run can
be resumed at any step without saving any generator's state.
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
    """What randomness is for; a part of every key, so that no two purposes share a stream."""

    WEIGHTS = 0
    ORDER = 1
    SAMPLE = 2
    ERASING = 3
    STEP = 4


def derive(purpose: Purpose, *key: int) -> int:
    """A seed of 64 bits for a purpose and a key such as (seed, epoch, sample); equal for equal arguments."""
    digest = hashlib.blake2b(struct.pack(f"<{len(key) + 1}q", purpose, *key), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def seed_all(seed: int) -> None:
    """Seed the global generators, which timm's mixup and the network draw from, on every device that is in use."""
    seed_cpu(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


def seed_cpu(seed: int) -> None:
    """Seed the CPU's global generators, which the transforms draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)


@contextmanager
def preserved() -> Iterator[None]:
    """Leaves the global generators as it found them."""
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
