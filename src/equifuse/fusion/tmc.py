"""Trusted multi-view classification: evidence from each modality, combined by Dempster's rule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from equifuse.errors import InputError
from equifuse.fusion.base import FlatInputs, FusionOutput
from equifuse.fusion.decision import DecisionFusion, check_weights, over_modalities
from equifuse.fusion.make import register

# Bound on log α before its exponential: many certain modalities would exceed the range of float32.
_LARGEST = 60.0


@register
class TMC(DecisionFusion):
    """Trusted multi-view classification: each modality gives evidence for classes, and the result has an uncertainty.

    For classification where "I do not know" is a useful answer: :meth:`uncertainty` is near 1 where there is no
    evidence.

    >>> fusion = ef.fusion.TMC({"text": 300, "image": 512}, outputs=3)
    >>> out = fusion({"text": torch.randn(8, 300), "image": torch.randn(8, 512)})
    >>> fusion.uncertainty(out).shape
    torch.Size([8, 1])

    Args:
        dims: modality name -> width ``l_m``.
        outputs: number of classes ``K``; default 2, set by :func:`equifuse.build_model`.
        annealing: training steps until the ``kl`` loss has its full weight, ≥ 0; default 1000.
        evidence_weight: default weight of the ``evidence`` loss, ≥ 0; default 1.
        kl_weight: default weight of the ``kl`` loss, ≥ 0; default 1.

    ``modalities`` holds the evidence ``e_m``, ``decisions`` the logarithms of ``α_m / S_m``, ``confidence`` is
    ``1 − u_m``. ``fused`` is the logarithm of the expected probabilities ``α / S`` of the combined opinion, so its
    softmax is the mean of the Dirichlet distribution. An absent modality has no evidence, which does not change the
    combined opinion; if nothing is present all classes are equally probable and the uncertainty is 1.

    Raises:
        InputError: a value is out of range.

    Formula (Han et al. 2021, arXiv 2102.02051): each modality gives evidence ``e_m = softplus(W_m x_m + b_m)``, which
    means a Dirichlet distribution with ``α_m = e_m + 1``, ``S_m = Σ_k α_mk``, or an opinion with beliefs
    ``b_m = e_m / S_m`` and uncertainty ``u_m = K / S_m`` (eq. 2). Opinions are combined by the reduced Dempster rule
    (Definition 4),

        ``b_k = (b_1k b_2k + b_1k u_2 + b_2k u_1) / (1 − C)``, ``u = u_1 u_2 / (1 − C)``, ``C = Σ_{i≠j} b_1i b_2j``,

    which for evidence is ``1 + e_k / K = (1 + e_1k / K)(1 + e_2k / K)``: a product over any number of modalities in any
    order. The losses against the target, for each modality (mean over the samples that have it) and for the combined
    opinion, summed (eq. 7 to 9):

    - ``evidence``: the expected cross-entropy ``Σ_k y_k (ψ(S) − ψ(α_k))``;
    - ``kl``: ``KL(Dir(α̃) ‖ Dir(1))`` with ``α̃ = y + (1 − y) ⊙ α``, times ``λ_t = min(1, t / annealing)``, ``t`` the
      number of earlier calls of :meth:`target_losses` in training mode.

    Deviations from the paper: ``t`` counts training steps, not epochs, and the task's own loss, the cross-entropy of
    the mean of the Dirichlet distribution, is added in training as for any fusion.
    """

    name: ClassVar[str] = "tmc"
    tasks = ("classification",)
    steps: Tensor

    def __init__(
        self,
        dims: Mapping[str, int],
        outputs: int = 2,
        annealing: int = 1000,
        evidence_weight: float = 1.0,
        kl_weight: float = 1.0,
    ) -> None:
        super().__init__(dims, outputs)
        if annealing < 0:
            raise InputError(f"annealing must not be negative, got {annealing}")
        self.annealing = annealing
        self.target_loss_weights = check_weights(evidence=evidence_weight, kl=kl_weight)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """Log-probabilities ``(R, K)`` from rows ``(R, l_m)``."""
        logits, there = self.tokens(rows)
        evidence = torch.where(there[:, :, None], F.softplus(_wide(logits)), 0.0)
        fused = torch.log_softmax(log_concentration(evidence), dim=1)
        output = self.output(fused.to(logits.dtype), evidence.to(logits.dtype))
        alone = torch.log_softmax(torch.log1p(evidence), dim=2)
        belief = evidence.sum(2, keepdim=True)
        belief = belief / (belief + self.outputs)
        for i, m in enumerate(self.dims):
            if m in rows.values:
                output.decisions[m] = torch.where(there[:, i, None], alone[:, i], 0.0).to(logits.dtype)
                output.confidence[m] = belief[:, i].to(logits.dtype)
        return output

    def uncertainty(self, output: FusionOutput) -> Tensor:
        """The uncertainty ``u = K / S`` of the combined opinion ``(B, ..., 1)``, in (0, 1]; 1 where nothing is present.

        Args:
            output: what the call returned, also that of a GMF with this fusion as backend.
        """
        evidence = _wide(torch.stack(list(output.modalities.values()), dim=-2))
        total = torch.logsumexp(log_concentration(evidence), dim=-1, keepdim=True)
        return (math.log(self.outputs) - total).exp().to(output.fused.dtype)

    def target_losses(
        self, output: FusionOutput, target: Tensor, present: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """``evidence`` and ``kl``; see the class docstring."""
        evidence = _wide(torch.stack(list(output.modalities.values()), dim=1))
        combined = log_concentration(evidence).clamp(max=_LARGEST).exp()
        # The combined opinion is added as a modality "" that every sample has; no real one can have this name.
        opinions = {**{m: 1 + _wide(output.modalities[m]) for m in output.decisions}, "": combined}
        share = (self.steps / self.annealing).clamp(max=1) if self.annealing else 1
        if self.training:
            self.steps += 1
        return {
            "evidence": over_modalities({m: expected_cross_entropy(a, target) for m, a in opinions.items()}, present),
            "kl": share * over_modalities({m: misleading_divergence(a, target) for m, a in opinions.items()}, present),
        }


def log_concentration(evidence: Tensor) -> Tensor:
    """Logarithm of the concentration ``α`` ``(..., K)`` of the combined opinion, from evidence ``(..., M, K)``.

    ``α_k = 1 + K (Π_m (1 + e_mk / K) − 1)``, written so that no product overflows.
    """
    count = evidence.shape[-1]
    grown = torch.log1p(evidence / count).sum(-2)
    return math.log(count) + grown + torch.log1p((1 / count - 1) * (-grown).exp())


def expected_cross_entropy(alpha: Tensor, target: Tensor) -> Tensor:
    """``E[−log p_y]`` under ``Dir(α)``, ``(B,)`` from ``(B, K)`` and int64 ``(B,)``."""
    own = alpha.gather(1, target[:, None]).squeeze(1)
    return torch.digamma(alpha.sum(1)) - torch.digamma(own)


def misleading_divergence(alpha: Tensor, target: Tensor) -> Tensor:
    """``KL(Dir(α̃) ‖ Dir(1))`` ``(B,)``, ``α̃`` being ``α`` ``(B, K)`` with the evidence for the target taken away."""
    alpha = alpha.scatter(1, target[:, None], 1.0)
    total = alpha.sum(1)
    normaliser = torch.lgamma(total) - torch.lgamma(alpha).sum(1) - math.lgamma(alpha.shape[1])
    slope = torch.digamma(alpha) - torch.digamma(total)[:, None]
    return normaliser + ((alpha - 1) * slope).sum(1)


def _wide(x: Tensor) -> Tensor:
    """``x`` in at least float32, the precision in which evidence is added."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
