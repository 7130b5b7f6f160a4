"""Limited-memory good Broyden (Broyden 1965), per sample and batched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from equifuse.errors import InputError
from equifuse.solve.history import Slots
from equifuse.solve.loop import Solver, StepRule, scaled
from equifuse.solve.recycling import select, spare
from equifuse.solve.sync import known_empty

# Below this share of ‖s‖² the secant denominator carries no information and the update is skipped.
_LEAST_CURVATURE = 1e-6


class _BroydenRule(StepRule):
    """Root of ``r(z) = f(z) − z`` with ``H ≈ (∂r/∂z)⁻¹ = −I + Σ u_i v_iᵀ``, updated by Sherman-Morrison.

    With ``s = Δz``, ``y = Δr``: ``u = (s − H y) / (sᵀ H y)``, ``v = Hᵀ s``; the step is ``−H r``.
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
            # A zero is no update: H of these samples is −I again.
            self.u.clear(restart)
            self.v.clear(restart)
        self.learn(torch.sub(z, self.last_z, out=spare(z)), torch.sub(r, self.last_r, out=spare(r)), ~restart)
        self.last_z, self.last_r = z, r
        return z - scaled(damping, _apply(self.u, self.v, r))

    def learn(self, s: Tensor, y: Tensor, known: Tensor) -> None:
        """Make ``H y = s`` by an update of rank one, for the samples of ``known`` ``(B,)``."""
        slot = self.count % self.u.size
        self.count += 1
        if self.u.used == self.u.size:
            # The oldest update makes room; what is left is still a valid low-rank inverse estimate.
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
        """Learn what another rule has seen of the same map."""
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


@dataclass(frozen=True, kw_only=True)
class Broyden(Solver):
    """Broyden's (good) quasi-Newton method with a low-rank inverse Jacobian per sample.

    Often fewer evaluations than Anderson to tight tolerances, at ``2 · memory`` state-sized buffers; note that it
    is less forgiving far from the solution.

    Args:
        memory: rank-one updates kept, ≥ 1; the oldest makes room for the newest. Room is made as it is needed.

    See :class:`equifuse.solve.Solver` for ``tol``, ``max_steps``, ``damping`` and ``patience``.
    """

    memory: int = 200
    patience: int = 30  # its residual often rises before it falls
    name: ClassVar[str] = "broyden"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory < 1:
            raise InputError(f"memory must be at least 1, got {self.memory}")

    def start(self, z: Tensor, after: StepRule | None = None) -> StepRule:
        """``H = −I`` for states ``(B, N)``, updated by what ``after`` has seen."""
        if isinstance(after, _BroydenRule):
            return after
        rule = _BroydenRule(z, min(self.memory, max(1, self.max_steps - 1)))
        if after is not None:
            rule.take_over(after)
        return rule

    def fallback(self) -> Solver:
        """The same: a sample that stalls is sent back to its best iterate once, with all that has been learned."""
        return self
