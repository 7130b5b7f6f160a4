"""Quality-aware multimodal fusion: the decisions of the modalities, weighted by their confidence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from equifuse.errors import InputError
from equifuse.fusion.base import FlatInputs, FusionOutput
from equifuse.fusion.decision import DecisionFusion, check_weights, unimodal
from equifuse.fusion.make import register


@register
class QMF(DecisionFusion):
    """Quality-aware fusion: each modality classifies, and confident decisions count more, sample by sample.

    For classification where the quality of the modalities varies from sample to sample.

    >>> fusion = ef.fusion.QMF({"text": 300, "image": 512}, outputs=3)
    >>> out = fusion({"text": torch.randn(8, 300), "image": torch.randn(8, 512)})
    >>> out.fused.shape, out.confidence["text"].shape
    (torch.Size([8, 3]), torch.Size([8, 1]))

    Args:
        dims: modality name -> width ``l_m``.
        outputs: number of classes ``K``; default 2, set by :func:`equifuse.build_model`.
        scale: how fast the weights fall with the energy, > 0; default 0.1, as in the published code.
        unimodal_weight: default weight of the ``unimodal`` loss, ≥ 0; default 1.
        ranking_weight: default weight of the ``ranking`` loss, ≥ 0; default 1.

    ``modalities`` and ``decisions`` hold the ``f_m``, ``confidence`` the ``c_m``; if nothing is present ``fused`` is 0.

    Raises:
        InputError: a value is out of range.

    Formula (Zhang et al. 2023, arXiv 2306.02050): ``fused = Σ_m c_m f_m`` over the modalities present, with
    ``f_m = W_m x_m + b_m``. The weight is ``c_m = −scale · E_m`` with the energy ``E_m = −log Σ_k exp f_mk`` of the
    sample; ``fused`` passes no gradient into it. As in the paper the weights are not normalised, and may be negative.
    The losses against the target, summed over modalities, each over the samples that have the modality:

    - ``unimodal``: cross-entropy of ``f_m``;
    - ``ranking``: a sample with a larger loss must have the smaller weight,
      ``mean max(0, g (c_i − c_j) + |κ_i − κ_j|)`` with ``g = sign(κ_i − κ_j)``, over pairs of a sample ``i`` and the
      next one in the batch; ``κ`` is the cross-entropy, without gradient, scaled to [0, 1] over the batch.

    Deviations: in the paper ``κ`` is a sample's mean loss over the training so far; here it is that of the current
    step, so that nothing has to be stored, and an interrupted run continues as if it had not been interrupted. The
    published code subtracts the margin ``|κ_i − κ_j|`` where the formula adds it; here it is added.
    """

    name: ClassVar[str] = "qmf"
    tasks = ("classification",)

    def __init__(
        self,
        dims: Mapping[str, int],
        outputs: int = 2,
        scale: float = 0.1,
        unimodal_weight: float = 1.0,
        ranking_weight: float = 1.0,
    ) -> None:
        super().__init__(dims, outputs)
        if not scale > 0:
            raise InputError(f"scale must be positive, got {scale}")
        self.scale = scale
        self.target_loss_weights = check_weights(unimodal=unimodal_weight, ranking=ranking_weight)

    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """Weigh the decisions on rows ``(R, l_m)`` and add them up to ``(R, K)``."""
        logits, there = self.tokens(rows)
        sure = self.scale * torch.logsumexp(logits, dim=2, keepdim=True)
        sure = torch.where(there[:, :, None], sure, 0.0)
        output = self.decided((sure.detach() * logits).sum(1), logits, rows)
        output.confidence = {m: sure[:, i] for i, m in enumerate(self.dims) if m in rows.values}
        return output

    def target_losses(
        self, output: FusionOutput, target: Tensor, present: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """``unimodal`` and ``ranking``; see the class docstring."""
        ranking = output.fused.new_zeros(())
        for m, logits in output.decisions.items():
            here = (present or {}).get(m, slice(None))
            loss = F.cross_entropy(logits[here].detach(), target[here], reduction="none")
            ranking = ranking + ranking_loss(output.confidence[m][here].squeeze(1), loss)
        return {"unimodal": unimodal(output, target, present), "ranking": ranking}


def ranking_loss(confidence: Tensor, loss: Tensor) -> Tensor:
    """``mean max(0, g (c_i − c_{i+1}) + |κ_i − κ_{i+1}|)`` of ``(n,)`` confidences and losses; 0 for none."""
    if len(loss) == 0:
        return confidence.sum()
    low, high = loss.aminmax()
    scaled = (loss - low) / (high - low).clamp(min=torch.finfo(loss.dtype).tiny)
    apart = scaled - scaled.roll(-1)
    return F.relu(apart.sign() * (confidence - confidence.roll(-1)) + apart.abs()).mean()
