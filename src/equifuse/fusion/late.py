"""Late fusion: each modality predicts on its own, and the predictions are averaged, or put together as evidence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from equifuse.errors import UnknownNameError
from equifuse.fusion.base import FlatInputs, FusionOutput
from equifuse.fusion.decision import DecisionFusion
from equifuse.fusion.make import register
from equifuse.fusion.output_map import OutputMap, OutputOffset
from equifuse.fusion.reductions import shares

_WAYS = ("logits", "probabilities", "weighted", "committee")


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
            ``"probabilities"`` averages the class probabilities (classification only). ``"committee"`` (the default of
            regression in :func:`equifuse.build_model`) adds up evidence, as a Bayesian committee machine does (Tresp
            2000): a modality that says little moves the prediction little, in place of drawing it to the mean.

    ``modalities`` holds the ``f_m``, 0 where absent. If nothing is present ``fused`` is 0 (or uniform, or ``o``).

    Raises:
        UnknownNameError: another ``combine``.
        InputError: ``outputs`` is below 1.

    Formula: ``f_m = W_m x_m + b_m``; ``"logits"`` is ``mean_m f_m``, ``"weighted"`` is ``Σ_m softmax(w)_m f_m`` with
    weights equal before training, ``"probabilities"`` is ``log mean_m softmax(f_m)``, so that the softmax of ``fused``
    is the average of the probabilities. ``"committee"`` is ``o + Σ_m (1 + e_m)(f_m − o) / (1 + Σ_m e_m)``, per output,
    with a learned offset ``o`` and learned ``e_m ≥ 0``: the precision that modality ``m`` adds, in that of knowing
    nothing. Gaussian predictions of a target, independent given it, are put together so. All over the modalities
    present.
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
        if combine == "committee":
            self.precision = nn.Parameter(torch.zeros(len(self.dims), outputs))  # e is its softplus
            self.offset = OutputOffset(outputs)

    @classmethod
    def suited(cls, quantities: bool) -> dict[str, Any]:
        """Evidence is added up where quantities are predicted."""
        return {"combine": "committee"} if quantities else {}

    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """Predict from rows ``(R, l_m)`` and average to ``(R, K)``."""
        logits, there = self.tokens(rows)
        if self.combine == "committee":
            return self.decided(self._evidence(logits, there), logits, rows)
        scores = self.weights if self.combine == "weighted" else logits.new_zeros(len(self.dims))
        weights = shares(scores.expand(rows.count, -1), there)[:, :, None]
        if self.combine == "probabilities":
            # Absent modalities have zeros, so without any modality the probabilities are uniform.
            fused = torch.logsumexp(torch.log_softmax(logits, dim=2) + weights.log(), dim=1)
        else:
            fused = (weights * logits).sum(1)
        return self.decided(fused, logits, rows)

    def _evidence(self, said: Tensor, there: Tensor) -> Tensor:
        """What the committee says, ``(R, K)``.

        Args:
            said: by the modalities, ``(R, M, K)``, 0 where absent.
            there: bool ``(R, M)``, True where present.
        """
        here = there[:, :, None].to(said.dtype)
        added = here * functional.softplus(self.precision)
        total = (said * (here + added)).sum(1) + (1 - here.sum(1)) * self.offset.value()
        return total / (1 + added.sum(1))

    def output_maps(self) -> list[OutputMap]:
        """The affine maps of all modalities, and the offset."""
        maps = [layer for layer in self.project.values() if isinstance(layer, OutputMap)]
        return [*maps, self.offset] if self.combine == "committee" else maps
