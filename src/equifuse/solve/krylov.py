"""Batched Krylov methods: Arnoldi, and GMRES (Saad & Schultz 1986) for many small independent linear systems."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from equifuse.configurable import Configurable
from equifuse.errors import InputError
from equifuse.registry import SOLVERS
from equifuse.solve.history import Slots
from equifuse.solve.inexact import ROUNDOFF
from equifuse.solve.loop import SolverStats
from equifuse.solve.recycling import empty, select, spare
from equifuse.solve.sync import is_sync_step, known_empty, known_full

LinearMap = Callable[[Tensor], Tensor]
# Solved rows leave the batch only when at most this share is left, because copying the rest costs time.
_WORTH_DROPPING = 0.7
# Gram-Schmidt is repeated where less than this share of a direction is left: one digit of orthogonality is lost.
_CANCELLED = 0.1
# Error that one low-precision product after exact ones may add to the residual, as a share of the tolerance.
_LOW_PRECISION_SHARE = 0.4
# A cycle of low-precision products that leaves more than this share of a residual is not repeated.
_WORTH_REFINING = 0.1


class Product(NamedTuple):
    """The linear map ``u -> Jᵀu``, ``(B, N) -> (B, N)``, independent per row.

    Attributes:
        exact: accurate to the dtype.
        low_precision: accurate to :data:`~equifuse.solve.inexact.ROUNDOFF` and cheaper; None if there is none.
    """

    exact: LinearMap
    low_precision: LinearMap | None = None


class ArnoldiBasis:
    """Orthonormal Krylov bases of a linear map ``A``, one per sample, with ``A V_k = V_{k+1} H_k``.

    Args:
        start: ``(B, N)`` first directions; a row of zeros gives an empty basis for that sample.
        size: largest number of basis vectors.
    """

    def __init__(self, start: Tensor, size: int) -> None:
        self.norm = torch.linalg.vector_norm(start, dim=1)
        self.vectors = Slots(start, size + 1)
        self.columns: list[Tensor] = []  # of H, the k-th (B, k + 2)
        self.vectors.store_scaled(0, start, _reciprocal(self.norm))
        self.alive = self.norm > 0  # samples whose newest vector is not zero
        self.size = 0

    def newest(self) -> Tensor:
        """``(B, N)`` the latest basis vector."""
        return self.vectors[self.size]

    def extend(self, image: Tensor) -> Tensor:
        """Add the direction ``image = A · newest()``, which is overwritten; returns the new column of ``H``.

        Gram-Schmidt is repeated where little is left of a direction, because the rest is then not orthogonal enough
        (Daniel et al. 1976). A direction that lies in the span up to rounding (a happy breakdown) is dropped for that
        sample, which continues with zeros; so does a sample whose image is not finite.
        """
        k = self.size
        before = torch.linalg.vector_norm(image, dim=1)
        (coefficients,) = self.vectors.dots(image)
        image = self.vectors.add_to(image, coefficients, -1.0, reuse=True)
        height = torch.linalg.vector_norm(image, dim=1)
        if not known_empty(height < _CANCELLED * before):
            (projection,) = self.vectors.dots(image)
            image = self.vectors.add_to(image, projection, -1.0, reuse=True)
            coefficients = coefficients + projection
            height = torch.linalg.vector_norm(image, dim=1)
        finite = height < torch.inf
        if not known_full(finite):
            image = torch.where(finite[:, None], image, 0.0)  # H is not finite either
        height = torch.where(finite & (height > 10 * torch.finfo(image.dtype).eps * before), height, 0.0)
        self.alive = height > 0
        self.vectors.store_scaled(k + 1, image, _reciprocal(height))
        self.columns.append(torch.cat([coefficients, height[:, None]], dim=1))
        self.size += 1
        return self.columns[k]

    @property
    def hessenberg(self) -> Tensor:
        """``H`` ``(B, k + 1, k)``."""
        return torch.stack([F.pad(column, (0, self.size + 1 - column.shape[1])) for column in self.columns], dim=2)

    def add_to(self, x: Tensor, weights: Tensor) -> Tensor:
        """``x`` plus the combination of the first ``k`` vectors by ``weights`` ``(B, k)``."""
        return self.vectors.add_to(x, weights)

    def select(self, rows: Tensor) -> None:
        """Drop all samples except ``rows`` (indices)."""
        self.vectors.select(rows)
        self.columns, self.norm = [column[rows] for column in self.columns], self.norm[rows]
        self.alive = self.alive[rows]


def _reciprocal(norm: Tensor) -> Tensor:
    """``1 / norm`` as ``(B, 1)``, 0 where the norm is."""
    return torch.where(norm > 0, norm.reciprocal(), 0.0)[:, None]


@SOLVERS.register
@dataclass(frozen=True, kw_only=True)
class GMRES(Configurable):
    """The linear solver of the backward pass: GMRES for the adjoint equation ``u = Jᵀu + g``.

    Used by ``Implicit()`` unless you choose another solver. It minimises the residual over the Krylov space, so it
    needs no more products with ``Jᵀ`` than any fixed-point iteration.

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


