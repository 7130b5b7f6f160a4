"""GroupNorm with four groups, the ReLU, and their derivatives, with little memory where no graph is recorded."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from equifuse.solve.recycling import empty, recording, spare

GROUPS = 4
NORM_EPS = 1e-5
# With fewer numbers a call costs more than its arithmetic, so one fused operation is faster than several.
_FUSED_BELOW = 2**17


def _grouped(v: Tensor) -> Tensor:
    return v.view(*v.shape[:-1], GROUPS, v.shape[-1] // GROUPS)


def normalise(v: Tensor, eps: float = NORM_EPS, *, reuse: bool = False) -> tuple[Tensor, Tensor]:
    """GroupNorm with 4 groups and no affine part.

    Args:
        v: ``(..., d)``.
        eps: added to the variance.
        reuse: the result may be written over ``v``.

    Returns:
        The normalised ``(..., d)`` and the reciprocal deviations ``(..., 4, 1)``.
    """
    grouped = _grouped(v)
    # A compiled graph is for any number of rows, and the compiler fuses operations itself.
    if torch.compiler.is_compiling() or v.numel() < _FUSED_BELOW:
        normal, _, scale = torch.native_layer_norm(grouped, grouped.shape[-1:], None, None, eps)
        return normal.flatten(-2), scale
    mean = grouped.mean(-1, keepdim=True)
    if recording():
        centred = grouped - mean
        scale = (centred.square().mean(-1, keepdim=True) + eps).rsqrt()
        return (centred * scale).flatten(-2), scale
    centred = torch.sub(grouped, mean, out=grouped if reuse else empty(grouped))
    norm = torch.linalg.vector_norm(centred, dim=-1, keepdim=True)
    scale = norm.square_().div_(grouped.shape[-1]).add_(eps).rsqrt_()
    return centred.mul_(scale).flatten(-2), scale


def normalise_pull(normal: Tensor, scale: Tensor, g: Tensor, scratch: Tensor) -> Tensor:
    """The derivative of :func:`normalise`, transposed, applied to ``g`` ``(..., d)``, which is overwritten.

    Args:
        normal: what :func:`normalise` returned.
        scale: likewise.
        g: gradient at ``normal``.
        scratch: memory shaped like ``g``.
    """
    n, grouped = _grouped(normal), _grouped(g)
    if g.numel() < _FUSED_BELOW and not recording():
        # As if of n itself, whose mean is 0, and its deviation taken for 1.
        zero, one = torch.zeros_like(scale), torch.ones_like(scale)
        pulled = torch.ops.aten.native_layer_norm_backward(
            grouped, n, n.shape[-1:], zero, one, None, None, [True, False, False]
        )
        return torch.mul(pulled[0], scale, out=grouped).flatten(-2)
    along = torch.mul(grouped, n, out=_grouped(scratch)).mean(-1, keepdim=True)
    mean = grouped.mean(-1, keepdim=True)
    grouped.sub_(mean).addcmul_(n, along, value=-1.0).mul_(scale)
    return g


def affine(shift: Tensor, normal: Tensor, gain: Tensor, *, reuse: bool = False) -> Tensor:
    """``normal · gain + shift``, written over ``normal`` if it may be."""
    return torch.addcmul(shift, normal, gain, out=normal if reuse else spare(normal))


def relu(v: Tensor) -> Tensor:
    """Written over ``v`` unless recording."""
    return F.relu(v) if recording() else v.relu_()


def relu_pull(g: Tensor, output: Tensor) -> Tensor:
    """``g``, which is overwritten, with zeros where the ReLU's output vanishes; a mask is many times slower."""
    torch.ops.aten.threshold_backward.grad_input(g, output, 0, grad_input=g)
    return g


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = NORM_EPS) -> Tensor:
    """GroupNorm with 4 groups over the last axis of ``(..., d)``, then ``· weight + bias`` (broadcast)."""
    return affine(bias, normalise(x, eps)[0], weight)
