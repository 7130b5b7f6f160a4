"""Products of modalities: the whole outer product, low-rank factors of it, and factorised bilinear pooling."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from equifuse.errors import InputError
from equifuse.fusion.base import FlatInputs, Fusion, FusionOutput
from equifuse.fusion.make import register
from equifuse.fusion.projected import ProjectedFusion

# Numbers in the outer product that is still formed.
_LARGEST = 2**20


@register
class TensorFusion(ProjectedFusion):
    """Tensor fusion network (Zadeh et al. 2017, arXiv 1707.07250): ``⊗_m [z_m; 1]``, flattened.

    Every product of features of any of the modalities occurs once. An absent modality is ``[0; 1]``: what is left is
    the tensor of the others.

    Args:
        dims: modality name -> width ``l_m``.
        dim: width that each is projected to first; default 8. ``out_dim = (dim + 1)^M``.

    Raises:
        InputError: the product would have over a million numbers.
    """

    name: ClassVar[str] = "tensor"

    def __init__(self, dims: Mapping[str, int], dim: int = 8) -> None:
        super().__init__(dims, dim)
        self.out_dim = (dim + 1) ** len(self.dims)
        if self.out_dim > _LARGEST:
            raise InputError(
                f"the outer product of {len(self.dims)} modalities of width {dim} has {self.out_dim:,} numbers; "
                "lower dim, or use fusion 'lowrank'"
            )

    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """The outer product ``(R, out_dim)`` of rows ``(R, l_m)``."""
        states, _ = self.tokens(rows)
        fused = states.new_ones(rows.count, 1)
        for state in F.pad(states, (0, 1), value=1.0).unbind(1):
            fused = (fused[:, :, None] * state[:, None]).flatten(1)
        return self.output(fused, states)


@register
class LowRankFusion(Fusion):
    """Low-rank multimodal fusion (Liu et al. 2018, arXiv 1806.00064, eq. 6): tensor fusion and a linear map, never
    formed.

    ``h = Σ_r w_r Π_m (W_m^(r) [x_m; 1]) + b``. An absent modality is ``[0; 1]``.

    Args:
        dims: modality name -> width ``l_m``; they may differ.
        dim: width of ``h``; default 128.
        rank: number of factors; default 4.

    Raises:
        InputError: a value below 1.
    """

    name: ClassVar[str] = "lowrank"

    def __init__(self, dims: Mapping[str, int], dim: int = 128, rank: int = 4) -> None:
        super().__init__(dims)
        if dim < 1 or rank < 1:
            raise InputError(f"dim and rank must be at least 1, got {dim} and {rank}")
        self.dim = self.out_dim = dim
        self.rank = rank
        self.factors = nn.ModuleDict({m: nn.Linear(width, rank * dim) for m, width in self.dims.items()})
        self.weights = nn.Parameter(torch.full((rank,), 1 / math.sqrt(rank)))
        self.bias = nn.Parameter(torch.zeros(dim))

    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """``(R, dim)`` from rows ``(R, l_m)``."""
        product: Tensor | float = 1.0
        states = {}
        for m, width in self.dims.items():
            x = rows.values.get(m, rows.like.new_zeros(rows.count, width))
            factor = self.factors[m](x).view(rows.count, self.rank, self.dim)
            states[m] = torch.where(rows.mask(m), factor.mean(1), 0.0)
            product = factor * product
        assert isinstance(product, Tensor)
        return FusionOutput((self.weights[:, None] * product).sum(1) + self.bias, states)

    def config(self) -> dict[str, Any]:
        """Name, widths and options."""
        return {"name": self.name, "dims": self.dims, "dim": self.dim, "rank": self.rank}


@register
class BilinearFusion(Fusion):
    """Multimodal factorised bilinear pooling (Yu et al. 2017, arXiv 1708.01471).

    ``z = SumPool(Π_m U_m x_m, k)``, dropout before pooling, then ``sign(z) √|z|`` and L2 normalisation; for more than
    two modalities the product of all. An absent modality is left out of the product.

    Args:
        dims: modality name -> width ``l_m``; they may differ.
        dim: width of ``z``; default 128.
        factors: ``k``, factors per output; default 5, as in the paper.
        dropout: in [0, 1); default 0.1, as in the paper.

    Raises:
        InputError: a value out of range.
    """

    name: ClassVar[str] = "bilinear"

    def __init__(self, dims: Mapping[str, int], dim: int = 128, factors: int = 5, dropout: float = 0.1) -> None:
        super().__init__(dims)
        if dim < 1 or factors < 1 or not 0 <= dropout < 1:
            raise InputError(f"dim and factors must be at least 1, dropout in [0, 1); got {dim}, {factors}, {dropout}")
        self.dim = self.out_dim = dim
        self.factors, self.rate = factors, dropout
        self.maps = nn.ModuleDict({m: nn.Linear(width, factors * dim) for m, width in self.dims.items()})
        self.dropout = nn.Dropout(dropout)

    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """``(R, dim)`` from rows ``(R, l_m)``."""
        product: Tensor | None = None
        states = {}
        for m in self.dims:
            mask = rows.mask(m)
            if m not in rows.values:
                states[m] = rows.like.new_zeros(rows.count, self.dim)
                continue
            factor = self.maps[m](rows.values[m])
            states[m] = torch.where(mask, factor.view(rows.count, self.dim, self.factors).sum(2), 0.0)
            factor = torch.where(mask, factor, 1.0)
            product = factor if product is None else product * factor
        assert product is not None
        nothing = ~torch.cat([rows.mask(m) for m in self.dims], dim=1).any(1, keepdim=True)
        z = self.dropout(product).view(rows.count, self.dim, self.factors).sum(2)
        z = torch.where(nothing, 0.0, z)
        # The root's slope is infinite at 0; that far below the rounding of the product it makes no difference.
        rooted = z.sign() * (z.abs() + torch.finfo(z.dtype).eps).sqrt()
        return FusionOutput(F.normalize(torch.where(z == 0, 0.0, rooted), dim=1), states)

    def config(self) -> dict[str, Any]:
        """Name, widths and options."""
        options = {"dim": self.dim, "factors": self.factors, "dropout": self.rate}
        return {"name": self.name, "dims": self.dims, **options}
