"""Samples between samples: what encoders say of pairs of them, mixed, with the targets of both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from equifuse.data.batch import Batch
from equifuse.model import FusionModel


@dataclass(frozen=True)
class Pairs:
    """Each sample of a batch with its partner, and what it counts.

    >>> from equifuse.data.batch import Batch
    >>> from equifuse.training.mixup import pairs_of
    >>> batch = Batch({"a": torch.randn(6, 3), "b": torch.randn(6, 2)}, target=torch.arange(6) % 2)
    >>> pairs = pairs_of(batch, 0.2, seed=[0, 1])
    >>> 0.5 <= pairs.share <= 1, sorted(pairs.partner.tolist())
    (True, [0, 1, 2, 3, 4, 5])

    Attributes:
        partner: int64 ``(B,)``: the number of each sample's partner, which has the same modalities.
        share: of the sample itself, in [1/2, 1].
    """

    partner: Tensor
    share: float

    def mixed(self, x: Tensor) -> Tensor:
        """What lies between the rows of ``(B, ...)`` and those of their partners."""
        return self.share * x + (1 - self.share) * x[self.partner]

    def loss(self, of: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
        """The loss against both targets, in the shares of the samples; ``of`` looks at the target and the weight.

        Of cross-entropies, and of squared errors but for a constant, it is that against the mixed target.
        """
        return self.losses(lambda each: {"loss": of(each)}, batch)["loss"]

    def losses(self, of: Callable[[Batch], dict[str, Tensor]], batch: Batch) -> dict[str, Tensor]:
        """The same of several losses by name."""
        target, weight = (None if each is None else each[self.partner] for each in (batch.target, batch.weight))
        own, other = of(batch), of(replace(batch, target=target, weight=weight))
        return {name: self.share * loss + (1 - self.share) * other[name] for name, loss in own.items()}


def pairs_of(batch: Batch, alpha: float, seed: list[int]) -> Pairs:
    """Draw partners, and the share of the larger of the two (Zhang et al. 2018), one for the whole batch.

    Only samples that have the same modalities are mixed; one that is alone in this stays as it is.

    Args:
        batch: the samples.
        alpha: the share is that of a Beta(alpha, alpha) distribution.
        seed: of the draws, which leave PyTorch's random numbers alone.
    """
    generator = np.random.default_rng(seed)
    share = float(generator.beta(alpha, alpha))
    size, pattern = len(batch), np.zeros(len(batch), dtype=np.int64)
    for mask in batch.present.values():
        has = mask.reshape(size, -1).any(1).cpu().numpy()
        pattern = np.unique(2 * pattern + has, return_inverse=True)[1]
    order = generator.permutation(size)
    order = order[np.argsort(pattern[order], kind="stable")]
    partner = np.empty(size, dtype=np.int64)
    for group in np.split(order, np.flatnonzero(np.diff(pattern[order])) + 1):
        partner[group] = np.roll(group, 1)
    device = next(iter(batch.inputs.values())).device
    return Pairs(torch.from_numpy(partner).to(device), max(share, 1 - share))


@contextmanager
def mixing(model: FusionModel, pairs: Pairs | None) -> Iterator[None]:
    """Within, a model in training mode fuses what its encoders say of mixed samples."""
    if pairs is None:
        yield
        return
    model.augment = lambda encoded: {m: pairs.mixed(x) for m, x in encoded.items()}
    try:
        yield
    finally:
        model.augment = None
