"""Splits as tensors, cut into batches. No workers: a whole split is in memory, and indexing it is all the work."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from equifuse.datasets import MultimodalDataset, Split
from equifuse.errors import DataError
from equifuse.model import FusionModel
from equifuse.tasks import Batch

# Large enough that evaluation is fast, small enough for wide inputs.
_EVALUATION_BATCH = 512


def as_batch(split: Split) -> Batch:
    """A whole split as tensors, sharing memory with it."""
    return Batch(
        {m: torch.from_numpy(x) for m, x in split.inputs.items()},
        {m: torch.from_numpy(mask) for m, mask in split.present.items()},
        None if split.target is None else torch.from_numpy(split.target),
        torch.arange(len(next(iter(split.inputs.values())))),
    )


class Batches:
    """The batches of a split, in order, or in an order drawn from ``(seed, epoch)``.

    Args:
        whole: the split.
        size: samples per batch; the last one may be smaller.
        seed: shuffle with this seed; None keeps the order.
    """

    def __init__(self, whole: Batch, size: int = _EVALUATION_BATCH, seed: int | None = None) -> None:
        self.whole, self.size, self.seed = whole, size, seed
        self.epoch = 0

    def __len__(self) -> int:
        return math.ceil(len(self.whole) / self.size)

    def __iter__(self) -> Iterator[Batch]:
        # Drawn when the first batch is asked for, not when the iterator is made: only then is the epoch known.
        if self.seed is None:
            order = torch.arange(len(self.whole))
        else:
            order = torch.randperm(len(self.whole), generator=torch.Generator().manual_seed(mix(self.seed, self.epoch)))
        for rows in torch.split(order, self.size):
            yield self.whole.take(rows)


def mix(seed: int, epoch: int) -> int:
    """A seed for an epoch: a resumed run then draws what an uninterrupted one would, without stored states."""
    return (seed * 1_000_003 + epoch * 7919 + 17) % 2**63


def drop_modalities(batch: Batch, probability: float) -> Batch:
    """Hide each modality of each sample with this probability, but never the last one that a sample has."""
    names = list(batch.inputs)
    like = batch.inputs[names[0]]
    every = torch.ones(len(batch), dtype=torch.bool, device=like.device)
    has = torch.stack([batch.present.get(m, every) for m in names])
    draw = torch.rand(has.shape, device=like.device).masked_fill(~has, -1.0)
    keep = has & (draw >= probability)
    # Where all would go, the luckiest draw stays; a sample that has nothing keeps having nothing.
    lucky = torch.nn.functional.one_hot(draw.argmax(0), len(names)).T.bool() & has
    keep = torch.where(keep.any(0), keep, lucky)
    return Batch(batch.inputs, dict(zip(names, keep, strict=True)), batch.target, batch.index)


def check_fits(model: FusionModel, dataset: MultimodalDataset) -> None:
    """Refuse a data set that a stored model was not made for.

    Raises:
        DataError: task, number of outputs or class names differ; widths are checked by the model itself.
    """
    if dataset.task != model.task:
        raise DataError(f"data set {dataset.name!r} is for {dataset.task}, the model was built for {model.task}")
    if dataset.task != "retrieval" and dataset.n_outputs != model.n_outputs:
        raise DataError(f"data set {dataset.name!r} has {dataset.n_outputs} outputs, the model has {model.n_outputs}")
    if dataset.classes is not None and model.classes is not None and dataset.classes != model.classes:
        raise DataError(f"data set {dataset.name!r} has classes {dataset.classes}, the model has {model.classes}")
