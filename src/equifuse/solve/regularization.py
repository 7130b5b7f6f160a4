"""Regularisers that keep the fixed point of a map easy to find during training."""

from __future__ import annotations

import torch
from torch import Tensor

from equifuse.errors import InputError
from equifuse.solve.krylov import ArnoldiBasis, Product
from equifuse.solve.maps import FixedPointMap
from equifuse.solve.tensors import flatten_batch


def jacobian_penalty(f: FixedPointMap, z: Tensor, *, probes: int = 2) -> Tensor:
    """Estimate of the squared size of the Jacobian at ``z``: as a loss it keeps a map easy to solve.

    Add it to the training loss with a small weight (``DEQFusion(..., jacobian_weight=)`` does so) if the number of
    solver steps grows during training.

    >>> w = torch.nn.Parameter(torch.tensor(3.0))
    >>> loss = ef.jacobian_penalty(lambda z: w * z, torch.ones(4, 1000))
    >>> round(loss.item())  # of w · z the Jacobian is w · I, so the value is about w²
    9

    Args:
        f: map ``(B, …) -> (B, …)``.
        z: ``(B, …)``; treated as a constant.
        probes: random directions averaged, ≥ 1; default 2.

    Returns:
        Scalar ≥ 0, differentiable with respect to what ``f`` closes over.

    Raises:
        InputError: ``probes`` is below 1.

    Formula: the Hutchinson estimate of ``‖∂f/∂z‖_F² / (B·N)`` (Bai et al. 2021, eq. 6).
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
    """How far ``z`` is from being a fixed point: as a loss it makes the iteration converge faster.

    It is 0 at a solution, so give it an early iterate, or an iterate at which the solver failed.

    >>> w = torch.nn.Parameter(torch.tensor(0.5))
    >>> ef.residual_penalty(lambda z: w * z, torch.ones(2, 3))  # (0.5 − 1)² / 0.5²
    tensor(1., grad_fn=<MeanBackward0>)

    Args:
        f: map ``(B, …) -> (B, …)``.
        z: ``(B, …)``; treated as a constant.

    Returns:
        Scalar ≥ 0, the mean of ``‖f(z) − z‖² / ‖f(z)‖²`` over samples, differentiable with respect to what ``f``
        closes over.
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
    """Keeps the spectral radius of a map between two bounds: stable enough to solve, not so small that it does nothing.

    >>> w = torch.nn.Parameter(torch.tensor(1.2))
    >>> loss = ef.spectral_penalty(lambda z: w * z, torch.ones(2, 3))  # spectral radius 1.2, upper bound 0.9
    >>> round(loss.item(), 4)
    0.09

    Args:
        f: map ``(B, …) -> (B, …)``, twice differentiable by autograd.
        z: ``(B, …)``; treated as a constant.
        low: lower bound, ≥ 0; default 0.7.
        high: upper bound, > ``low``; default 0.9.
        vectors: Krylov vectors, ≥ 1; default 12. Exact once there are as many as the state has numbers.
        samples: the largest number of samples used, evenly spaced over the batch; default 16. Each costs
            ``2 · vectors`` products with the Jacobian.

    Returns:
        Scalar ≥ 0, differentiable with respect to what ``f`` closes over.

    Raises:
        InputError: an argument is out of range.

    Formula: the mean of ``max(ρ − high, 0)² + max(low − ρ, 0)²`` over samples. ``ρ`` is the spectral radius of
    ``J = ∂f/∂z``, taken as the largest Ritz value of Arnoldi's method. Its gradient is that of the eigenvalue,
    ``∂λ = yᴴ ∂J x / (yᴴ x)`` with the left Ritz vector ``y`` and the right one ``x``.
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


def _ritz(product: Product, start: Tensor, vectors: int) -> tuple[Tensor, Tensor]:
    """The largest Ritz value ``(B,)`` of a linear map and its vector ``(B, N)``, both complex."""
    size = min(vectors, start.shape[1])
    basis = ArnoldiBasis(start, size)
    while basis.size < size:
        basis.extend(product(basis.newest()).contiguous())
    values, weights = torch.linalg.eig(basis.hessenberg[:, :size, :size])
    largest = values.abs().argmax(dim=1)
    row = torch.arange(len(values), device=values.device)
    weight = weights[row, :, largest]
    vector = torch.complex(basis.combine(weight.real), basis.combine(weight.imag))
    return values[row, largest], vector
