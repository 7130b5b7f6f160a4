"""Gated multimodal units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from equifuse.fusion.base import FlatInputs, FusionOutput
from equifuse.fusion.make import register
from equifuse.fusion.projected import ProjectedFusion


@register
class GMU(ProjectedFusion):
    """Gated multimodal unit: learned gates decide, for each feature, how much of each modality to use.

    >>> fusion = ef.fusion.GMU({"text": 300, "image": 512}, dim=64)
    >>> fusion({"text": torch.randn(8, 300), "image": torch.randn(8, 512)}).fused.shape
    torch.Size([8, 64])

    Args:
        dims: modality name -> width ``l_m``.
        dim: common width; default 128.

    An absent modality is 0 in the gates and adds nothing; if one of two is absent, the other passes without a gate.

    Formula (Arevalo et al. 2017, arXiv 1702.01992): ``h_m = tanh(W_m x_m)``. With two modalities one gate weighs them,
    ``z = σ(W_z [x_1, x_2])``, ``h = z ⊙ h_1 + (1 − z) ⊙ h_2`` (the paper's bimodal form); otherwise each has a gate,
    ``z_m = σ(W_zm [x_1, …, x_M])``, ``h = Σ_m z_m ⊙ h_m``.
    """

    name: ClassVar[str] = "gmu"

    def __init__(self, dims: Mapping[str, int], dim: int = 128) -> None:
        super().__init__(dims, dim)
        gates = 1 if len(self.dims) == 2 else len(self.dims)
        self.gate = nn.Linear(sum(self.dims.values()), gates * dim)

    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """Gate rows ``(R, l_m)`` and add them up to ``(R, dim)``."""
        projected, there = self.tokens(rows)
        states = torch.tanh(projected)
        joined = [rows.values.get(m, rows.like.new_zeros(rows.count, width)) for m, width in self.dims.items()]
        z = torch.sigmoid(self.gate(torch.cat(joined, dim=1))).view(rows.count, -1, self.dim)
        if len(self.dims) == 2:
            z = torch.cat([z, 1 - z], dim=1)
            z = torch.where(there.all(1)[:, None, None], z, 1.0)
        return self.output((z * states).sum(1), states)
