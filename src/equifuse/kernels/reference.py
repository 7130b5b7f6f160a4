"""The kernels as plain torch operations: any device and dtype, differentiable, and the definition of the fused forms.

Shapes: ``M`` blocks of ``n`` rows of ``d`` numbers, ``(M, n, d)``; gains and shifts ``(M, 1, d)``. A norm is GroupNorm
with four groups. Results are new tensors.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

GROUPS = 4


def _grouped(x: Tensor) -> Tensor:
    """``(..., d)`` viewed as ``(..., 4, d / 4)``."""
    return x.reshape(*x.shape[:-1], GROUPS, x.shape[-1] // GROUPS)


def normalise(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """GroupNorm without an affine part: the normalised ``(..., d)`` and the reciprocal deviations ``(..., 4, 1)``."""
    grouped = _grouped(x)
    normal, _, scale = torch.native_layer_norm(grouped, grouped.shape[-1:], None, None, eps)
    return normal.flatten(-2), scale


def normalise_vjp(normal: Tensor, scale: Tensor, g: Tensor) -> Tensor:
    """The derivative of :func:`normalise`, transposed, applied to ``g`` ``(..., d)``."""
    n, grouped = _grouped(normal), _grouped(g)
    along = (grouped * n).mean(-1, keepdim=True)
    at_input: Tensor = (grouped - grouped.mean(-1, keepdim=True) - n * along) * scale
    return at_input.flatten(-2)


def norm_relu(c: Tensor, gain: Tensor, shift: Tensor, eps: float) -> Tensor:
    """``ReLU(GN(c) · gain + shift)``: the first half of a modality block."""
    return F.relu(torch.addcmul(shift, normalise(c, eps)[0], gain))


class TailWeights(NamedTuple):
    """The affine parts of the last two norms of a modality block, each ``(M, 1, d)``."""

    gain2: Tensor
    shift2: Tensor
    gain3: Tensor
    shift3: Tensor


def block_tail(
    c: Tensor, z: Tensor, weights: TailWeights, mask: Tensor | None, eps: float, repeats: int = 0
) -> tuple[Tensor, Tensor]:
    """``GN(ReLU(u + z))`` with ``u = GN(c)``, each norm with its affine part: the second half of a modality block.

    Args:
        c: ``(M, n, d)`` the second product.
        z: ``(M, n, d)`` the state.
        weights: the affine parts.
        mask: bool ``(M, n, 1)``; results are 0 where it is False. None for all.
        eps: ε of the norms.
        repeats: how often ``z ↦ GN(ReLU(u + z))`` is repeated, with ``u`` fixed, for the point ahead.

    Returns:
        The image, and the point ahead of it; twice the image without repeats.
    """
    u = torch.addcmul(weights.shift2, normalise(c, eps)[0], weights.gain2)

    def tail(z: Tensor) -> Tensor:
        image = torch.addcmul(weights.shift3, normalise(F.relu(u + z), eps)[0], weights.gain3)
        return image if mask is None else torch.where(mask, image, 0.0)

    image = ahead = tail(z)
    for _ in range(repeats):
        ahead = tail(ahead)
    return image, ahead


def relu_norm(c: Tensor, gain: Tensor, shift: Tensor, eps: float) -> Tensor:
    """``GN(ReLU(c)) · gain + shift``: the end of the fusion map."""
    return torch.addcmul(shift, normalise(F.relu(c), eps)[0], gain)


def norm_relu_vjp(g: Tensor, output: Tensor, normal: Tensor, scale: Tensor, gain: Tensor) -> Tensor:
    """The gradient at ``c`` of :func:`norm_relu`, whose result was ``output``, from the gradient ``g`` at it."""
    return normalise_vjp(normal, scale, torch.where(output > 0, g, 0.0) * gain)


class TailSaved(NamedTuple):
    """What the derivative of :func:`block_tail` needs: normalised values, scales, and the output of the last ReLU."""

    normal2: Tensor
    scale2: Tensor
    outer: Tensor
    normal3: Tensor
    scale3: Tensor


def block_tail_vjp(
    u: Tensor, saved: TailSaved, gain2: Tensor, gain3: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The gradients at ``z`` and at ``c`` of :func:`block_tail`, from the gradient ``u`` at its image."""
    if mask is not None:
        u = torch.where(mask, u, 0.0)
    at_state = torch.where(saved.outer > 0, normalise_vjp(saved.normal3, saved.scale3, u * gain3), 0.0)
    return at_state, normalise_vjp(saved.normal2, saved.scale2, at_state * gain2)


def relu_norm_vjp(u: Tensor, outer: Tensor, normal: Tensor, scale: Tensor, gain: Tensor) -> Tensor:
    """The gradient at ``c`` of :func:`relu_norm`, whose ReLU gave ``outer``, from the gradient ``u`` at its result."""
    return torch.where(outer > 0, normalise_vjp(normal, scale, u * gain), 0.0)


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """GroupNorm with 4 groups over the last axis of ``(..., d)``, then ``· weight + bias`` (broadcast)."""
    return torch.addcmul(bias, normalise(x, eps)[0], weight)