class _LeastSquares:
    """Solves ``min_y ‖β e₁ − H y‖`` per sample, one column of ``H`` at a time, by Givens rotations.

    Args:
        norm: ``(B,)`` the ``β``.
        size: largest number of columns.
    """

    def __init__(self, norm: Tensor, size: int) -> None:
        batch = norm.shape[0]
        self.triangle: list[Tensor] = []  # columns of R, the k-th (B, k + 1)
        self.cosines, self.sines = norm.new_zeros(batch, size), norm.new_zeros(batch, size)
        self.rhs = norm.new_zeros(batch, size + 1)
        self.rhs[:, 0] = norm

    def append(self, k: int, column: Tensor, active: Tensor) -> Tensor:
        """Add column ``k`` ``(B, k + 2)``; returns the residual norms ``(B,)``, infinite where it is not finite.

        For a sample that is not ``active`` or whose column is not finite the later coefficients become 0, so that its
        solution does not change any more.
        """
        column = column.clone()
        for i in range(k):  # the rotations of the earlier columns, then one of its own
            cosine, sine = self.cosines[:, i], self.sines[:, i]
            top = cosine * column[:, i] + sine * column[:, i + 1]
            column[:, i + 1] = cosine * column[:, i + 1] - sine * column[:, i]
            column[:, i] = top
        length = torch.hypot(column[:, k], column[:, k + 1])
        broken = ~(length < torch.inf)
        column.masked_fill_(broken[:, None], 0.0)
        usable, active = length > 0, active & ~broken
        safe = torch.where(usable, length, 1.0)
        self.cosines[:, k] = torch.where(usable, column[:, k] / safe, 1.0)
        self.sines[:, k] = torch.where(usable, column[:, k + 1] / safe, 0.0)
        column[:, k] = torch.where(active & usable, length, 1.0)
        self.triangle.append(column[:, : k + 1])
        self.rhs[:, k + 1] = torch.where(active, -self.sines[:, k] * self.rhs[:, k], 0.0)
        self.rhs[:, k] = torch.where(active, self.cosines[:, k] * self.rhs[:, k], 0.0)
        return torch.where(broken, torch.inf, self.rhs[:, k + 1].abs())

    def select(self, rows: Tensor) -> None:
        """Drop all samples except ``rows`` (indices)."""
        self.triangle = [column[rows] for column in self.triangle]
        self.cosines, self.sines, self.rhs = (tensor[rows] for tensor in (self.cosines, self.sines, self.rhs))

    def solution(self) -> Tensor:
        """``y`` ``(B, k)``."""
        k = len(self.triangle)
        if k == 0:
            return self.rhs[:, :0]
        triangle = torch.stack([F.pad(column, (0, k - column.shape[1])) for column in self.triangle], dim=2)
        y: Tensor = torch.linalg.solve_triangular(triangle, self.rhs[:, :k, None], upper=True)
        return y.squeeze(2)


