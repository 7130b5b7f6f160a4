"""Sum, mean and weighted sum: the least that a fusion can do."""

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
    """``Σ_m P_m x_m`` over the modalities present.

    Args:
        dims: modality name -> width ``l_m``.
        dim: common width; default 128.
    """

    name: ClassVar[str] = "sum"

    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """Add rows ``(R, l_m)`` up to ``(R, dim)``."""
        states, _ = self.tokens(rows)
        return self.output(states.sum(1), states)


@register
class Mean(ProjectedFusion):
    """``Σ_m P_m x_m`` divided by the number of modalities present; 0 without any.

    Args:
        dims: modality name -> width ``l_m``.
        dim: common width; default 128.
    """

    name: ClassVar[str] = "mean"

    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """Average rows ``(R, l_m)`` to ``(R, dim)``."""
        states, there = self.tokens(rows)
        return self.output(states.sum(1) / there.sum(1, keepdim=True).clamp(min=1), states)


@register
class WeightedSum(ProjectedFusion):
    """``Σ_m softmax(w)_m P_m x_m``, the softmax over the modalities present; learned weights, equal at first.

    Args:
        dims: modality name -> width ``l_m``.
        dim: common width; default 128.
    """

    name: ClassVar[str] = "weighted_sum"

    def __init__(self, dims: Mapping[str, int], dim: int = 128) -> None:
        super().__init__(dims, dim)
        self.weights = nn.Parameter(torch.zeros(len(self.dims)))

    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """Weigh rows ``(R, l_m)`` and add them up to ``(R, dim)``."""
        states, there = self.tokens(rows)
        return self.output(softmax_sum(self.weights.expand(states.shape[0], -1), states, there), states)
