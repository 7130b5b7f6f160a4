"""Multimodal transfer module: squeeze and excitation across modalities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from equifuse.errors import InputError
from equifuse.fusion.base import FlatInputs, Fusion, FusionOutput
from equifuse.fusion.make import register


@register
class MMTM(Fusion):
    """Multimodal transfer module: all modalities together raise or lower each feature; then they are concatenated.

    >>> fusion = ef.fusion.MMTM({"text": 300, "image": 512})
    >>> fusion({"text": torch.randn(8, 300), "image": torch.randn(8, 512)}).fused.shape
    torch.Size([8, 812])

    Args:
        dims: modality name -> width ``l_m``; they may differ. ``out_dim`` is ``Σ l_m``.
        ratio: how many times narrower the joint vector ``z`` is than all features together; default 4, as in the paper.

    An absent modality is 0 in the joint vector and in the output. Vectors have no positions to squeeze; for feature
    maps fuse their spatial means and multiply the maps by the result.

    Raises:
        InputError: ``ratio`` is below 1.

    Formula (Vaezi Joze et al. 2020, arXiv 1911.08670): ``z = ReLU(W [x_1, …, x_M] + b)``,
    ``x'_m = 2 σ(W_m z + b_m) ⊙ x_m``.
    """

    name: ClassVar[str] = "mmtm"

    def __init__(self, dims: Mapping[str, int], ratio: int = 4) -> None:
        super().__init__(dims)
        if ratio < 1:
            raise InputError(f"ratio must be at least 1, got {ratio}")
        total = sum(self.dims.values())
        self.ratio, self.out_dim = ratio, total
        self.squeeze = nn.Linear(total, max(1, 2 * total // (len(self.dims) * ratio)))
        self.excite = nn.ModuleDict({m: nn.Linear(self.squeeze.out_features, width) for m, width in self.dims.items()})

    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """Recalibrate rows ``(R, l_m)`` and join them to ``(R, out_dim)``."""
        given = {m: rows.values.get(m, rows.like.new_zeros(rows.count, width)) for m, width in self.dims.items()}
        z = F.relu(self.squeeze(torch.cat(list(given.values()), dim=1)))
        states = {m: 2 * torch.sigmoid(self.excite[m](z)) * x for m, x in given.items()}
        return FusionOutput(torch.cat(list(states.values()), dim=1), states)
