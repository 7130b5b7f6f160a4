"""Regularisers of a fixed-point map: what keeps its equilibrium easy to find."""

from __future__ import annotations

import torch
from torch import Tensor

from equifuse.errors import InputError
from equifuse.solve.krylov import ArnoldiBasis, LinearMap
from equifuse.solve.loop import FixedPointMap, flatten_batch


def jacobian_penalty(f: FixedPointMap, z: Tensor, *, probes: int = 2) -> Tensor:
    """Hutchinson estimate of ``‖∂f/∂z‖_F² / (B·N)`` at ``z`` (Bai et al. 2021, eq. 6), differentiable in ``f``.

    Args:
        f: map ``(B, …) -> (B, …)``.
        z: ``(B, …)``; treated as a constant.
        probes: random directions averaged, ≥ 1.

    Returns:
        Scalar ≥ 0.

    Raises:
        InputError: ``probes`` is below 1.
    """
    if probes < 1:
        raise InputError(f"probes must be at least 1, got {probes}")
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        z_in = z.detach().requires_grad_()
        fz = f(z_in)
        if not fz.requires_grad:
            return z.new_zeros(())
        total = fz.new_zeros(())
        for probe in range(probes):
            direction = torch.randn_like(fz)
            (image,) = torch.autograd.grad(
                fz,
                z_in,
                direction,
                retain_graph=create_graph or probe + 1 < probes,
                create_graph=create_graph,
                allow_unused=True,
            )
            if image is not None:
                total = total + image.square().sum()
    return total / (probes * max(z.numel(), 1))


def residual_penalty(f: FixedPointMap, z: Tensor) -> Tensor:
    """Mean of ``‖f(z) − z‖² / ‖f(z)‖²`` over samples, differentiable in ``f``.

    At a solution it vanishes; it is of use at an early iterate, where it says how fast the iteration gains, or where
    the solver failed.

    Args:
        f: map ``(B, …) -> (B, …)``.
        z: ``(B, …)``; treated as a constant.

    Returns:
        Scalar ≥ 0.
    """
    z = z.detach()
    fz = flatten_batch(f(z))
    tiny = torch.finfo(fz.dtype).tiny
    relative = (fz - flatten_batch(z)).square().sum(1) / fz.square().sum(1).clamp(min=tiny)
    return relative.mean() if len(relative) else relative.sum()


def spectral_penalty(
    f: FixedPointMap,
    z: Tensor,
    low: float = 0.7,
    high: float = 0.9,
    *,
    vectors: int = 12,
    samples: int = 16,
) -> Tensor:
    """Mean of ``max(ρ − high, 0)² + max(low − ρ, 0)²`` over samples, differentiable in ``f``.

    ``ρ`` is the spectral radius of ``J = ∂f/∂z``: the largest Ritz value of Arnoldi's method. Its gradient is that of
    the eigenvalue, ``∂λ = yᴴ ∂J x / (yᴴ x)`` with the left and the right Ritz vector.

    Args:
        f: map ``(B, …) -> (B, …)``, twice differentiable by autograd.
        z: ``(B, …)``; treated as a constant.
        low: the penalty is 0 from here, ≥ 0 …
        high: … to here, > ``low``.
        vectors: Krylov vectors, ≥ 1; exact once they are as many as the state has numbers.
        samples: at most so many samples, evenly spaced over the batch, are looked at: each costs ``2 · vectors``
            products.

    Returns:
        Scalar ≥ 0.

    Raises:
        InputError: an argument is out of range.
    """
    if not 0 <= low < high:
        raise InputError(f"low and high must be increasing numbers of at least 0, got {low} and {high}")
    if vectors < 1 or samples < 1:
        raise InputError(f"vectors and samples must be at least 1, got {vectors} and {samples}")
    if z.numel() == 0:
        return z.new_zeros(())
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        z_in = z.detach().requires_grad_()
        fz = f(z_in)
        if not fz.requires_grad:
            return z.new_full((), low**2)
        chosen = torch.linspace(0, len(z) - 1, min(samples, len(z)), device=z.device).round().long()
        lever = torch.zeros_like(fz).requires_grad_()
        images: tuple[Tensor | None, ...] = torch.autograd.grad(fz, z_in, lever, create_graph=True, allow_unused=True)
    image = images[0]
    if image is None:  # f does not depend on z
        return z.new_full((), low**2)
    shape = z.shape[1:]

    def spread(u: Tensor) -> Tensor:
        """The chosen samples' vectors in a batch of zeros."""
        return torch.zeros_like(fz).index_copy(0, chosen, u.view(-1, *shape).to(fz.dtype))

    def transposed(u: Tensor) -> Tensor:
        (product,) = torch.autograd.grad(fz, z_in, spread(u), retain_graph=True)
        return flatten_batch(product[chosen])

    def forward(u: Tensor) -> Tensor:
        # Jᵀu is linear in u, and its derivative in the direction of x is J x.
        (product,) = torch.autograd.grad(image, lever, spread(u), retain_graph=True)
        return flatten_batch(product[chosen])

    with torch.no_grad():
        start = torch.randn(len(chosen), z[0].numel(), dtype=z.dtype, device=z.device)
        left = _ritz(transposed, start, vectors)[1]
        value, right = _ritz(forward, start, vectors)
        # Of the pair of a complex eigenvalue, the transposed map may have found the other one.
        products = [(vector * right).sum(1) for vector in (left, left.conj())]
        left = torch.where((products[0].abs() >= products[1].abs())[:, None], left, left.conj())
        overlap = (left * right).sum(1)
        usable = (value.abs() > 0) & (overlap.abs() > 0)
        turn = torch.where(usable, value.conj() / value.abs() / overlap, 0.0)
    with torch.enable_grad():
        # |λ| = Re(turn · yᵀ J x): real and imaginary parts of Jᵀy, each differentiable in f.
        parts = []
        for part in (left.real, left.imag):
            (product,) = torch.autograd.grad(fz, z_in, spread(part), create_graph=True, retain_graph=True)
            parts.append(flatten_batch(product[chosen]))
        real = (parts[0] * right.real - parts[1] * right.imag).sum(1)
        imaginary = (parts[0] * right.imag + parts[1] * right.real).sum(1)
        radius = turn.real * real - turn.imag * imaginary
        penalty = ((radius - high).clamp(min=0).square() + (low - radius).clamp(min=0).square()).mean()
    return penalty if create_graph else penalty.detach()


def _ritz(product: LinearMap, start: Tensor, vectors: int) -> tuple[Tensor, Tensor]:
    """The largest Ritz value ``(B,)`` of a linear map and its vector ``(B, N)``, both complex."""
    size = min(vectors, start.shape[1])
    basis = ArnoldiBasis(start, size)
    while basis.size < size:
        basis.extend(product(basis.newest()).contiguous())
    values, weights = torch.linalg.eig(basis.hessenberg[:, :size, :size])
    largest = values.abs().argmax(dim=1)
    row = torch.arange(len(values), device=values.device)
    weight = weights[row, :, largest]
    zero = torch.zeros_like(start)
    vector = torch.complex(basis.add_to(zero, weight.real.contiguous()), basis.add_to(zero, weight.imag.contiguous()))
    return values[row, largest], vector
