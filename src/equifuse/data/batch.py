"""Samples as tensors: what a model is given at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from equifuse.data.dataset import Split
from equifuse.data.lazy import in_memory


@dataclass
class Batch:
    """Samples of a split as tensors, as a model and a task take them.

    >>> batch = Batch({"a": torch.zeros(8, 3)}, present={"a": torch.ones(8, dtype=torch.bool)}, target=torch.arange(8))
    >>> batch.select(torch.tensor([1, 3])).target
    tensor([1, 3])

    Attributes:
        inputs: modality name -> ``(B, *shape)``.
        present: modality name -> bool ``(B,)``; a modality without a key is present in every sample.
        target: int64 ``(B,)``, float32 ``(B, K)``, or None.
        index: int64 ``(B,)``, the samples' numbers in their split, or None.
        lengths: modality name -> int64 ``(B,)``, how many steps of padded sequences ``(B, T, l)`` count.
        weight: ``(B,)``, ≥ 0, what each sample counts in the task's loss, or None for the same.
        share: factor of the batch's loss; other than 1 for one process's part of a batch of several.
    """

    inputs: dict[str, Tensor]
    present: dict[str, Tensor] = field(default_factory=dict)
    target: Tensor | None = None
    index: Tensor | None = None
    lengths: dict[str, Tensor] = field(default_factory=dict)
    weight: Tensor | None = None
    share: float = 1.0

    def __len__(self) -> int:
        return next(iter(self.inputs.values())).shape[0]

    def select(self, rows: Tensor) -> Batch:
        """The given rows ``(n,)`` (indices or a bool mask)."""
        return Batch(
            {m: x[rows] for m, x in self.inputs.items()},
            {m: mask[rows] for m, mask in self.present.items()},
            None if self.target is None else self.target[rows],
            None if self.index is None else self.index[rows],
            {m: steps[rows] for m, steps in self.lengths.items()},
            None if self.weight is None else self.weight[rows],
        )

    def to(self, device: torch.device | str, **options: Any) -> Batch:
        """The same samples on another device; ``options`` go to :meth:`torch.Tensor.to`."""
        return Batch(
            {m: x.to(device, **options) for m, x in self.inputs.items()},
            {m: mask.to(device, **options) for m, mask in self.present.items()},
            None if self.target is None else self.target.to(device, **options),
            None if self.index is None else self.index.to(device, **options),
            {m: steps.to(device, **options) for m, steps in self.lengths.items()},
            None if self.weight is None else self.weight.to(device, **options),
            self.share,
        )


def as_batch(split: Split) -> Batch:
    """A whole split as tensors, sharing memory with it; what is on disk is read."""
    return Batch(
        {m: torch.from_numpy(in_memory(x)) for m, x in split.inputs.items()},
        {m: torch.from_numpy(mask) for m, mask in split.present.items()},
        None if split.target is None else torch.from_numpy(split.target),
        torch.arange(len(split)),
        {m: torch.from_numpy(steps) for m, steps in split.lengths.items()},
        None if split.weight is None else torch.from_numpy(split.weight),
    )


def join(a: Batch, b: Batch) -> Batch:
    """The samples of two batches of the same split."""
    target = None if a.target is None or b.target is None else torch.cat([a.target, b.target])
    index = None if a.index is None or b.index is None else torch.cat([a.index, b.index])
    weight = None if a.weight is None or b.weight is None else torch.cat([a.weight, b.weight])
    return Batch(
        {m: torch.cat([x, b.inputs[m]]) for m, x in a.inputs.items()},
        {m: torch.cat([mask, b.present[m]]) for m, mask in a.present.items()},
        target,
        index,
        {m: torch.cat([steps, b.lengths[m]]) for m, steps in a.lengths.items()},
        weight,
    )
