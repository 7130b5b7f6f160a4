"""What fusions of equal widths share: each modality projected to a common width, zeros where absent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from equifuse.errors import InputError
from equifuse.fusion.base import FlatInputs, Fusion, FusionOutput


class ProjectedFusion(Fusion):
    """Base of fusions that work on one vector of width ``dim`` per modality.

    Args:
        dims: modality name -> width ``l_m``; each is projected by an affine map.
        dim: common width, ≥ 1; default 128.

    Raises:
        InputError: ``dim`` below 1.
    """

    _map: ClassVar[type[nn.Linear]] = nn.Linear

    def __init__(self, dims: Mapping[str, int], dim: int = 128) -> None:
        super().__init__(dims)
        if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
            raise InputError(f"dim must be a whole number of at least 1, got {dim!r}")
        self.dim = self.out_dim = dim
        self.project = nn.ModuleDict({m: self._map(width, dim) for m, width in self.dims.items()})

    def tokens(self, rows: FlatInputs, maps: nn.ModuleDict | None = None) -> tuple[Tensor, Tensor]:
        """``(R, M, dim)`` in the order of ``dims``, zeros where absent, and bool ``(R, M)``, True where present.

        ``maps`` (``l_m -> dim`` for each modality) replaces the projections.
        """
        maps = self.project if maps is None else maps
        parts, masks = [], []
        for m in self.dims:
            mask = rows.mask(m)
            masks.append(mask)
            if m in rows.values:
                parts.append(torch.where(mask, maps[m](rows.values[m]), 0.0))
            else:
                like = maps[m].weight
                assert isinstance(like, Tensor)
                parts.append(torch.zeros(rows.count, self.dim, dtype=rows.like.dtype, device=like.device))
        return torch.stack(parts, dim=1), torch.cat(masks, dim=1)

    def output(self, fused: Tensor, states: Tensor, losses: dict[str, Tensor] | None = None) -> FusionOutput:
        """A :class:`FusionOutput` of ``fused`` ``(R, out_dim)`` and states ``(R, M, k)``."""
        return FusionOutput(fused, dict(zip(self.dims, states.unbind(1), strict=True)), losses or {})
