"""Anderson acceleration (Anderson 1965; Walker & Ni 2011, type II), per sample and batched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from equifuse.errors import InputError
from equifuse.registry import SOLVERS
from equifuse.solve.accelerated import accelerate
from equifuse.solve.loop import Solution, iterate
from equifuse.solve.maps import Called
from equifuse.solve.solver import SecantPair, Solver, StepRule
from equifuse.solve.solvers.broyden import Broyden

# While a graph is recorded, a difference of which less than this share is new (in squares) is left out.
_RECORDED_NEWS = 1e-4


class _AndersonRule(StepRule):
    """Directions in which residuals have changed, made orthonormal, and how the images changed along each.

    With ``r = f(z) − z`` and ``Δr``, ``Δf`` the changes since the last evaluation, the newest direction is what is new
    in ``Δr``: ``q = (Δr − Σ (q_iᵀ Δr) q_i) / ‖·‖``, with ``g`` the same combination of ``Δf``. The next iterate is
    ``f(z) − Σ (q_iᵀ r) g_i``, the least-squares solution of Anderson acceleration without a linear system (Tang et al.
    2024). As long as no direction is dropped the iterates are the same.
    """

    def __init__(self, memory: int, damping: float) -> None:
        self.memory, self.damping = memory, damping
        self.q: list[Tensor] = []  # oldest first, each (B, N)
        self.g: list[Tensor] = []
        self.last: tuple[Tensor, Tensor] | None = None

    def step(self, z: Tensor, fz: Tensor, r: Tensor) -> Tensor:
        if self.last is None:
            self.last = fz, r
            return fz if self.damping == 1 else z + self.damping * r
        if len(self.q) == self.memory:
            del self.q[0], self.g[0]
        # Directions have unit length, so differences may be scaled to a length whose square does not underflow.
        factor = r.detach().abs().amax(1, keepdim=True).clamp(min=torch.finfo(r.dtype).tiny).reciprocal()
        dr, df = (r - self.last[1]) * factor, (fz - self.last[0]) * factor
        self.last = fz, r
        before = dr.square().sum(1, keepdim=True)
        for q, g in zip(self.q, self.g, strict=True):
            along = (q * dr).sum(1, keepdim=True)
            dr, df = dr - along * q, df - along * g
        left = dr.square().sum(1, keepdim=True)
        # Of a difference that lies in the span of older ones only rounding is left, and noise of its derivative sooner.
        least = _RECORDED_NEWS if r.requires_grad else torch.finfo(r.dtype).eps
        useful = (left > least * before) & (left < torch.inf)
        per_length = torch.where(useful, left, 1.0).rsqrt()
        self.q.append(torch.where(useful, dr * per_length, 0.0))
        self.g.append(torch.where(useful, df * per_length, 0.0))
        point, rest = fz, r
        for q, g in zip(self.q, self.g, strict=True):
            along = (q * rest).sum(1, keepdim=True)
            point, rest = point - along * g, rest - along * q
        return point if self.damping == 1 else point - (1 - self.damping) * rest

    def select(self, rows: Tensor) -> None:
        self.q, self.g = [q[rows] for q in self.q], [g[rows] for g in self.g]
        if self.last is not None:
            self.last = self.last[0][rows], self.last[1][rows]

    def secant_pairs(self) -> Iterator[SecantPair]:
        for q, g in zip(self.q, self.g, strict=True):
            yield g - q, q, (q != 0).any(1)


@SOLVERS.register
@dataclass(frozen=True, kw_only=True)
class Anderson(Solver):
    """Anderson acceleration: combines the last iterates so that their residuals cancel. The default solver.

    Use it unless you have a reason not to: it needs one evaluation of ``f`` per step, and converges on many maps on
    which plain iteration diverges. Each sample has its own coefficients. A sample that stalls, typically where the map
    has a kink, is solved by :class:`~equifuse.solve.Broyden` from its best iterate, with what is known of its map.

    >>> f = lambda z: torch.cos(z)
    >>> z, stats = ef.fixed_point(f, torch.zeros(2, 1), solver=ef.Anderson(tol=1e-6))
    >>> z
    tensor([[0.7391],
            [0.7391]])
    >>> bool((stats.steps < 10).all())
    True

    Args:
        memory: largest number of differences stored, ≥ 1; default 20, and never more than the state has numbers. Each
            costs two tensors of the state's size. Maps with a spectral radius above 1 need more.
        ridge: has no effect; deprecated, because differences that carry no information are left out.

    On a CPU, and in float32 or float64, the step is one compiled pass over each sample (:mod:`equifuse.kernels`).
    See :class:`equifuse.solve.Solver` for ``tol``, ``max_steps``, ``damping`` and ``patience`` (8 here).

    Source: Anderson 1965; Walker & Ni 2011, type II; in the Gram-Schmidt form of Tang et al. 2024, arXiv 2403.14961.
    """

    memory: int = 20
    patience: int = 8
    ridge: float = 0.0
    name: ClassVar[str] = "anderson"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory < 1:
            raise InputError(f"memory must be at least 1, got {self.memory}")
        if self.ridge < 0:
            raise InputError(f"ridge must not be negative, got {self.ridge}")

    def start(self, z: Tensor, known: Iterable[SecantPair] = ()) -> StepRule:
        """A rule with an empty history for states ``(B, N)``."""
        return _AndersonRule(self._memory(z), self.damping)

    def _memory(self, z: Tensor) -> int:
        # No more than N differences are independent.
        return min(self.memory, max(1, self.max_steps - 1), max(1, z.shape[1]))

    def run(self, f: Called, z: Tensor, steps: Tensor, known: Iterable[SecantPair] = ()) -> Solution:
        """Solve by the fused kernels where there are some for the state, else by the common loop."""
        solution = accelerate(lambda: f.fused(z), z, self._memory(z), self.limits(), steps)
        return iterate(f, z, self, steps, known) if solution is None else solution

    def fallback(self) -> Solver:
        """Broyden's method with unlimited memory."""
        return Broyden(tol=self.tol, max_steps=self.max_steps, memory=self.max_steps, patience=15)
