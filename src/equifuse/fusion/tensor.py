"""Products of modalities: the full outer product, its low-rank form, and factorised bilinear pooling."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from equifuse.errors import InputError
from equifuse.fusion.base import FlatInputs, Fusion, FusionOutput
from equifuse.fusion.make import register
from equifuse.fusion.projected import ProjectedFusion

# Largest outer product, in numbers.
_LARGEST = 2**20


@register
class TensorFusion(ProjectedFusion):
    """Tensor fusion: the outer product of all modalities, so that every product of features is available to the head.

    The width grows fast with the number of modalities; use :class:`LowRankFusion` for more than two or three.

    >>> fusion = ef.fusion.TensorFusion({"text": 300, "image": 512}, dim=8)
    >>> fusion.out_dim  # (8 + 1)²
    81

    Args:
        dims: modality name -> width ``l_m``.
        dim: width to which each modality is projected first; default 8. ``out_dim`` is ``(dim + 1)^M``.

    An absent modality is ``[0; 1]``, which leaves the tensor of the others.

    Raises:
        InputError: the product would have over a million numbers.

    Formula (Zadeh et al. 2017, arXiv 1707.07250): ``⊗_m [z_m; 1]``, flattened.
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
    """Low-rank tensor fusion: tensor fusion followed by a linear map, without ever forming the tensor.

    Products of all modalities at a cost that grows only linearly with their number.

    >>> fusion = ef.fusion.LowRankFusion({"text": 300, "audio": 74, "video": 35}, dim=64, rank=4)
    >>> fusion({"text": torch.randn(8, 300)}).fused.shape
    torch.Size([8, 64])

    Args:
        dims: modality name -> width ``l_m``; they may differ.
        dim: width of the result; default 128.
        rank: number of factors; default 4.

    An absent modality is ``[0; 1]``.

    Raises:
        InputError: a value is below 1.

    Formula (Liu et al. 2018, arXiv 1806.00064, eq. 6): ``h = Σ_r w_r Π_m (W_m^(r) [x_m; 1]) + b``.
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


@register
class BilinearFusion(Fusion):
    """Factorised bilinear pooling: products of the modalities' features, pooled and normalised to unit length.

    A common choice for questions about images.

    >>> fusion = ef.fusion.BilinearFusion({"question": 300, "image": 512}, dim=64)
    >>> fusion({"question": torch.randn(8, 300), "image": torch.randn(8, 512)}).fused.shape
    torch.Size([8, 64])

    Args:
        dims: modality name -> width ``l_m``; they may differ.
        dim: width of the result; default 128.
        factors: factors per output ``k``; default 5, as in the paper.
        dropout: rate in [0, 1); default 0.1, as in the paper.

    An absent modality is left out of the product.

    Raises:
        InputError: a value is out of range.

    Formula (Yu et al. 2017, arXiv 1708.01471): ``z = SumPool(Π_m U_m x_m, k)`` with dropout before pooling, then
    ``sign(z) √|z|`` and L2 normalisation; for more than two modalities the product of all.
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
        # The slope of the root is infinite at 0; a shift this far below the product's rounding does not matter.
        rooted = z.sign() * (z.abs() + torch.finfo(z.dtype).eps).sqrt()
        return FusionOutput(F.normalize(torch.where(z == 0, 0.0, rooted), dim=1), states)
