"""Limited-memory good Broyden (Broyden 1965), per sample and batched."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from equifuse.errors import InputError
from equifuse.registry import SOLVERS
from equifuse.solve.solver import SecantPair, Solver, StepRule

# Below this share of ‖s‖² the denominator of the update is only rounding, and the update is skipped.
_LEAST_CURVATURE = 1e-6
# Samples on which the method overflows are tried again with half the damping, down to this.
_LEAST_DAMPING = 0.2


class _BroydenRule(StepRule):
    """Root of ``r(z) = f(z) − z`` with ``H ≈ (∂r/∂z)⁻¹ = −I + Σ u_i v_iᵀ``, updated by the Sherman-Morrison formula.

    With ``s = Δz`` and ``y = Δr``: ``u = (s − H y) / (sᵀ H y)``, ``v = Hᵀ s``; the step is ``−H r``.
    """

    def __init__(self, memory: int, damping: float) -> None:
        self.memory, self.damping = memory, damping
        self.u: list[Tensor] = []  # the updates, oldest first, each (B, N)
        self.v: list[Tensor] = []
        self.last: tuple[Tensor, Tensor] | None = None

    def step(self, z: Tensor, fz: Tensor, r: Tensor) -> Tensor:
        if self.last is not None:
            s, y = z - self.last[0], r - self.last[1]
            self.learn(s, y, torch.ones_like(z[:, 0], dtype=torch.bool))
        self.last = z, r
        return z - self.damping * self._apply(self.u, self.v, r)

    def learn(self, s: Tensor, y: Tensor, known: Tensor) -> None:
        """Update ``H`` by a matrix of rank one so that ``H y = s``, for the samples of ``known`` ``(B,)``."""
        if len(self.u) == self.memory:
            # Without the oldest update the others are still a valid low-rank estimate of the inverse.
            del self.u[0], self.v[0]
        hy, hs = self._apply(self.u, self.v, y), self._apply(self.v, self.u, s)
        curvature = (s * hy).sum(1, keepdim=True)
        with torch.no_grad():
            useful = curvature.abs() > _LEAST_CURVATURE * (s * s).sum(1, keepdim=True)
            useful &= torch.isfinite(curvature) & known[:, None]
        safe = torch.where(useful, curvature, 1.0)
        self.u.append(torch.where(useful, (s - hy) / safe, 0.0))
        self.v.append(torch.where(useful, hs, 0.0))

    def _apply(self, left: list[Tensor], right: list[Tensor], x: Tensor) -> Tensor:
        """``−x + Σ left_i (right_iᵀ x)`` for ``x`` ``(B, N)``."""
        total = -x
        for a, b in zip(left, right, strict=True):
            total = total + a * (b * x).sum(1, keepdim=True)
        return total

    def select(self, rows: Tensor) -> None:
        self.u, self.v = [u[rows] for u in self.u], [v[rows] for v in self.v]
        if self.last is not None:
            self.last = self.last[0][rows], self.last[1][rows]


@SOLVERS.register
@dataclass(frozen=True, kw_only=True)
class Broyden(Solver):
    """Broyden's (good) quasi-Newton method, with a low-rank inverse Jacobian for each sample.

    Use it for tight tolerances: it often needs fewer evaluations than :class:`Anderson` there. It needs
    ``2 · memory`` tensors of the state's size, and it is less robust far from the solution.

    >>> a = torch.tensor([[0.5, 2.0], [-2.0, 0.5]])  # spectral radius 2: plain iteration diverges
    >>> f = lambda z: z @ a.T + 1
    >>> z, stats = ef.fixed_point(f, torch.zeros(1, 2), solver=ef.Broyden(tol=1e-5))
    >>> bool(stats.converged.all()), torch.allclose(z, f(z), atol=1e-3)
    (True, True)

    Args:
        memory: rank-one updates stored, ≥ 1; the newest replaces the oldest. Default 200. Memory is allocated only
            when it is needed.

    See :class:`equifuse.solve.Solver` for ``tol``, ``max_steps``, ``damping`` and ``patience`` (30 here, because the
    residual often rises before it falls).

    Source: Broyden 1965, in the limited-memory form.
    """

    memory: int = 200
    patience: int = 30
    name: ClassVar[str] = "broyden"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory < 1:
            raise InputError(f"memory must be at least 1, got {self.memory}")

    def start(self, z: Tensor, known: Iterable[SecantPair] = ()) -> StepRule:
        """A rule with ``H = −I`` for states ``(B, N)``, updated by what is known."""
        rule = _BroydenRule(self.memory, self.damping)
        for pair in known:
            rule.learn(*pair)
        return rule

    def fallback(self) -> Solver | None:
        """The same once more from the best iterate, without a limit of patience; then, where it overflows, damped."""
        if self.patience:
            return replace(self, patience=0)
        return replace(self, damping=self.damping / 2) if self.damping > _LEAST_DAMPING else None
