"""The Jacobian of a fixed-point map, matrix-free: products and spectral radius."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from equifuse.errors import InputError
from equifuse.solve.explicit import ExplicitMap
from equifuse.solve.krylov import ArnoldiBasis
from equifuse.solve.loop import FixedPointMap, flatten_batch, work_dtype


def transposed_jacobian(f: FixedPointMap, z: Tensor) -> Callable[[Tensor], Tensor]:
    """``u -> Jᵀu`` on flattened rows ``(B, N)``, ``J = ∂f/∂z`` at ``z`` ``(B, …)``; ``f`` is evaluated once."""
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
    """Largest absolute eigenvalue of ``∂f/∂z`` at ``z``, per sample.

    Arnoldi with ``Jᵀ`` (same spectrum) and the largest Ritz value, so complex pairs are seen, where a power
    iteration would oscillate. Exact once ``vectors`` reaches the state size; otherwise converged to a few per cent
    in general. Plain iteration converges locally exactly when the value is below 1.

    Args:
        f: map ``(B, …) -> (B, …)``, independent per sample.
        z: ``(B, …)`` point, usually the fixed point.
        vectors: Krylov vectors, ≥ 1.
        seed: of the random start, so that the result is repeatable.

    Returns:
        ``(B,)`` in the dtype of ``z`` (at least float32).

    Raises:
        InputError: ``vectors`` is below 1.
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
