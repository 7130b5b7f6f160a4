"""DrFuse: what modalities share, and what each has alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

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
    """DrFuse (Yao et al. 2024, arXiv 2403.06197) for any number of modalities: shared and distinct representations.

    Shared ``h_m = S(P_m x_m)``, ``S`` one network for all (two hidden ReLU layers), distinct ``d_m = D_m x_m``. The
    ``h_m`` are read as logits of Bernoulli variables, one per feature, and pooled over the modalities present to the
    logit of the mean probability, ``h = logit(mean_m σ(h_m))``; a sample with one modality has its ``h_m``. Attention
    over the parts ``p ∈ {d_1, …, d_M, h}`` present, the query their mean: ``fused = Σ_p softmax_p(q̄·k_p / √d) v_p``.
    ``modalities`` holds ``[h_m ; d_m]``. Losses, unweighted:

    - ``alignment``: Jensen-Shannon divergence of the modalities' Bernoulli distributions, entropy of the mean less mean
      of the entropies, mean over features and over samples that have two modalities or more;
    - ``disentanglement``: ``Σ_m |cos(h_m, d_m)|``, each the mean over the samples that have the modality.

    Deviations. The paper's encoders (a transformer, two ResNets) are affine maps here: encoders come before a fusion.
    The paper has two modalities, of which one is always there. It has one key per disease, and losses that need the
    labels: predictions from each part, and a ranking of the attention by how good these are; without labels there is
    one key, and neither. The authors' code sums ``p log (p / mean)`` alone over the features; here ``1 − p`` counts
    too, without which it is no divergence, and the mean is taken, so that the weight does not depend on ``dim``.

    Args:
        dims: modality name -> width ``l_m``; at least two.
        dim: width ``d`` of each part; default 128.
        alignment_weight: default weight of that loss, ≥ 0; default 1.
        disentanglement_weight: likewise; default 1.

    Raises:
        InputError: fewer than two modalities, or a value out of range.
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
        """``(R, dim)`` of the parts ``(R, M + 1, dim)`` that are there, bool ``(R, M + 1)``."""
        query, key, value = self.attention(parts).chunk(3, dim=2)
        weight = there.to(query.dtype)[:, :, None]
        query = (query * weight).sum(1) / weight.sum(1).clamp(min=1)
        scores = (key @ query[:, :, None]).squeeze(2) / math.sqrt(self.dim)
        return softmax_sum(scores, value, there)

    def config(self) -> dict[str, Any]:
        """Name, widths and options."""
        return {**super().config(), **{f"{label}_weight": weight for label, weight in self.weights.items()}}


def pool_logits(logits: Tensor, there: Tensor) -> Tensor:
    """``logit(mean_m σ(h_m))`` over the modalities that are there, without leaving the logits; 0 where none is.

    Args:
        logits: ``(R, M, d)``.
        there: bool ``(R, M)``.

    Returns:
        ``(R, d)``.
    """
    some = there.any(1, keepdim=True)
    hidden = (~there & some)[:, :, None]
    yes, no = (F.logsigmoid(h).masked_fill(hidden, -torch.inf).logsumexp(1) for h in (logits, -logits))
    return torch.where(some, yes - no, 0.0)


def _divergence(logits: Tensor, pooled: Tensor, there: Tensor) -> Tensor:
    """Jensen-Shannon divergence of the Bernoulli variables ``(R, M, d)`` that are there, where two or more are."""
    several = there.sum(1) > 1
    own = (_entropy(logits) * there[:, :, None]).sum(1) / there.sum(1, keepdim=True).clamp(min=1)
    found = torch.where(several, (_entropy(pooled) - own).mean(1), 0.0)
    return found.sum() / several.sum().clamp(min=1)


def _entropy(logits: Tensor) -> Tensor:
    """Of Bernoulli variables, in nats."""
    return F.softplus(logits) - logits * torch.sigmoid(logits)
