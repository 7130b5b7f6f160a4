"""Concatenation, the baseline of every comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from equifuse.errors import InputError
from equifuse.fusion.base import FlatInputs, Fusion, FusionOutput
from equifuse.fusion.make import register


@register
class Concat(Fusion):
    """Concatenate the modalities: the baseline that every other fusion should be compared with.

    >>> fusion = ef.Concat({"text": 3, "image": 2})
    >>> fusion({"text": torch.ones(1, 3)}).fused  # the image is missing: zeros
    tensor([[1., 1., 1., 0., 0.]])

    Args:
        dims: modality name -> width ``l_m``.
        dim: project each modality to this width by an affine map first; None (default) leaves them as they are.

    ``out_dim`` is ``Σ l_m``, or ``M · dim`` with projections. ``modalities`` holds the parts, zeros where absent.

    Raises:
        InputError: ``dim`` is below 1.
    """

    name: ClassVar[str] = "concat"
    additive = True

    def __init__(self, dims: Mapping[str, int], dim: int | None = None) -> None:
        super().__init__(dims)
        if dim is not None and dim < 1:
            raise InputError(f"dim must be at least 1 or None, got {dim}")
        self.dim = dim
        self.project = nn.ModuleDict({m: nn.Linear(width, dim) for m, width in self.dims.items()} if dim else {})
        self.out_dim = len(self.dims) * dim if dim else sum(self.dims.values())

    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """Concatenate rows ``(R, l_m)`` to ``(R, out_dim)``."""
        parts = {}
        for name, width in self.dims.items():
            if name not in rows.values:
                parts[name] = rows.like.new_zeros(rows.count, self.dim or width)
                continue
            part = rows.values[name]
            if self.dim:
                part = self.project[name](part)
                mask = rows.masks[name]
                part = part if mask is None else torch.where(mask, part, 0.0)
            parts[name] = part
        return FusionOutput(torch.cat(list(parts.values()), dim=-1), parts)
