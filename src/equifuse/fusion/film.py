"""Feature-wise linear modulation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from equifuse.errors import UnknownNameError
from equifuse.fusion.base import FusionOutput, Rows
from equifuse.fusion.projected import ProjectedFusion
from equifuse.fusion.registry import register


@register
class FiLM(ProjectedFusion):
    """Feature-wise linear modulation (Perez et al. 2018, arXiv 1709.07871, eq. 1–2): one modality seen through the
    others.

    ``h = γ ⊙ P x_t + β`` with ``(γ − 1, β) = Σ_{m≠t} C_m x_m``: each of the others scales and shifts the features of
    the target ``t``. An absent one does neither; without the target, ``h = β``.

    Args:
        dims: modality name -> width ``l_m``.
        dim: common width; default 128.
        target: the modality that is modulated; default the first.

    Raises:
        UnknownNameError: ``target`` is no modality.
    """

    name: ClassVar[str] = "film"

    def __init__(self, dims: Mapping[str, int], dim: int = 128, target: str | None = None) -> None:
        super().__init__(dims, dim)
        if target is not None and target not in self.dims:
            raise UnknownNameError("modality", target, self.dims)
        self.target = target or next(iter(self.dims))
        others = {m: width for m, width in self.dims.items() if m != self.target}
        self.condition = nn.ModuleDict({m: nn.Linear(width, 2 * dim) for m, width in others.items()})

    def fuse(self, rows: Rows) -> FusionOutput:
        """Modulate rows ``(R, l_m)`` to ``(R, dim)``."""
        states, _ = self.tokens(rows)
        change = states.new_zeros(rows.count, 2 * self.dim)
        for m, condition in self.condition.items():
            if m in rows.values:
                change = change + torch.where(rows.mask(m), condition(rows.values[m]), 0.0)
        gamma, beta = change.chunk(2, dim=1)
        return self.output((1 + gamma) * states[:, list(self.dims).index(self.target)] + beta, states)

    def config(self) -> dict[str, Any]:
        """Name, widths and options."""
        return {**super().config(), "target": self.target}