def solve_adjoint(
    product: Product, g: Tensor, method: GMRES, tol: float, select_rows: Callable[[Tensor], Product] | None = None
) -> tuple[Tensor, SolverStats]:
    """Solve ``u − product(u) = g`` per row by restarted GMRES.

    If there are low-precision products, a cycle uses them and ends when they cannot reduce the residual further; the
    next cycle starts from the residual of an exact product (iterative refinement by GMRES, Carson & Higham 2017). The
    error of a product with a basis vector enters the solution times that vector's coefficient, which is about the
    residual at that time. So the error of a cycle is known, and the last cycle needs no exact product after it.

    Where such a cycle hardly reduces the residual, exact products are used until the residual is so small that errors
    of low-precision ones no longer matter (inexact Krylov methods, Simoncini & Szyld 2003).

    Args:
        product: the map for the whole batch.
        g: ``(B, N)`` right-hand side.
        method: budget.
        tol: relative tolerance to stop at.
        select_rows: function from row indices (sorted, int64) to the product of these rows alone. If it is given,
            solved rows leave the batch.

    Returns:
        ``u`` ``(B, N)`` and the statistics. ``residual`` is the true relative residual at restarts, and Arnoldi's own
        (equal in exact arithmetic) inside a cycle.
    """
    tol = max(tol, 20 * torch.finfo(g.dtype).eps)
    u: Tensor | None = None  # the solution so far; None for zero
    work = _Progress(torch.linalg.vector_norm(g, dim=1), tol)
    right = g
    done = 0
    refining = product.low_precision is not None
    while done < method.max_steps and bool(work.active.any()):
        size = min(method.restart, method.max_steps - done)
        # Solved rows start from zero, so their solution does not change.
        if not bool(work.active.all()):
            right = torch.where(work.active[:, None], right, right.new_zeros(()), out=spare(right))
        basis = ArnoldiBasis(right, size)
        squares = _LeastSquares(basis.norm, size)
        error = torch.zeros_like(work.residual)  # what low-precision products add to the residual
        begun = work.residual
        while basis.size < size:
            if is_sync_step(g, basis.size):
                left = int(work.active.count_nonzero())
                if left == 0:
                    break
                if select_rows is not None and left <= _WORTH_DROPPING * work.active.numel():
                    # Rows that stay are combined at the end of the cycle.
                    u = _add(u, g, work.index, basis, squares.solution().masked_fill(work.active[:, None], 0.0))
                    here = work.active.nonzero().squeeze(1)
                    work.select(here)
                    basis.select(here)
                    squares.select(here)
                    error, begun = error[here], begun[here]
                    product = select_rows(work.index)
            v = basis.newest()
            multiply = product.exact
            if product.low_precision is not None:
                more = ROUNDOFF * work.residual
                if refining or not bool((work.active & (more > _LOW_PRECISION_SHARE * work.floor)).any()):
                    multiply = product.low_precision
                    error = error + more
            # Products with Jᵀ, not 1 − Jᵀ: the Krylov space is the same, and nothing cancels where Jᵀ is small.
            itself = basis.alive.to(v.dtype)
            column = -basis.extend(multiply(v))
            column[:, basis.size - 1] += itself
            within = squares.append(basis.size - 1, column, work.active)
            work.note(within + error)
            if refining:
                # Low-precision products cannot reduce the residual further; start another cycle.
                stuck = work.active & (within <= error)
                if 2 * int(stuck.count_nonzero()) > int(work.active.count_nonzero()):
                    break
        u = _add(u, g, work.index, basis, squares.solution())
        done += basis.size
        if done < method.max_steps and bool(work.active.any()):
            right = _exact_residual(product, g, u, work.index)
            active = work.active
            work.note(torch.linalg.vector_norm(right, dim=1))
            if refining:
                worth = active & (work.residual < _WORTH_REFINING * begun)
                refining = 2 * int(worth.count_nonzero()) >= int(active.count_nonzero())
            done += 1
    return torch.zeros_like(g) if u is None else u, work.stats()


class _Progress:
    """How far each row is: which rows are still being solved, and the statistics of all rows.

    Args:
        scale: ``(B,)`` norms of the right-hand sides, which are the residuals of the start 0.
        tol: relative tolerance.

    Attributes:
        index: the rows that are still in the batch.
        residual: their residual norms.
        floor: the residual norms at which they are solved.
        active: bool, which of them are not solved yet.
    """

    def __init__(self, scale: Tensor, tol: float) -> None:
        self._scale, self._tol = scale, tol
        self._steps = torch.zeros(len(scale), dtype=torch.int64, device=scale.device)
        self._whole = scale
        self._trace = [scale]
        self.index = torch.arange(len(scale), device=scale.device)
        self.residual, self.floor = scale, tol * scale
        self.active = self.residual > self.floor

    def note(self, residual: Tensor) -> None:
        """Record the residual norms of the rows in the batch after one more product; those of solved rows are ignored.

        A row whose norm is infinite has broken down and is given up.
        """
        everyone = len(self.index) == len(self._whole)
        self._steps = (
            self._steps + self.active if everyone else self._steps.index_add(0, self.index, self.active.long())
        )
        self.residual = torch.where(self.active, residual, self.residual)
        self._whole = self.residual if everyone else self._whole.index_copy(0, self.index, self.residual)
        self._trace.append(self._whole)
        self.active = self.active & (self.residual > self.floor) & (self.residual < torch.inf)

    def select(self, rows: Tensor) -> None:
        """Continue with only ``rows`` (indices) of the rows in the batch."""
        self.index, self.residual, self.floor = self.index[rows], self.residual[rows], self.floor[rows]
        self.active = self.active[rows]

    def stats(self) -> SolverStats:
        """The statistics of all rows."""
        # A row whose right-hand side is 0 is solved by 0.
        relative = torch.where(self._scale > 0, torch.stack(self._trace) / self._scale, 0.0)
        return SolverStats(
            converged=self._whole <= self._tol * self._scale,
            residual=relative[-1],
            steps=self._steps,
            trace=relative,
        )


def _exact_residual(product: Product, g: Tensor, u: Tensor, index: Tensor) -> Tensor:
    """``g − u + product(u)`` at the rows ``index``, to which ``product`` belongs."""
    if len(index) < len(g):
        g, u = select(g, index), select(u, index)
    image = product.exact(u)
    return torch.sub(g, u, out=empty(u)).add_(image)


def _add(u: Tensor | None, like: Tensor, index: Tensor, basis: ArnoldiBasis, weights: Tensor) -> Tensor:
    """``u`` (None for zero), shaped like ``like``, plus the combination of the basis at the rows ``index``."""
    if len(index) == len(like):
        return basis.add_to(empty(like).zero_() if u is None else u, weights)
    u = empty(like).zero_() if u is None else u
    return u.index_copy_(0, index, basis.add_to(select(u, index), weights))
