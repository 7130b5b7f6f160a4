"""Inside the transforms of ``torch.func``: what may be read of a tensor, and differentiated with respect to."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._C import _functorch  # of PyTorch's own; torch.func has no public names for what it wraps


def transformed() -> bool:
    """Whether the caller runs inside ``vmap``, ``grad``, ``jacrev`` or another transform of ``torch.func``."""
    return not torch.compiler.is_compiling() and bool(torch._C._are_functorch_transforms_active())


def values(x: Tensor) -> Tensor:
    """The numbers of ``x`` for a decision of the host: those of all mapped slices at once. Else ``x`` itself."""
    if torch.compiler.is_compiling():
        return x
    while _functorch.is_functorch_wrapped_tensor(x):
        x = _functorch.get_unwrapped(x)
    return x


def leaf(z: Tensor) -> Tensor:
    """A copy of ``z`` with respect to which each active transform, and autograd itself, can differentiate."""
    with torch.no_grad():
        copy = z.detach().clone()
    if not transformed():
        return copy.requires_grad_()
    allowed = _functorch.get_inplace_requires_grad_allowed()
    _functorch.set_inplace_requires_grad_allowed(True)  # as torch.func does for the arguments it differentiates
    try:
        return _require_grad(copy)
    finally:
        _functorch.set_inplace_requires_grad_allowed(allowed)


def _require_grad(z: Tensor) -> Tensor:
    """``z`` as a leaf of the graph of each level that it is wrapped in."""
    if _functorch.is_batchedtensor(z):
        inner = _require_grad(_functorch.get_unwrapped(z))
        return _functorch._add_batch_dim(inner, _functorch.maybe_get_bdim(z), _functorch.maybe_get_level(z))
    if _functorch.is_gradtrackingtensor(z):
        inner = _require_grad(_functorch.get_unwrapped(z))
        return _functorch._wrap_for_grad(inner, _functorch.maybe_get_level(z)).requires_grad_()
    return z.requires_grad_()
