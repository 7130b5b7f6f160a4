"""The common loop: evaluate, propose, stop. Every row is a solve of its own; what stalls goes to the fallback once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from equifuse.kernels.rows import BLOW_UP, CONVERGED, EXHAUSTED, RUNNING, STALLED
from equifuse.solve.maps import Called, FixedPointMap, RowSelector
from equifuse.solve.solver import SecantPair, Solver
from equifuse.solve.stats import SolverStats
from equifuse.solve.sync import is_recorded, is_sync_step
from equifuse.solve.tensors import flatten_batch, relative_residual, work_dtype
from equifuse.solve.transforms import transformed, values

# Rows that have stopped leave the batch when at most this share is left, because copying the rest costs time.
WORTH_DROPPING = 0.5


@dataclass
class Solution:
    """Where the rows of a batch have got to.

    Attributes:
        z: ``(R, N)`` the best iterate of each row.
        residual: ``(R,)`` its relative residual.
        steps: int64 ``(R,)`` evaluations made.
        status: int8 ``(R,)``, a constant of :mod:`equifuse.kernels.rows`.
        trace: ``(K, R)`` the residual at each evaluation.
        known: function of row indices that gives what was learnt about the map of these rows.
        unsolved: how many rows have not converged, where that is known without waiting for a device; else None.
    """

    z: Tensor
    residual: Tensor
    steps: Tensor
    status: Tensor
    trace: Tensor
    known: Callable[[Tensor], Iterator[SecantPair]]
    unsolved: int | None = None

    def merge(self, rows: Tensor, later: Solution) -> Solution:
        """This one with ``rows`` solved further by ``later``; a row keeps whichever iterate is better."""
        better = later.residual < self.residual[rows]
        z = torch.where(better[:, None], later.z, self.z[rows])
        shown = self.trace[-1].expand(len(later.trace), -1).index_copy(1, rows, later.trace)
        return Solution(
            z=self.z.index_copy(0, rows, z),
            residual=self.residual.index_copy(0, rows, torch.where(better, later.residual, self.residual[rows])),
            steps=self.steps.index_copy(0, rows, later.steps),
            status=self.status.index_copy(0, rows, later.status),
            trace=torch.cat([self.trace, shown]),
            known=later.known,
        )

    def select(self, rows: Tensor) -> Solution:
        """That of some rows."""
        z, residual, steps, status = (x[rows] for x in (self.z, self.residual, self.steps, self.status))
        return Solution(z, residual, steps, status, self.trace[:, rows], lambda some: self.known(rows[some]))

    def stats(self, tol: float) -> SolverStats:
        """Its statistics."""
        return SolverStats(self.residual <= tol, self.residual, self.steps, self.trace, unsolved=self.unsolved)


def solve(
    f: FixedPointMap, z0: Tensor, solver: Solver, select_rows: RowSelector | None = None
) -> tuple[Tensor, SolverStats]:
    """Solve ``z = f(z)`` from ``z0`` by ``solver``, and what it leaves unsolved by its fallback.

    A row's iterates depend on that row alone, as long as ``f`` treats rows independently. With gradients enabled the
    result is differentiable with respect to everything that ``f`` closes over. While a CUDA graph is recorded there is
    no fallback: which rows need one is not known.

    Args:
        f: map ``(B, …) -> (B, …)``.
        z0: ``(B, …)`` start.
        solver: the solver.
        select_rows: function from row indices (sorted, int64) to the map of these rows alone. If it is given, rows that
            have stopped leave the batch, so a few slow ones cost little.

    Returns:
        The best iterate of each row, shaped like ``z0``, in the working dtype (at least float32) and in memory of its
        own; and the statistics. An iterate is never non-finite if ``z0`` is finite.

    Raises:
        InputError: ``f`` returned another shape than it was given.
    """
    z = flatten_batch(z0).to(work_dtype(z0.dtype), copy=True)
    called = Called(f, z0, select_rows)
    solution = solver.run(called, z, z.new_zeros(len(z), dtype=torch.int64))
    method = solver.fallback()
    while method is not None and len(z) and solution.unsolved != 0 and not is_recorded(z):
        stalled = solution.status == STALLED
        if not bool(values(stalled).any()):
            break
        rows = None if select_rows is None or torch.is_grad_enabled() else stalled.nonzero().squeeze(1)
        some = None if rows is None else called.select(rows)
        if rows is None or some is None:  # the map is of the whole batch: the other rows stay where they are
            rows, steps = torch.arange(len(z), device=z.device), torch.where(stalled, solution.steps, method.max_steps)
            some = called
        else:
            steps = solution.steps[rows]
        later = method.run(some, solution.z[rows], steps, solution.known(rows))
        if some is called:
            later.steps = torch.where(stalled, later.steps, solution.steps)
            later.status = torch.where(stalled, later.status, solution.status)
            later.trace = torch.where(stalled, later.trace, solution.trace[-1])
        solution = solution.merge(rows, later)
        method = method.fallback()
    return solution.z.view(z0.shape), solution.stats(solver.tol)


def iterate(f: Called, z: Tensor, solver: Solver, steps: Tensor, known: Iterable[SecantPair] = ()) -> Solution:
    """The loop in plain torch operations, for any solver and device, and differentiable.

    Args:
        f: the map, flat.
        z: ``(R, N)`` start.
        solver: gives the rule for the next iterate, and says when a row stops.
        steps: int64 ``(R,)`` evaluations that each row has had before; rows that have none left are not solved.
        known: what is known of the map.
    """
    rule = solver.start(z, known)
    dropping = not torch.is_grad_enabled() and not transformed()
    index = torch.arange(len(z), device=z.device)
    best, residual, since = z, z.new_full((len(z),), torch.inf), torch.zeros_like(steps)
    status = torch.where(steps < solver.max_steps, RUNNING, EXHAUSTED).to(torch.int8)
    trace: list[Tensor] = []

    for k in range(solver.max_steps):
        running = status[index] == RUNNING
        fz = f(z)
        r = fz - z
        with torch.no_grad():
            relative = relative_residual(r, fz)
            shown = torch.where(running, relative, (trace[-1] if trace else residual)[index])
            trace.append(shown if len(index) == len(steps) else trace[-1].index_copy(0, index, shown))
            better = running & (relative < residual[index])
            smallest = torch.where(better, relative, residual[index])
            unimproved = torch.where(better, 0, since[index] + 1)
            made = steps[index] + running
            lost = ~(relative < torch.inf)
            if solver.patience:
                lost = lost | (relative > BLOW_UP * smallest) | (unimproved >= solver.patience)
            state = torch.where(made >= solver.max_steps, EXHAUSTED, RUNNING)
            state = torch.where(lost, STALLED, state)
            state = torch.where(smallest <= solver.tol, CONVERGED, state)
            state = torch.where(running, state, status[index]).to(torch.int8)
            residual, since = residual.index_copy(0, index, smallest), since.index_copy(0, index, unimproved)
            steps, status = steps.index_copy(0, index, made), status.index_copy(0, index, state)
            running = state == RUNNING
        best = best.index_copy(0, index, torch.where(better[:, None], z, best[index]))
        if k + 1 == solver.max_steps:
            break
        if is_sync_step(z, k):
            if not bool(values(running).any()):
                break
            # Stalled rows stay, because the rule has what is known of them.
            here = (running | (state == STALLED)).nonzero().squeeze(1) if dropping else index
            if dropping and len(here) <= WORTH_DROPPING * len(index):
                some = f.select(here)
                if some is None:
                    dropping = False
                else:
                    f, index = some, index[here]
                    z, fz, r, running = z[here], fz[here], r[here], running[here]
                    rule.select(here)
        z = torch.where(running[:, None], rule.step(z, fz, r), z)

    def pairs(rows: Tensor) -> Iterator[SecantPair]:
        """Of rows that stalled, which are all still in the batch."""
        here = torch.searchsorted(index, rows)
        for s, y, valid in rule.secant_pairs():
            yield s[here], y[here], valid[here]

    return Solution(best, residual, steps, status, torch.stack(trace), pairs)
