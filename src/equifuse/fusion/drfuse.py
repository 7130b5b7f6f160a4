"""DrFuse: what the modalities share, and what each has alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from equifuse.errors import InputError
from equifuse.fusion.base import FlatInputs, FusionOutput, require_two
from equifuse.fusion.make import register
from equifuse.fusion.projected import ProjectedFusion
from equifuse.fusion.reductions import cosine, softmax_sum


@register
class DrFuse(ProjectedFusion):
    """DrFuse: separates what the modalities share from what each has alone, then attends over these parts.

    Made for clinical data in which a modality is often missing.

    >>> fusion = ef.fusion.DrFuse({"ehr": 76, "xray": 512}, dim=32)
    >>> out = fusion({"ehr": torch.randn(8, 76), "xray": torch.randn(8, 512)})
    >>> out.fused.shape, sorted(out.losses)
    (torch.Size([8, 32]), ['alignment', 'disentanglement'])

    Args:
        dims: modality name -> width ``l_m``; at least two.
        dim: width ``d`` of each part; default 128.
        alignment_weight: default weight of the ``alignment`` loss, ≥ 0; default 1.
        disentanglement_weight: default weight of the ``disentanglement`` loss, ≥ 0; default 1.

    ``modalities`` holds ``[h_m ; d_m]``.

    Raises:
        InputError: there are fewer than two modalities, or a value is out of range.

    Formula (Yao et al. 2024, arXiv 2403.06197), for any number of modalities: shared ``h_m = S(P_m x_m)`` with one
    network ``S`` for all (two hidden ReLU layers), distinct ``d_m = D_m x_m``. The ``h_m`` are logits of Bernoulli
    variables, one per feature, and are pooled over the modalities present to the logit of the mean probability,
    ``h = logit(mean_m σ(h_m))``. Attention over the parts ``p ∈ {d_1, …, d_M, h}`` present, with their mean as query:
    ``fused = Σ_p softmax_p(q̄·k_p / √d) v_p``. The losses:

    - ``alignment``: Jensen-Shannon divergence of the modalities' Bernoulli distributions (entropy of the mean less mean
      of the entropies), mean over features and over samples that have at least two modalities;
    - ``disentanglement``: ``Σ_m |cos(h_m, d_m)|``, each the mean over the samples that have the modality.

    Deviations: the paper's encoders (a transformer and two ResNets) are affine maps here, because encoders come before
    a fusion. The paper has two modalities, one of which is always present. It has one key per disease, and losses that
    need the labels (predictions from each part, and a ranking of the attention by their quality); here there is one key
    and no such loss. The authors' code sums ``p log (p / mean)`` over the features; here ``1 − p`` counts too, without
    which it is not a divergence, and the mean is taken, so that the weight does not depend on ``dim``.
    """

    name: ClassVar[str] = "drfuse"

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int = 128,
        alignment_weight: float = 1.0,
        disentanglement_weight: float = 1.0,
    ) -> None:
        super().__init__(dims, dim)
        require_two(self.dims, type(self).__name__, "shares parts")
        self.weights = {"alignment": alignment_weight, "disentanglement": disentanglement_weight}
        for label, weight in self.weights.items():
            if weight < 0:
                raise InputError(f"{label}_weight must not be negative, got {weight}")
        self.loss_weights = {label: weight for label, weight in self.weights.items() if weight}
        self.distinct = nn.ModuleDict({m: nn.Linear(width, dim) for m, width in self.dims.items()})
        self.shared = nn.Sequential(
            nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, dim)
        )
        self.attention = nn.Linear(dim, 3 * dim)

    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """``(R, dim)`` from rows ``(R, l_m)``."""
        projected, there = self.tokens(rows)
        distinct, _ = self.tokens(rows, self.distinct)
        shared = torch.where(there[:, :, None], self.shared(projected), 0.0)
        pooled = pool_logits(shared, there)
        losses = {}
        if "alignment" in self.loss_weights:
            losses["alignment"] = _divergence(shared, pooled, there)
        if "disentanglement" in self.loss_weights:
            overlap = cosine(shared, distinct).abs()
            losses["disentanglement"] = ((overlap * there).sum(0) / there.sum(0).clamp(min=1)).sum()
        parts = torch.cat([distinct, pooled[:, None]], dim=1)
        fused = self._attend(parts, torch.cat([there, there.any(1, keepdim=True)], dim=1))
        return self.output(fused, torch.cat([shared, distinct], dim=2), losses)

    def _attend(self, parts: Tensor, there: Tensor) -> Tensor:
        """``(R, dim)`` from the parts ``(R, M + 1, dim)`` that are present, bool ``(R, M + 1)``."""
        query, key, value = self.attention(parts).chunk(3, dim=2)
        weight = there.to(query.dtype)[:, :, None]
        query = (query * weight).sum(1) / weight.sum(1).clamp(min=1)
        scores = (key @ query[:, :, None]).squeeze(2) / math.sqrt(self.dim)
        return softmax_sum(scores, value, there)


def pool_logits(logits: Tensor, there: Tensor) -> Tensor:
    """``logit(mean_m σ(h_m))`` over the modalities present, computed from the logits; 0 where none is present.

    Args:
        logits: ``(R, M, d)``.
        there: bool ``(R, M)``, True where present.

    Returns:
        ``(R, d)``.
    """
    some = there.any(1, keepdim=True)
    hidden = (~there & some)[:, :, None]
    yes, no = (F.logsigmoid(h).masked_fill(hidden, -torch.inf).logsumexp(1) for h in (logits, -logits))
    return torch.where(some, yes - no, 0.0)


def _divergence(logits: Tensor, pooled: Tensor, there: Tensor) -> Tensor:
    """Jensen-Shannon divergence of the Bernoulli variables ``(R, M, d)``, over rows with at least two modalities."""
    several = there.sum(1) > 1
    own = (_entropy(logits) * there[:, :, None]).sum(1) / there.sum(1, keepdim=True).clamp(min=1)
    found = torch.where(several, (_entropy(pooled) - own).mean(1), 0.0)
    return found.sum() / several.sum().clamp(min=1)


def _entropy(logits: Tensor) -> Tensor:
    """Entropy of Bernoulli variables, in nats."""
    return F.softplus(logits) - logits * torch.sigmoid(logits)
