"""Krylov methods, batched over rows: an Arnoldi basis, and GMRES for the linear equation of the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from equifuse.configurable import Configurable
from equifuse.errors import InputError
from equifuse.kernels.rows import CONVERGED, EXHAUSTED, STALLED
from equifuse.registry import SOLVERS
from equifuse.solve.loop import Solution
from equifuse.solve.transforms import values

Product = Callable[[Tensor], Tensor]
# A direction of which less than this share is new is made orthogonal once more (Daniel et al. 1976).
_CANCELLED = 0.7


class ArnoldiBasis:
    """An orthonormal basis of a Krylov space per row, and the projected operator.

    Args:
        start: ``(B, N)`` the first direction.
        size: largest number of products.

    Attributes:
        vectors: ``(B, size + 1, N)``, zeros where a row's space is exhausted.
        hessenberg: ``(B, size + 1, size)``, ``A V_k = V_{k+1} H``.
        norm: ``(B,)`` the norm of the start.
        size: products made so far.
    """

    def __init__(self, start: Tensor, size: int) -> None:
        self.norm = torch.linalg.vector_norm(start, dim=1)
        self.vectors = start.new_zeros(len(start), size + 1, start.shape[1])
        self.hessenberg = start.new_zeros(len(start), size + 1, size)
        self.vectors[:, 0] = _unit(start, self.norm)
        self.size = 0

    def newest(self) -> Tensor:
        """``(B, N)`` the latest basis vector."""
        return self.vectors[:, self.size]

    def extend(self, image: Tensor) -> None:
        """Add the direction ``image = A · newest()``.

        A direction that lies in the span up to rounding, or is not finite, is dropped for that row, which goes on with
        zeros.
        """
        k = self.size
        known = self.vectors[:, : k + 1]
        before = torch.linalg.vector_norm(image, dim=1)
        weights = torch.einsum("bkn,bn->bk", known, image)
        image = image - torch.einsum("bkn,bk->bn", known, weights)
        if bool(values(torch.linalg.vector_norm(image, dim=1) < _CANCELLED * before).any()):
            more = torch.einsum("bkn,bn->bk", known, image)
            image, weights = image - torch.einsum("bkn,bk->bn", known, more), weights + more
        height = torch.linalg.vector_norm(image, dim=1)
        usable = (height < torch.inf) & (height > 10 * torch.finfo(image.dtype).eps * before)
        height = torch.where(usable, height, 0.0)
        self.hessenberg[:, : k + 1, k], self.hessenberg[:, k + 1, k] = weights, height
        self.vectors[:, k + 1] = torch.where(usable[:, None], _unit(image, height), 0.0)
        self.size += 1

    def combine(self, weights: Tensor) -> Tensor:
        """The combination ``(B, N)`` of the first vectors by ``weights`` ``(B, k)``."""
        return torch.einsum("bkn,bk->bn", self.vectors[:, : weights.shape[1]], weights)


def _unit(x: Tensor, norm: Tensor) -> Tensor:
    """``x / norm`` per row, 0 where the norm is."""
    return x * torch.where(norm > 0, norm.reciprocal(), 0.0)[:, None]


@SOLVERS.register
@dataclass(frozen=True, kw_only=True)
class GMRES(Configurable):
    """The solver of the backward pass, for the linear adjoint equation ``u = Jᵀu + g``.

    Used by ``Implicit()`` unless you choose another solver. On a CPU the equation is first solved by the fused Anderson
    kernel, which takes the steps of GMRES as long as its memory lasts (Walker & Ni 2011); rows that are left, and other
    devices, are solved by restarted GMRES itself.

    >>> gradient = ef.Implicit(solver=ef.GMRES(tol=1e-6, max_steps=100))
    >>> w = torch.tensor(0.5, requires_grad=True)
    >>> z, stats = ef.fixed_point(lambda z: w * z + 1, torch.zeros(1, 1), gradient=gradient)
    >>> z.sum().backward()
    >>> stats.adjoint.converged
    tensor([True])

    Args:
        tol: relative tolerance per sample on ``‖g − (I − Jᵀ)u‖ / ‖g‖``, > 0. ``None`` (default) takes the smaller one
            of 1e-5 and the forward solver's tolerance. Never less than the dtype can reach.
        max_steps: largest number of products with ``Jᵀ``, ≥ 1; default 60.
        restart: Krylov vectors stored before the method starts again from the current solution, ≥ 1; default 30.
            Bounds the memory.

    Raises:
        InputError: an argument is out of range.

    Source: Saad & Schultz 1986.
    """

    tol: float | None = None
    max_steps: int = 60
    restart: int = 30
    name: ClassVar[str] = "gmres"

    def __post_init__(self) -> None:
        if self.tol is not None and not self.tol > 0:
            raise InputError(f"tol must be positive, got {self.tol}")
        if self.max_steps < 1 or self.restart < 1:
            raise InputError(f"max_steps and restart must be at least 1, got {self.max_steps} and {self.restart}")


def gmres(
    product: Product,
    g: Tensor,
    method: GMRES,
    tol: float,
    u: Tensor,
    steps: Tensor,
    select_rows: Callable[[Tensor], Product] | None = None,
) -> Solution:
    """Solve ``u − product(u) = g`` per row by restarted GMRES.

    Args:
        product: ``u ↦ Jᵀu`` on ``(R, N)``.
        g: ``(R, N)`` right-hand sides.
        method: budget.
        tol: relative tolerance.
        u: ``(R, N)`` start.
        steps: int64 ``(R,)`` products that each row has had before.
        select_rows: function from row indices (sorted, int64) to the product of these rows alone. If it is given, each
            cycle is of the rows that are not solved yet.

    Returns:
        The solution. A residual is the true one after a cycle, and Arnoldi's own (equal in exact arithmetic) inside.
    """
    scale = torch.linalg.vector_norm(g, dim=1)
    right = g - u + product(u) if bool(values(u).any()) else g
    residual = _relative(torch.linalg.vector_norm(right, dim=1), scale)
    active = (residual > tol) & (residual < torch.inf) & (steps < method.max_steps)
    trace, index = [residual], torch.arange(len(g), device=g.device)
    while bool(values(active).any()):
        if select_rows is not None and not bool(active[index].all()):
            index = active.nonzero().squeeze(1)
            product = select_rows(index)
        unsolved = active[index]
        budget = method.max_steps - steps[index]
        size = min(method.restart, int(values(torch.where(unsolved, budget, 0)).max()))
        # Solved rows start from zero, so their solution does not change.
        start = torch.where(unsolved[:, None], right[index], 0.0)
        step, made, inside = _cycle(product, start, scale[index], size, tol, budget)
        trace.extend(torch.where(active, residual.index_copy(0, index, shown), residual) for shown in inside)
        steps = steps.index_add(0, index, made)
        better = u[index] + step
        rest = g[index] - better + product(better)
        after = _relative(torch.linalg.vector_norm(rest, dim=1), scale[index])
        # A row that a whole cycle does not improve is given up.
        improved = unsolved & (after < residual[index])
        u = u.index_copy(0, index, torch.where(improved[:, None], better, u[index]))
        right = right.index_copy(0, index, rest)
        residual = residual.index_copy(0, index, torch.where(improved, after, residual[index]))
        trace.append(residual)
        active = active.index_copy(0, index, improved) & (residual > tol) & (steps < method.max_steps)
    status = torch.where(residual <= tol, CONVERGED, torch.where(steps < method.max_steps, STALLED, EXHAUSTED))
    return Solution(u, residual, steps, status.to(torch.int8), torch.stack(trace), lambda rows: iter(()))


def _relative(residual: Tensor, scale: Tensor) -> Tensor:
    """Relative residuals; 0 where the right-hand side is, which 0 solves, and infinite where not finite."""
    found = torch.where(scale > 0, residual / scale, 0.0)
    return torch.where(found < torch.inf, found, torch.inf)


def _cycle(
    product: Product, right: Tensor, scale: Tensor, size: int, tol: float, budget: Tensor
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """One cycle from the residuals ``right``: the change of ``u``, products made per row, and residuals at each."""
    basis = ArnoldiBasis(right, size)
    first = right.new_zeros(len(right), size + 1)
    first[:, 0] = basis.norm
    weights, inside, trace = first[:, :0], _relative(basis.norm, scale), []
    made = torch.zeros_like(budget)
    running = inside > tol
    while basis.size < size and bool(values(running).any()):
        # Products with Jᵀ, not 1 − Jᵀ: the Krylov space is the same, and nothing cancels where Jᵀ is small.
        basis.extend(product(basis.newest()))
        k = basis.size
        system = torch.eye(k + 1, k, dtype=right.dtype, device=right.device) - basis.hessenberg[:, : k + 1, :k]
        found, left = _least_squares(system, first[:, : k + 1])
        usable = running & torch.isfinite(found).all(1) & torch.isfinite(left)
        weights = torch.where(usable[:, None], found, torch.cat([weights, torch.zeros_like(first[:, :1])], dim=1))
        inside = torch.where(usable, _relative(left, scale), inside)
        made = made + running
        trace.append(inside)
        running = usable & (inside > tol) & (made < budget)
    return basis.combine(weights), made, trace


def _least_squares(system: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """``min ‖right − system · y‖`` per row: ``y`` ``(B, k)`` and the smallest norm ``(B,)``."""
    a, b = torch.nan_to_num(system).double(), right.double()
    if a.is_cpu:
        q, r = torch.linalg.qr(a)
        along = torch.einsum("bij,bi->bj", q, b)
        y = torch.linalg.solve_triangular(r, along[:, :, None], upper=True).squeeze(2)
        left = (b.square().sum(1) - along.square().sum(1)).clamp(min=0).sqrt()
    else:  # a GPU makes many small QR decompositions one after the other
        y = torch.linalg.solve_ex(a.mT @ a, torch.einsum("bij,bi->bj", a, b)).result
        left = torch.linalg.vector_norm(b - torch.einsum("bij,bj->bi", a, y), dim=1)
    return y.to(right.dtype), left.to(right.dtype)
