"""Limited-memory good Broyden (Broyden 1965), per sample and batched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from equifuse.errors import InputError
from equifuse.registry import SOLVERS
from equifuse.solve.history import Slots
from equifuse.solve.loop import Solver, StepRule, scaled
from equifuse.solve.recycling import select, spare
from equifuse.solve.sync import known_empty

# Below this share of ‖s‖² the denominator of the update is only rounding, and the update is skipped.
_LEAST_CURVATURE = 1e-6


class _BroydenRule(StepRule):
    """Root of ``r(z) = f(z) − z`` with ``H ≈ (∂r/∂z)⁻¹ = −I + Σ u_i v_iᵀ``, updated by the Sherman-Morrison formula.

    With ``s = Δz`` and ``y = Δr``: ``u = (s − H y) / (sᵀ H y)``, ``v = Hᵀ s``; the step is ``−H r``.
    """

    def __init__(self, z: Tensor, memory: int) -> None:
        self.u, self.v = Slots(z, memory), Slots(z, memory)
        self.last_z: Tensor | None = None
        self.last_r: Tensor | None = None
        self.count = 0

    def step(self, z: Tensor, fz: Tensor, r: Tensor, damping: Tensor | None, restart: Tensor) -> Tensor:
        if self.last_z is None or self.last_r is None:
            self.last_z, self.last_r = z, r
            return z + scaled(damping, r)
        if not known_empty(restart):
            # With all updates zero, H of these samples is −I again.
            self.u.clear(restart)
            self.v.clear(restart)
        self.learn(torch.sub(z, self.last_z, out=spare(z)), torch.sub(r, self.last_r, out=spare(r)), ~restart)
        self.last_z, self.last_r = z, r
        return z - scaled(damping, _apply(self.u, self.v, r))

    def learn(self, s: Tensor, y: Tensor, known: Tensor) -> None:
        """Update ``H`` by a matrix of rank one so that ``H y = s``, for the samples of ``known`` ``(B,)``."""
        slot = self.count % self.u.size
        self.count += 1
        if self.u.used == self.u.size:
            # Drop the oldest update; the others are still a valid low-rank estimate of the inverse.
            self.u.store(slot, torch.zeros_like(s))
        hy = _apply(self.u, self.v, y)
        hs = _apply(self.v, self.u, s)
        curvature = (s * hy).sum(1, keepdim=True)
        with torch.no_grad():
            useful = curvature.abs() > _LEAST_CURVATURE * (s * s).sum(1, keepdim=True)
            useful &= torch.isfinite(curvature) & known[:, None]
        safe = torch.where(useful, curvature, 1.0)
        self.u.store(slot, torch.where(useful, (s - hy) / safe, 0.0))
        self.v.store(slot, torch.where(useful, hs, 0.0))

    def take_over(self, other: StepRule) -> None:
        """Reuse the differences that another rule has stored about the same map."""
        for s, y, known in other.secant_pairs():
            self.learn(s, y, known)
        if other.latest is not None:
            self.last_z, self.last_r = other.latest

    def select(self, rows: Tensor) -> None:
        self.u.select(rows)
        self.v.select(rows)
        if self.last_z is not None and self.last_r is not None:
            self.last_z, self.last_r = select(self.last_z, rows), select(self.last_r, rows)


def _apply(left: Slots, right: Slots, x: Tensor) -> Tensor:
    """``−x + Σ left_i (right_iᵀ x)`` for ``x`` ``(B, N)``."""
    (weights,) = right.dots(x)
    return left.add_to(torch.neg(x, out=spare(x)), weights, reuse=not torch.is_grad_enabled())


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
    patience: int = 30  # its residual often rises before it falls
    name: ClassVar[str] = "broyden"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory < 1:
            raise InputError(f"memory must be at least 1, got {self.memory}")

    def start(self, z: Tensor, after: StepRule | None = None) -> StepRule:
        """A rule with ``H = −I`` for states ``(B, N)``, updated by what ``after`` has stored."""
        if isinstance(after, _BroydenRule):
            return after
        rule = _BroydenRule(z, min(self.memory, max(1, self.max_steps - 1)))
        if after is not None:
            rule.take_over(after)
        return rule

    def fallback(self) -> Solver:
        """The method itself: a stalled sample returns to its best iterate once and keeps its inverse Jacobian."""
        return self
