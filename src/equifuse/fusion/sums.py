"""Sum, mean and weighted sum of projected modalities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from equifuse.fusion.base import FlatInputs, FusionOutput
from equifuse.fusion.make import register
from equifuse.fusion.projected import ProjectedFusion
from equifuse.fusion.reductions import softmax_sum


@register
class Sum(ProjectedFusion):
    """Project each modality to one width and add: the simplest fusion with a result of fixed width.

    >>> fusion = ef.fusion.Sum({"text": 300, "image": 512}, dim=64)
    >>> fusion({"text": torch.randn(8, 300), "image": torch.randn(8, 512)}).fused.shape
    torch.Size([8, 64])

    Args:
        dims: modality name -> width ``l_m``.
        dim: common width; default 128.

    Formula: ``Σ_m P_m x_m`` over the modalities present.
    """

    name: ClassVar[str] = "sum"
    additive = True

    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """Add rows ``(R, l_m)`` up to ``(R, dim)``."""
        states, _ = self.tokens(rows)
        return self.output(states.sum(1), states)


@register
class Mean(ProjectedFusion):
    """Project each modality to one width and average: like :class:`Sum`, but of the same size however many are missing.

    >>> fusion = ef.fusion.Mean({"text": 300, "image": 512}, dim=64)
    >>> fusion({"text": torch.randn(8, 300)}).fused.shape  # the image is missing
    torch.Size([8, 64])

    Args:
        dims: modality name -> width ``l_m``.
        dim: common width; default 128.

    Formula: ``Σ_m P_m x_m`` divided by the number of modalities present; 0 if there is none.
    """

    name: ClassVar[str] = "mean"
    additive = True

    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """Average rows ``(R, l_m)`` to ``(R, dim)``."""
        states, there = self.tokens(rows)
        return self.output(states.sum(1) / there.sum(1, keepdim=True).clamp(min=1), states)


@register
class WeightedSum(ProjectedFusion):
    """Average the projected modalities with learned weights, which show how much each modality counts.

    >>> fusion = ef.fusion.WeightedSum({"text": 300, "image": 512}, dim=64)
    >>> torch.softmax(fusion.weights, 0).tolist()  # equal before training
    [0.5, 0.5]

    Args:
        dims: modality name -> width ``l_m``.
        dim: common width; default 128.

    Formula: ``Σ_m softmax(w)_m P_m x_m``, with the softmax over the modalities present.
    """

    name: ClassVar[str] = "weighted_sum"
    additive = True

    def __init__(self, dims: Mapping[str, int], dim: int = 128) -> None:
        super().__init__(dims, dim)
        self.weights = nn.Parameter(torch.zeros(len(self.dims)))

    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """Weigh rows ``(R, l_m)`` and add them up to ``(R, dim)``."""
        states, there = self.tokens(rows)
        return self.output(softmax_sum(self.weights.expand(states.shape[0], -1), states, there), states)
