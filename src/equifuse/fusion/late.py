"""Late fusion: each modality predicts on its own, and the predictions are averaged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from equifuse.errors import UnknownNameError
from equifuse.fusion.base import FlatInputs, FusionOutput
from equifuse.fusion.decision import DecisionFusion
from equifuse.fusion.make import register
from equifuse.fusion.output_map import OutputMap
from equifuse.fusion.reductions import shares

_WAYS = ("logits", "probabilities", "weighted")


@register
class LateFusion(DecisionFusion):
    """Late fusion: each modality makes its own prediction, and the predictions are averaged.

    Robust to missing modalities, and easy to read: ``out.decisions`` has the prediction of each modality. It cannot
    learn interactions between modalities.

    >>> fusion = ef.fusion.LateFusion({"text": 300, "image": 512}, outputs=3)
    >>> out = fusion({"text": torch.randn(8, 300), "image": torch.randn(8, 512)})
    >>> out.fused.shape, out.decisions["text"].shape
    (torch.Size([8, 3]), torch.Size([8, 3]))

    Args:
        dims: modality name -> width ``l_m``.
        outputs: number of classes or other outputs ``K``; default 2, set by :func:`equifuse.build_model`.
        combine: ``"logits"`` (default) averages the raw outputs, ``"weighted"`` averages them with learned weights,
            ``"probabilities"`` averages the class probabilities (classification only).

    ``modalities`` holds the ``f_m``, 0 where absent. If nothing is present ``fused`` is 0 (or uniform).

    Raises:
        UnknownNameError: another ``combine``.
        InputError: ``outputs`` is below 1.

    Formula: ``f_m = W_m x_m + b_m``; ``"logits"`` is ``mean_m f_m``, ``"weighted"`` is ``Σ_m softmax(w)_m f_m`` with
    weights equal before training, ``"probabilities"`` is ``log mean_m softmax(f_m)``, so that the softmax of ``fused``
    is the average of the probabilities. All over the modalities present.
    """

    name: ClassVar[str] = "late"

    def __init__(self, dims: Mapping[str, int], outputs: int = 2, combine: str = "logits") -> None:
        super().__init__(dims, outputs)
        if combine not in _WAYS:
            raise UnknownNameError("way to combine", combine, _WAYS)
        self.combine = combine
        if combine == "probabilities":
            self.tasks = ("classification",)
        if combine == "weighted":
            self.weights = nn.Parameter(torch.zeros(len(self.dims)))

    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """Predict from rows ``(R, l_m)`` and average to ``(R, K)``."""
        logits, there = self.tokens(rows)
        scores = self.weights if self.combine == "weighted" else logits.new_zeros(len(self.dims))
        weights = shares(scores.expand(rows.count, -1), there)[:, :, None]
        if self.combine == "probabilities":
            # Absent modalities have zeros, so without any modality the probabilities are uniform.
            fused = torch.logsumexp(torch.log_softmax(logits, dim=2) + weights.log(), dim=1)
        else:
            fused = (weights * logits).sum(1)
        return self.decided(fused, logits, rows)

    def output_maps(self) -> list[OutputMap]:
        """The affine maps of all modalities."""
        return [layer for layer in self.project.values() if isinstance(layer, OutputMap)]
