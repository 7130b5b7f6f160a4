"""The backward pass of an implicit gradient: the linear equation ``u = Jᵀu + g``, solved row by row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from equifuse.kernels import Run
from equifuse.kernels.rows import STALLED, RowLimits
from equifuse.solve.accelerated import accelerate
from equifuse.solve.krylov import GMRES, Product, gmres
from equifuse.solve.loop import Solution
from equifuse.solve.loop import solve as solve_fixed_point
from equifuse.solve.maps import Evaluation, ExplicitMap, FixedPointMap, Saved
from equifuse.solve.solver import Solver
from equifuse.solve.stats import SolverStats
from equifuse.solve.sync import is_recorded
from equifuse.solve.tensors import flatten_batch, relative_residual, work_dtype
from equifuse.solve.transforms import transformed

# A row without a new smallest residual in so many products is left to GMRES.
_PATIENCE = 10
# Powers of two by which a row is scaled at most, so that the factor itself is finite in float32.
_MOST = 100


@dataclass(frozen=True)
class Series:
    """In place of a solution the first ``terms`` terms of ``u = g + Jᵀg + (Jᵀ)²g + …``."""

    terms: int


Method = Solver | GMRES | Series


class _Affine:
    """``u ↦ Jᵀu + g`` by a product with ``Jᵀ``, for a fused solver."""

    looks_ahead = False
    worth_selecting = 0

    def __init__(
        self, product: Product, g: Tensor, select_rows: Callable[[Tensor], Product] | None, rows: Tensor | None = None
    ) -> None:
        self._product, self._g, self._select_rows, self._rows = product, g, select_rows, rows

    def prepare(self, z: Tensor, out: Tensor, ahead: Tensor, idle: Tensor | None) -> Run:
        """See :class:`~equifuse.solve.maps.Evaluation`."""
        return lambda: torch.add(self._product(z), self._g, out=out)

    def select(self, rows: Tensor) -> _Affine | None:
        """See :class:`~equifuse.solve.maps.Evaluation`."""
        if self._select_rows is None:
            return None
        whole = rows if self._rows is None else self._rows[rows]
        return _Affine(self._select_rows(whole), self._g[rows], self._select_rows, whole)


def solve_adjoint(
    product: Product,
    g: Tensor,
    method: Method,
    default_tol: float,
    fused: Callable[[Tensor], Evaluation | None] | None = None,
    select_rows: Callable[[Tensor], Product] | None = None,
) -> tuple[Tensor, SolverStats]:
    """Solve ``u = Jᵀu + g`` for ``u``, shaped like ``g`` ``(B, …)``.

    Each row of ``g`` is scaled by a power of two, so tiny gradients are solved relative to their own size. A row whose
    gradient is not finite, or whose norm overflows, gets NaN, and counts as not converged.

    Args:
        product: ``u ↦ Jᵀu`` on flat ``(B, N)``.
        g: incoming gradient.
        method: the solver, or a series in its place. Whatever a series leaves out, it counts as converged.
        default_tol: tolerance if ``method`` has none of its own.
        fused: function of the scaled ``g`` that gives the map ``u ↦ Jᵀu + g`` in a fused form, if it has one.
        select_rows: function from row indices (sorted, int64) to the product of these rows alone.
    """
    rhs = flatten_batch(g).to(work_dtype(g.dtype)).contiguous()
    if transformed() and not isinstance(method, Series):  # a mapped axis of the map alone becomes one of the equation
        rhs = rhs + product(rhs).new_zeros(())
    finite = torch.linalg.vector_norm(rhs, dim=1) < torch.inf
    peak = (
        torch.where(finite[:, None], rhs, 0.0).abs().amax(1, keepdim=True) if rhs.shape[1] else rhs[:, :0].sum(1, True)
    )
    exponent = torch.frexp(peak).exponent.clamp(-_MOST, _MOST)
    rhs = torch.where(finite[:, None], torch.ldexp(rhs, -exponent), 0.0)
    if isinstance(method, Series):
        u, stats = _by_series(product, rhs, method)
    elif isinstance(method, GMRES):
        solution = _linear(product, rhs, method, default_tol, fused, select_rows)
        u, stats = solution.z, solution.stats(_least_tol(method, default_tol, rhs))
    else:
        u, stats = _by_fixed_point(product, rhs, method, select_rows)
    u = torch.where(finite[:, None], torch.ldexp(u, exponent), torch.nan)
    stats.unsolved = None  # rows that are not finite were solved as zeros
    stats.converged, stats.residual = stats.converged & finite, torch.where(finite, stats.residual, torch.inf)
    return u.view(g.shape), stats


def explicit_gradients(
    f: ExplicitMap, saved: Saved, g: Tensor, method: Method, default_tol: float
) -> tuple[tuple[Tensor, ...], SolverStats]:
    """The gradients of what an explicit map closes over, from ``g`` at its fixed point, where it was linearised."""

    def product_of(f: ExplicitMap, saved: Saved) -> Product:
        return lambda u: flatten_batch(f.transposed(saved, u.view(len(u), *g.shape[1:])))

    def select_rows(index: Tensor) -> Product:
        return product_of(f.select(index), f.select_saved(saved, index))

    product = product_of(f, saved)
    u, stats = solve_adjoint(product, g, method, default_tol, lambda rhs: f.adjoint(saved, rhs), select_rows)
    return f.pull(saved, u), stats


def _least_tol(method: GMRES, default_tol: float, rhs: Tensor) -> float:
    tol = method.tol if method.tol is not None else default_tol
    return max(tol, 20 * torch.finfo(rhs.dtype).eps)


def _linear(
    product: Product,
    rhs: Tensor,
    method: GMRES,
    default_tol: float,
    fused: Callable[[Tensor], Evaluation | None] | None,
    select_rows: Callable[[Tensor], Product] | None,
) -> Solution:
    """By the fused kernels, and what they leave by GMRES."""
    tol = _least_tol(method, default_tol, rhs)

    def evaluation() -> Evaluation:
        own = fused(rhs) if fused is not None else None
        return _Affine(product, rhs, select_rows) if own is None else own

    limits = RowLimits(tol, method.max_steps, _PATIENCE, 1.0)
    memory = max(1, min(method.restart, rhs.shape[1]))
    solution = accelerate(evaluation, rhs, memory, limits, scale=torch.linalg.vector_norm(rhs, dim=1))
    none = torch.zeros(len(rhs), dtype=torch.int64, device=rhs.device)
    if solution is None:
        return gmres(product, rhs, method, tol, torch.zeros_like(rhs), none, select_rows)
    if solution.unsolved == 0 or is_recorded(rhs):
        return solution
    rows = (solution.status == STALLED).nonzero().squeeze(1)
    if len(rows) == 0:
        return solution
    if select_rows is not None:
        later = gmres(select_rows(rows), rhs[rows], method, tol, solution.z[rows], solution.steps[rows])
        return solution.merge(rows, later)
    stalled = solution.status == STALLED
    alone = torch.where(stalled[:, None], rhs, 0.0)
    later = gmres(product, alone, method, tol, torch.where(stalled[:, None], solution.z, 0.0), solution.steps)
    return solution.merge(rows, later.select(rows))


def _by_fixed_point(
    product: Product, rhs: Tensor, method: Solver, select_rows: Callable[[Tensor], Product] | None
) -> tuple[Tensor, SolverStats]:
    """By a fixed-point solver of one's choice."""

    def map_of(rows: Tensor) -> FixedPointMap:
        assert select_rows is not None
        some, right = select_rows(rows), rhs[rows]
        return lambda u: some(u) + right

    return solve_fixed_point(lambda u: product(u) + rhs, rhs, method, map_of if select_rows is not None else None)


def _by_series(product: Product, rhs: Tensor, method: Series) -> tuple[Tensor, SolverStats]:
    """The sum; the residual is the size of the last term relative to it."""
    term, u, trace = rhs, rhs, []
    for k in range(method.terms):
        if k:
            term = product(term)
            u = u + term
        trace.append(relative_residual(term, u))
    steps = torch.full_like(trace[-1], method.terms - 1, dtype=torch.int64)
    return u, SolverStats(trace[-1] < torch.inf, trace[-1], steps, torch.stack(trace))
