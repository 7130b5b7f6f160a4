"""A split as tensors, and batches of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from equifuse.datasets import Split


@dataclass
class Batch:
    """Rows of a split: inputs by modality, presence masks, and the target or None."""

    inputs: dict[str, Tensor]
    present: dict[str, Tensor]
    target: Tensor | None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def take(self, rows: Tensor | slice) -> Batch:
        """The given rows."""
        return Batch(
            {m: x[rows] for m, x in self.inputs.items()},
            {m: mask[rows] for m, mask in self.present.items()},
            None if self.target is None else self.target[rows],
        )

    def without(self, modalities: tuple[str, ...]) -> Batch:
        """The same rows with some modalities taken away altogether."""
        return Batch(
            {m: x for m, x in self.inputs.items() if m not in modalities},
            {m: mask for m, mask in self.present.items() if m not in modalities},
            self.target,
        )


def as_batch(split: Split) -> Batch:
    """A whole split as one batch of tensors (the arrays' memory is shared)."""
    return Batch(
        {m: torch.from_numpy(x) for m, x in split.inputs.items()},
        {m: torch.from_numpy(mask) for m, mask in split.present.items()},
        None if split.target is None else torch.from_numpy(split.target),
    )


class Batches:
    """Iterates over a split in batches of rows; shuffled anew each epoch, the same way for the same seed and epoch.

    Whole batches are indexed at once: for data in memory this is many times faster than collating rows.

    Args:
        data: the split.
        size: rows per batch, ≥ 1.
        seed: of the shuffle; None keeps the order.
        epoch: asked for the current epoch at the start of each pass.
    """

    def __init__(
        self, data: Batch, size: int, *, seed: int | None = None, epoch: Callable[[], int] = lambda: 0
    ) -> None:
        self.data, self.size, self.seed, self.epoch = data, size, seed, epoch

    def __len__(self) -> int:
        return math.ceil(len(self.data) / self.size)

    def __iter__(self) -> Iterator[Batch]:
        order = torch.arange(len(self.data))
        if self.seed is not None:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch())
            order = torch.randperm(len(self.data), generator=generator)
        for start in range(0, len(order), self.size):
            yield self.data.take(order[start : start + self.size])


def drop_modalities(batch: Batch, probability: float, modalities: tuple[str, ...]) -> Batch:
    """Take each modality from each row with the given probability, but never a row's last one."""
    rows = len(batch)
    device = next(iter(batch.inputs.values())).device
    everyone = torch.ones(rows, dtype=torch.bool, device=device)
    had = torch.stack([batch.present.get(m, everyone) for m in modalities], dim=1)
    kept = had & (torch.rand(had.shape, device=device) >= probability)
    # A row that lost everything gets one of those it had back, chosen at random.
    rescued = torch.where(had, torch.rand(had.shape, device=device), -1.0).argmax(dim=1, keepdim=True)
    lost = ~kept.any(dim=1, keepdim=True)
    kept = kept | (lost & had & (torch.arange(len(modalities), device=device) == rescued))
    return Batch(batch.inputs, {m: kept[:, i] for i, m in enumerate(modalities)}, batch.target)
