"""A fusion: of each feature the largest value over the modalities that are there."""

from collections.abc import Mapping

import torch

from equifuse.fusion import FusionOutput
from equifuse.fusion.base import FlatInputs
from equifuse.fusion.projected import ProjectedFusion


class Largest(ProjectedFusion):
    """Max pooling of the modalities, projected to width ``dim``, times ``scale``; 0 where none is there."""

    name = "largest"

    def __init__(self, dims: Mapping[str, int], dim: int = 64, *, scale: float = 1.0) -> None:
        super().__init__(dims, dim)
        self.scale = scale

    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """Fuse rows ``(R, l_m)`` to ``(R, dim)``."""
        states, there = self.tokens(rows)  # (R, M, dim), and bool (R, M)
        largest = states.masked_fill(~there[:, :, None], -torch.inf).amax(dim=1)
        return self.output(self.scale * torch.where(there.any(dim=1, keepdim=True), largest, 0.0), states)
