"""Modalities taken away, hidden, permuted and made noisy: the one home of what a split or a batch can lack."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equifuse.data.batch import Batch
from equifuse.data.dataset import Split
from equifuse.data.lazy import Features, in_memory, select


def hide(split: Split, rate: float, generator: np.random.Generator) -> Split:
    """Hide each modality of each sample with probability ``rate``, but never the last one that a sample has.

    Args:
        split: the samples.
        rate: in [0, 1).
        generator: of the draws.
    """
    names = list(split.inputs)
    has = np.stack([split.present.get(m, np.ones(len(split), dtype=bool)) for m in names])
    draws = torch.Generator().manual_seed(int(generator.integers(2**31)))
    keep = keep_some(torch.from_numpy(has), rate, draws).numpy()
    return replace(split, present=dict(zip(names, keep, strict=True)))


def permute(split: Split, modality: str, generator: np.random.Generator) -> Split:
    """Give each sample the modality of another one: what is left is what the others say."""
    order = generator.permutation(len(split))
    present, lengths = dict(split.present), dict(split.lengths)
    if modality in present:
        present[modality] = present[modality][order]
    if modality in lengths:
        lengths[modality] = lengths[modality][order]
    inputs = {m: select(x, order) if m == modality else x for m, x in split.inputs.items()}
    return replace(split, inputs=inputs, present=present, lengths=lengths)


def add_noise(split: Split, modality: str, scale: Any, generator: np.random.Generator) -> Split:
    """Add normal noise of standard deviation ``scale`` (broadcast over the features) to a modality."""
    x = in_memory(split.inputs[modality])
    noisy: Features = (x + generator.standard_normal(x.shape, dtype=np.float32) * np.float32(scale)).astype(np.float32)
    return replace(split, inputs={**split.inputs, modality: noisy})


def drop_modalities(batch: Batch, probability: float) -> Batch:
    """Hide each modality of each sample with this probability, but never the last one that a sample has."""
    names = list(batch.inputs)
    every = torch.ones(len(batch), dtype=torch.bool, device=batch.inputs[names[0]].device)
    keep = keep_some(torch.stack([batch.present.get(m, every) for m in names]), probability)
    return replace(batch, present=dict(zip(names, keep, strict=True)))


def keep_some(has: Tensor, probability: float, generator: torch.Generator | None = None) -> Tensor:
    """What is left of bool ``(M, B)``, which sample has which modality, if each is taken with this probability.

    A sample never loses the last one; one that has nothing keeps having nothing.
    """
    draw = torch.rand(has.shape, device=has.device, generator=generator).masked_fill(~has, -1.0)
    keep = has & (draw >= probability)
    # Where all would go, the luckiest draw stays.
    lucky = torch.nn.functional.one_hot(draw.argmax(0), len(has)).T.bool() & has
    return torch.where(keep.any(0), keep, lucky)
