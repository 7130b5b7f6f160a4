"""Feature-wise linear modulation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from equifuse.errors import InputError, UnknownNameError
from equifuse.fusion.base import FlatInputs, Fusion, FusionOutput
from equifuse.fusion.make import register


@register
class FiLM(Fusion):
    """Feature-wise linear modulation: the other modalities scale and shift the features of one target modality.

    Use it where one modality is the main one and the others give context.

    >>> fusion = ef.fusion.FiLM({"image": 512, "age": 1}, dim=64, target="image")
    >>> fusion({"image": torch.randn(8, 512), "age": torch.randn(8, 1)}).fused.shape
    torch.Size([8, 64])

    Args:
        dims: modality name -> width ``l_m``; they may differ.
        dim: width of the result; default 128.
        target: the modality that is modulated; default the first.

    An absent modality does not modulate; without the target the result is the shift alone. ``modalities`` holds
    ``P x_t`` of the target, and ``C_m x_m`` of the others, which is twice as wide.

    Raises:
        InputError: ``dim`` is below 1.
        UnknownNameError: ``target`` is no modality.

    Formula (Perez et al. 2018, arXiv 1709.07871, eq. 1 and 2): ``h = γ ⊙ P x_t + β`` with
    ``(γ − 1, β) = Σ_{m≠t} C_m x_m``.
    """

    name: ClassVar[str] = "film"

    def __init__(self, dims: Mapping[str, int], dim: int = 128, target: str | None = None) -> None:
        super().__init__(dims)
        if dim < 1:
            raise InputError(f"dim must be at least 1, got {dim}")
        if target is not None and target not in self.dims:
            raise UnknownNameError("modality", target, self.dims)
        self.dim = self.out_dim = dim
        self.target = target or next(iter(self.dims))
        widths = {m: dim if m == self.target else 2 * dim for m in self.dims}
        self.maps = nn.ModuleDict({m: nn.Linear(self.dims[m], width) for m, width in widths.items()})

    def current_options(self) -> dict[str, Any]:
        """The target by name."""
        return {**super().current_options(), "target": self.target}

    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """Modulate rows ``(R, l_m)`` to ``(R, dim)``."""
        states = {}
        for m, width in self.dims.items():
            x = rows.values.get(m, rows.like.new_zeros(rows.count, width))
            states[m] = torch.where(rows.mask(m), self.maps[m](x), 0.0)
        change = rows.like.new_zeros(rows.count, 2 * self.dim)
        for m, state in states.items():
            change = change if m == self.target else change + state
        gamma, beta = change.chunk(2, dim=1)
        return FusionOutput((1 + gamma) * states[self.target] + beta, states)
