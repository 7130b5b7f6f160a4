"""The Jacobian of a fixed-point map, matrix-free: products and spectral radius."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from equifuse.errors import InputError
from equifuse.solve.krylov import ArnoldiBasis
from equifuse.solve.maps import ExplicitMap, FixedPointMap
from equifuse.solve.tensors import flatten_batch, work_dtype


def transposed_jacobian(f: FixedPointMap, z: Tensor) -> Callable[[Tensor], Tensor]:
    """The product ``u -> Jᵀu`` on flattened states ``(B, N)``, with ``J = ∂f/∂z`` at ``z``; evaluates ``f`` once."""
    if isinstance(f, ExplicitMap):
        saved = f.linearize(z).saved
        return lambda u: flatten_batch(f.transposed(saved, u.reshape(z.shape).to(z.dtype))).to(u.dtype)
    with torch.enable_grad():
        z_in = z.detach().requires_grad_()
        fz = f(z_in)

    def product(u: Tensor) -> Tensor:
        if not fz.requires_grad:
            return torch.zeros_like(u)
        (image,) = torch.autograd.grad(fz, z_in, u.reshape(z.shape).to(fz.dtype), retain_graph=True, allow_unused=True)
        return torch.zeros_like(u) if image is None else flatten_batch(image).to(u.dtype)

    return product


@torch.no_grad()
def spectral_radius(f: FixedPointMap, z: Tensor, *, vectors: int = 40, seed: int = 0) -> Tensor:
    """Largest absolute eigenvalue of the Jacobian ``∂f/∂z`` at ``z``, for each sample.

    It says how hard a fixed point is: plain iteration converges locally exactly if the value is below 1, and the
    further above 1 it is, the more steps any solver takes.

    >>> a = torch.tensor([[0.0, -0.9], [0.9, 0.0]])  # a rotation, shrunk by 0.9: eigenvalues ±0.9i
    >>> ef.spectral_radius(lambda z: z @ a.T + 1, torch.zeros(2, 2))
    tensor([0.9000, 0.9000])

    Args:
        f: map ``(B, …) -> (B, …)`` that treats samples independently.
        z: ``(B, …)`` the point, usually the fixed point.
        vectors: Krylov vectors, ≥ 1; default 40. Exact once there are as many as the state has numbers, otherwise
            accurate to a few per cent in general.
        seed: seed of the random start, so that the result is repeatable.

    Returns:
        ``(B,)`` in the dtype of ``z`` (at least float32).

    Raises:
        InputError: ``vectors`` is below 1.

    Method: Arnoldi iteration with ``Jᵀ``, which has the same eigenvalues, and the largest Ritz value. Unlike power
    iteration it finds complex pairs of eigenvalues.
    """
    if vectors < 1:
        raise InputError(f"vectors must be at least 1, got {vectors}")
    batch = z.shape[0]
    width = z[0].numel() if batch else 0
    if width == 0:
        return z.new_zeros(batch)
    size = min(vectors, width)
    product = transposed_jacobian(f, z)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(batch, width, generator=generator, dtype=torch.float64)
    basis = ArnoldiBasis(start.to(z.device, work_dtype(z.dtype)), size)
    while basis.size < size:
        basis.extend(product(basis.newest()))
    square = basis.hessenberg[:, :size, :size].double()
    radius: Tensor = torch.linalg.eigvals(square).abs().amax(dim=1)
    return radius.to(basis.norm.dtype)
