"""Limited-memory good Broyden (Broyden 1965), per sample and batched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from equifuse.errors import InputError
from equifuse.solve.history import keep_rows, write
from equifuse.solve.loop import Solver, StepRule, none_of

# Below this share of ‖s‖² the secant denominator carries no information and the update is skipped.
_LEAST_CURVATURE = 1e-6


class _BroydenRule(StepRule):
    """Root of ``g(z) = f(z) − z`` with ``H ≈ (∂g/∂z)⁻¹ = −I + Σ u_i v_iᵀ``, updated by Sherman-Morrison.

    With ``s = Δz``, ``y = Δg``: ``u = (s − H y) / (sᵀ H y)``, ``v = Hᵀ s``; the step is ``−H g``.
    """

    def __init__(self, z: Tensor, memory: int) -> None:
        batch, width = z.shape
        self.memory = memory
        # Only slots that were written are ever read, so the buffers need no zeros.
        self.u = z.new_empty(batch, memory, width)
        self.v = z.new_empty(batch, memory, width)
        self.last_z: Tensor | None = None
        self.last_g: Tensor | None = None
        self.count = 0

    def step(self, z: Tensor, fz: Tensor, damping: Tensor, restart: Tensor) -> Tensor:
        g = fz - z
        if self.last_z is None or self.last_g is None:
            self.last_z, self.last_g = z, g
            return z + damping * g
        slot = self.count % self.memory
        used = min(self.count, self.memory)
        self.count += 1
        if not none_of(restart):
            # A zero is no update: H of these samples is −I again.
            self.u = write(self.u, (restart, slice(used)), self.u.new_zeros(()))
            self.v = write(self.v, (restart, slice(used)), self.v.new_zeros(()))
        if used == self.memory:
            # The oldest update makes room; what is left is still a valid low-rank inverse estimate.
            self.u = write(self.u, slot, torch.zeros_like(z))
        u, v = self.u[:, :used], self.v[:, :used]
        s, y = z - self.last_z, g - self.last_g
        self.last_z, self.last_g = z, g
        hy = self._apply(u, v, y)
        hs = self._apply(v, u, s)
        curvature = (s * hy).sum(1, keepdim=True)
        with torch.no_grad():
            useful = curvature.abs() > _LEAST_CURVATURE * (s * s).sum(1, keepdim=True)
            useful &= torch.isfinite(curvature) & ~restart[:, None]
        safe = torch.where(useful, curvature, 1.0)
        self.u = write(self.u, slot, torch.where(useful, (s - hy) / safe, 0.0))
        self.v = write(self.v, slot, torch.where(useful, hs, 0.0))
        used = min(self.count, self.memory)
        return z - damping * self._apply(self.u[:, :used], self.v[:, :used], g)

    def keep(self, rows: Tensor) -> None:
        used = min(self.count, self.memory)
        self.u, self.v = keep_rows(self.u, rows, used), keep_rows(self.v, rows, used)
        if self.last_z is not None and self.last_g is not None:
            self.last_z, self.last_g = self.last_z[rows], self.last_g[rows]

    @staticmethod
    def _apply(left: Tensor, right: Tensor, x: Tensor) -> Tensor:
        """``−x + Σ left_i (right_iᵀ x)`` for ``x`` ``(B, N)``."""
        weights = right @ x[:, :, None]  # (B, m, 1)
        return (weights.transpose(1, 2) @ left).squeeze(1) - x


@dataclass(frozen=True, kw_only=True)
class Broyden(Solver):
    """Broyden's (good) quasi-Newton method with a low-rank inverse Jacobian per sample.

    Often fewer evaluations than Anderson to tight tolerances, at ``2 · memory`` state-sized buffers; note that it
    is less forgiving far from the solution.

    Args:
        memory: rank-one updates kept, ≥ 1; the oldest makes room for the newest.

    See :class:`equifuse.solve.Solver` for ``tol``, ``max_steps``, ``damping`` and ``patience``.
    """

    memory: int = 20
    name: ClassVar[str] = "broyden"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory < 1:
            raise InputError(f"memory must be at least 1, got {self.memory}")

    def start(self, z: Tensor) -> StepRule:
        """``H = −I`` for states ``(B, N)``."""
        return _BroydenRule(z, min(self.memory, max(1, self.max_steps - 1)))
