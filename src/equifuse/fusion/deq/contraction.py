"""Bounds on Lipschitz constants, for an equilibrium that is unique by construction. See :class:`DEQFusion`."""

from __future__ import annotations

import torch
from torch import Tensor

from equifuse.fusion.deq.fusion_map import FusionWeights
from equifuse.fusion.deq.modality_map import BlockWeights

# The ε of every norm of a contractive fusion: a normalisation is then 1/√ε = 1-Lipschitz, see `scaled_blocks`.
NORM_EPS = 1.0
# Largest factor of the gate, per modality.
GATE_BOUND = 2.0
# Margin for the rounding of the bounds.
_MARGIN = 1 - 1e-3


def spectral_norm_bound(weight: Tensor) -> Tensor:
    """An upper bound of the spectral norm: differentiable, three products, at most a fifth too large at width 500.

    It is the Schatten norm of order 16, ``(Σ σ_i¹⁶)^(1/16) ≥ σ_max``, from ``tr (WᵀW)⁸ = ‖((WᵀW)²)²‖_F²``. A power
    iteration approaches ``σ_max`` from below, so it would not guarantee anything.

    Args:
        weight: ``(..., n, k)``.

    Returns:
        ``(...)``.
    """
    size = torch.linalg.matrix_norm(weight.detach()).clamp(min=torch.finfo(weight.dtype).tiny)[..., None, None]
    unit = weight / size  # so that the eighth power of the entries does not underflow
    gram = unit.mT @ unit
    for _ in range(2):
        gram = gram @ gram
    bound: Tensor = gram.square().sum((-2, -1)).pow(1 / 16) * size[..., 0, 0]
    return bound


def _largest(gain: Tensor) -> Tensor:
    return gain.abs().amax(-1)


def scaled_blocks(weights: BlockWeights, factor: float) -> BlockWeights:
    """The blocks with their outer gains shrunk, where needed, so that each ``f_m`` contracts by ``factor`` at least.

    With ``c`` the centred group and ``s² = ‖c‖²/n + ε``, the Jacobian of the normalisation is
    ``(I − ccᵀ/(n s²)) P / s``, ``P`` the centring; its norm is at most ``1/s ≤ 1/√ε = 1``. A gain multiplies that by at
    most its largest entry, ReLU by at most 1. So ``z ↦ u`` is ``L = max|γ1| ‖W1‖ max|γ2| ‖W2‖``-Lipschitz, and
    ``f_m(z) = γ3 · N(ReLU(u + z)) + β3`` is ``max|γ3| (1 + L)``-Lipschitz; ``γ3`` is multiplied by
    ``min(1, factor / (max|γ3| (1 + L)))``.
    """
    w = weights
    inner = (
        _largest(w.gain1) * _largest(w.gain2)
        * (spectral_norm_bound(w.weight1) * spectral_norm_bound(w.weight2))[:, None]
    )  # fmt: skip
    bound = (_largest(w.gain3) * (1 + inner))[..., None]
    return w._replace(gain3=w.gain3 * _shrink(bound, factor))


def scaled_fusion(weights: FusionWeights, count: int, factor: float) -> FusionWeights:
    """The fusion map's parameters with its gain shrunk, where needed, so that it contracts by ``factor`` at least.

    The state enters as ``z̄ = clamp(z, −1, 1)``, the gate as ``α = c a tanh((constant + c z̄ Wα) / (c a))`` with ``a``
    the gate's bound and ``c`` the number of modalities present. Then ``|z̄| ≤ 1``, ``|α| ≤ c a``, both maps are
    1-Lipschitz in their arguments, and ``z̄ ⊙ α`` is ``c (a + ‖Wα‖)``-Lipschitz in ``z``; without a gate it is
    ``c``-Lipschitz. Divided by ``c`` where the sum is a mean, and bounded by ``count`` otherwise, this times
    ``‖Wf‖ max|γ|`` is the constant of ``f_fuse``.

    Args:
        weights: the parameters.
        count: most modalities that can be in the sum, 1 for a mean.
        factor: to contract by.
    """
    inner = spectral_norm_bound(weights.gate) + GATE_BOUND if weights.gate is not None else weights.mix.new_ones(())
    bound = _largest(weights.gain) * spectral_norm_bound(weights.mix) * inner * count
    return weights._replace(gain=weights.gain * _shrink(bound, factor))


def _shrink(bound: Tensor, factor: float) -> Tensor:
    """``min(1, factor / bound)``."""
    return (factor * _MARGIN / bound.clamp(min=torch.finfo(bound.dtype).tiny)).clamp(max=1.0)
