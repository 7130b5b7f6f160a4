"""Gaussian experts: each modality predicts a distribution of the fused state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from equifuse.errors import InputError
from equifuse.fusion.base import FlatInputs, Fusion, FusionOutput
from equifuse.fusion.make import register

# Largest absolute log-variance, so that no expert has infinite or zero precision.
_WIDEST = 8.0


class _Experts(Fusion):
    """Base: one Gaussian ``N(μ_m, σ_m²)`` per modality from an affine map.

    Args:
        dims: modality name -> width ``l_m``; they may differ.
        dim: width of the state.
        kl_weight: default weight of the ``kl`` loss, ≥ 0.

    Raises:
        InputError: a value out of range.
    """

    def __init__(self, dims: Mapping[str, int], dim: int = 128, kl_weight: float = 1e-3) -> None:
        super().__init__(dims)
        if dim < 1 or kl_weight < 0:
            raise InputError(f"dim must be at least 1 and kl_weight not negative, got {dim} and {kl_weight}")
        self.dim = self.out_dim = dim
        self.loss_weights = {"kl": kl_weight} if kl_weight else {}
        self.kl_weight = kl_weight
        self.experts = nn.ModuleDict({m: nn.Linear(width, 2 * dim) for m, width in self.dims.items()})

    def beliefs(self, rows: FlatInputs) -> tuple[Tensor, Tensor, Tensor]:
        """Means and log-variances ``(R, M, dim)``, zeros where absent, and ``(R, M, 1)``, 1 where present."""
        found, there = [], []
        for m, width in self.dims.items():
            x = rows.values.get(m, rows.like.new_zeros(rows.count, width))
            mask = rows.mask(m)
            found.append(torch.where(mask, self.experts[m](x), 0.0))
            there.append(mask)
        mean, spread = torch.stack(found, dim=1).chunk(2, dim=2)
        return mean, spread.clamp(-_WIDEST, _WIDEST), torch.stack(there, dim=1).to(mean.dtype)

    def losses(self, divergence: Tensor) -> dict[str, Tensor]:
        """The ``kl`` loss, if it has a weight."""
        return {"kl": divergence.mean()} if self.kl_weight else {}


def _divergence(mean: Tensor, spread: Tensor) -> Tensor:
    """``KL(N(mean, exp(spread)) ‖ N(0, 1))``, summed over the last axis."""
    return 0.5 * (mean.square() + spread.exp() - spread - 1).sum(-1)


@register
class ProductOfExperts(_Experts):
    """Product of experts: each modality predicts a mean and a variance, and certain modalities count more.

    The usual choice for multimodal variational autoencoders; a missing modality is simply left out of the product.

    >>> fusion = ef.fusion.ProductOfExperts({"text": 300, "image": 512}, dim=64)
    >>> out = fusion({"text": torch.randn(8, 300), "image": torch.randn(8, 512)})
    >>> out.fused.shape, list(out.losses)
    (torch.Size([8, 64]), ['kl'])

    Args:
        dims: modality name -> width ``l_m``; they may differ.
        dim: width of the state; default 128.
        kl_weight: default weight of the ``kl`` loss, ≥ 0; default 1e-3.

    Raises:
        InputError: a value is out of range.

    Formula (Wu & Goodman 2018, arXiv 1802.05335): the product of the Gaussians ``N(μ_m, σ_m²)`` of the modalities
    present and a standard normal prior. With ``T_m = 1 / σ_m²`` it has precision ``T = 1 + Σ_m T_m`` and mean
    ``Σ_m T_m μ_m / T``; ``fused`` is the mean. The ``kl`` loss is the divergence of the product from the prior, per
    sample.
    """

    name: ClassVar[str] = "poe"

    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """The mean ``(R, dim)`` of the product."""
        mean, spread, there = self.beliefs(rows)
        precision = there * (-spread).exp()
        total = 1 + precision.sum(1)
        fused = (precision * mean).sum(1) / total
        states = dict(zip(self.dims, mean.unbind(1), strict=True))
        return FusionOutput(fused, states, self.losses(_divergence(fused, -total.log())))


@register
class MixtureOfExperts(_Experts):
    """Mixture of experts: each modality predicts a mean and a variance, and every modality counts the same.

    >>> fusion = ef.fusion.MixtureOfExperts({"text": 300, "image": 512}, dim=64)
    >>> fusion({"text": torch.randn(8, 300), "image": torch.randn(8, 512)}).fused.shape
    torch.Size([8, 64])

    Args:
        dims: modality name -> width ``l_m``; they may differ.
        dim: width of the state; default 128.
        kl_weight: default weight of the ``kl`` loss, ≥ 0; default 1e-3.

    Raises:
        InputError: a value is out of range.

    Formula (Shi et al. 2019, arXiv 1911.03393): ``fused`` is the mean of the mixture, the average of the ``μ_m``
    present. The ``kl`` loss is the average divergence of the experts from a standard normal prior, per sample.
    """

    name: ClassVar[str] = "moe"
    additive = True

    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """The mean ``(R, dim)`` of the mixture."""
        mean, spread, there = self.beliefs(rows)
        share = there / there.sum(1, keepdim=True).clamp(min=1)
        divergence = (share.squeeze(2) * _divergence(mean, spread)).sum(1)
        states = dict(zip(self.dims, mean.unbind(1), strict=True))
        return FusionOutput((share * mean).sum(1), states, self.losses(divergence))
