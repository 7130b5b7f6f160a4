"""Random numbers that depend on a seed alone, and leave those of the caller as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def own_random_numbers(seed: int) -> Iterator[None]:
    """Seed PyTorch inside the block; the caller's generators are as they were afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
