"""Prototypical modal rebalance: slow modalities are driven by the prototypes of the classes."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from equifuse.data.batch import Batch
from equifuse.data.loaders import Batches
from equifuse.model import FusionModel, ModelOutput
from equifuse.registry import BALANCERS
from equifuse.tasks import Task
from equifuse.training.balancing.base import (
    NUMBER,
    BalancingMethod,
    check_option,
    each_alone,
    evaluating,
    first_batches,
    output_count,
    ratios,
    scores,
)


@BALANCERS.register
class PMR(BalancingMethod):
    """Prototypical modal rebalance (Fan et al. 2023, arXiv 2211.07089); for classification.

    A class's prototype is the mean of the encoder's outputs over its training samples (eq. 6), renewed at the start of
    each epoch as ``c ← ε c + (1 − ε) c_new`` (eq. 12). Minus the Euclidean distances to the prototypes are logits
    (eq. 7); ``s_m`` is the mean probability that they give to the true class, and ``ρ_m = s_m / mean_{j≠m} s_j``
    (eq. 8, :func:`discrepancy`). With the coefficients of :func:`rebalance` the loss becomes

    ``L + α Σ_m β_m L_m − μ Σ_m γ_m H_m``, ``β_m = clip(1/ρ_m − 1, 0, 1)``, ``γ_m = clip(ρ_m − 1, 0, 1)``,

    the cross-entropy ``L_m`` of those logits driving a slow modality, the entropy ``H_m`` of their softmax, in the
    first epochs only, holding back a dominant one (eqs. 9 to 11 and 13; for two modalities exactly those). A class
    that no sample seen so far has in a modality takes no part there.

    Args:
        alpha: ``α``, ≥ 0; paper 1 or 2, default 1.
        mu: ``μ``, ≥ 0; paper 1e-2 or 1e-3, default 1e-2.
        momentum: ``ε``, in [0, 1); default 0.2, as in the authors' code.
        entropy_epochs: number of epochs with the entropy, ≥ 0; the paper says "few", default 5.
        share: of the training part that the prototypes are taken from, in (0, 1]; default 1. The paper's 0.1 saves
            time with large encoders.

    Recorded is ``β_m``, 0 for a modality that a batch lacks.

    Raises:
        InputError: an option out of range.
    """

    name: ClassVar[str | None] = "pmr"
    tasks: ClassVar[tuple[str, ...] | None] = ("classification",)

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        mu: float = 1e-2,
        momentum: float = 0.2,
        entropy_epochs: int = 5,
        share: float = 1.0,
    ) -> None:
        super().__init__()
        check_option("alpha", alpha, NUMBER, lambda a: 0 <= a < math.inf, "a number of at least 0")
        check_option("mu", mu, NUMBER, lambda a: 0 <= a < math.inf, "a number of at least 0")
        check_option("momentum", momentum, NUMBER, lambda a: 0 <= a < 1, "in [0, 1)")
        check_option("entropy_epochs", entropy_epochs, int, lambda n: n >= 0, "a whole number of at least 0")
        check_option("share", share, NUMBER, lambda a: 0 < a <= 1, "in (0, 1]")
        self.alpha, self.mu, self.momentum = alpha, mu, momentum
        self.entropy_epochs, self.share = entropy_epochs, share
        self.prototypes = nn.ModuleDict()
        self._epoch = 0

    def prepare(self, model: FusionModel, task: Task) -> None:
        """Make room for the prototypes."""
        super().prepare(model, task)
        outputs = output_count(model)
        self.prototypes = nn.ModuleDict({m: Prototypes(outputs, width) for m, width in model.fusion.dims.items()})

    def start_epoch(self, model: FusionModel, task: Task, epoch: int, train: Batches, val: Batches) -> None:
        """Renew the prototypes."""
        self._epoch = epoch
        sums = {m: torch.zeros_like(self._of(m).means) for m in model.modalities}
        counts = {m: total.new_zeros(len(total)) for m, total in sums.items()}
        with evaluating(model):
            for batch in first_batches(train, self.share, model):
                encodings = model.encode(batch.inputs, batch.present, lengths=batch.lengths)
                for m, encoded, target in each_alone(encodings, batch):
                    members = F.one_hot(target, len(counts[m])).to(encoded).T
                    sums[m] += members @ encoded
                    counts[m] += members.sum(1)
        for m, total in sums.items():
            self._of(m).renew(total, counts[m], self.momentum)

    def balanced(
        self, model: FusionModel, task: Task, batch: Batch, output: ModelOutput, loss: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss with the terms of slow and of dominant modalities."""
        logits, labels = {}, {}
        for m, encoded, target in each_alone(output.encoded, batch):
            own = self._of(m)
            placed = own.known[target]
            if placed.any():
                logits[m], labels[m] = own.logits(encoded[placed]), target[placed]
        found = {m: scores("classification", x.detach(), labels[m]).mean() for m, x in logits.items()}
        numbers = {m: loss.new_zeros(()) for m in model.modalities}
        for m, ratio in ratios(found).items():
            faster, slower = rebalance(ratio)
            loss = loss + self.alpha * faster * F.cross_entropy(logits[m], labels[m])
            if self._epoch < self.entropy_epochs:
                loss = loss - self.mu * slower * entropy(logits[m])
            numbers[m] = faster
        return loss, numbers

    def _of(self, name: str) -> Prototypes:
        found = self.prototypes[name]
        assert isinstance(found, Prototypes)
        return found


class Prototypes(nn.Module):
    """One modality's class means ``(K, l)``.

    Args:
        classes: ``K``.
        width: ``l``.

    Attributes:
        means: ``(K, l)``.
        known: bool ``(K,)``, which classes have been seen.
    """

    means: Tensor
    known: Tensor

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(classes, width))
        self.register_buffer("known", torch.zeros(classes, dtype=torch.bool))

    def renew(self, sums: Tensor, counts: Tensor, momentum: float) -> None:
        """Take in new samples: sums ``(K, l)`` and counts ``(K,)`` by class; a class without any stays as it is."""
        here = counts > 0
        new = sums / counts.clamp(min=1)[:, None]
        kept = momentum * self.known.to(new)[:, None]
        self.means.copy_(torch.where(here[:, None], kept * self.means + (1 - kept) * new, self.means))
        self.known.logical_or_(here)

    def logits(self, encoded: Tensor) -> Tensor:
        """Minus the distances of ``(n, l)`` to the prototypes: ``(n, K)``, next to minus infinity where unknown."""
        distances = torch.cdist(encoded, self.means, compute_mode="donot_use_mm_for_euclid_dist")
        # Not infinity, of which entropy has no gradient.
        return (-distances).masked_fill(~self.known, torch.finfo(distances.dtype).min)


def rebalance(ratio: Tensor) -> tuple[Tensor, Tensor]:
    """PMR's coefficients of a modality: of acceleration, ``clip(1/ρ − 1, 0, 1)``, and of restraint, of ``ρ − 1``."""
    return (1 / ratio - 1).clamp(0, 1), (ratio - 1).clamp(0, 1)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the softmax of ``(n, K)`` in nats, the mean over the samples."""
    log_p = torch.log_softmax(logits, dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1).mean()
