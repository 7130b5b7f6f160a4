"""Plain (Picard) iteration: ``z ← z + damping · (f(z) − z)``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from equifuse.solve.loop import Solver, StepRule, scaled


class _PicardRule(StepRule):
    def step(self, z: Tensor, fz: Tensor, r: Tensor, damping: Tensor | None, restart: Tensor) -> Tensor:
        return z + scaled(damping, r)

    def select(self, rows: Tensor) -> None:
        """Nothing is remembered."""


@dataclass(frozen=True, kw_only=True)
class Picard(Solver):
    """Plain iteration, no memory. Converges linearly, only where ``f`` contracts, and is the yardstick for the rest.

    See :class:`equifuse.solve.Solver` for ``tol``, ``max_steps``, ``damping`` and ``patience``.
    """

    name: ClassVar[str] = "picard"
    looks_ahead: ClassVar[bool] = False

    def start(self, z: Tensor, after: StepRule | None = None) -> StepRule:
        """A stateless rule."""
        return _PicardRule()
