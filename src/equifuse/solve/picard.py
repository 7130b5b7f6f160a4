"""Plain (Picard) iteration: ``z ← z + damping · (f(z) − z)``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from equifuse.registry import SOLVERS
from equifuse.solve.loop import Solver, StepRule, scaled


class _PicardRule(StepRule):
    def step(self, z: Tensor, fz: Tensor, r: Tensor, damping: Tensor | None, restart: Tensor) -> Tensor:
        return z + scaled(damping, r)

    def select(self, rows: Tensor) -> None:
        """Does nothing: nothing is stored."""


@SOLVERS.register
@dataclass(frozen=True, kw_only=True)
class Picard(Solver):
    """Plain iteration, ``z ← f(z)``: the simplest solver, and the baseline for the others.

    It stores no history, converges linearly, and only where ``f`` is a contraction near the fixed point. Use it as a
    yardstick or for maps that contract strongly; otherwise :class:`Anderson` needs fewer evaluations.

    >>> z, stats = ef.fixed_point(lambda z: 0.5 * z + 1, torch.zeros(1, 1), solver=ef.Picard(tol=1e-5))
    >>> round(z.item(), 3), stats.steps.tolist()
    (2.0, [17])

    See :class:`equifuse.solve.Solver` for ``tol``, ``max_steps``, ``damping`` and ``patience``.
    """

    name: ClassVar[str] = "picard"
    looks_ahead: ClassVar[bool] = False

    def start(self, z: Tensor, after: StepRule | None = None) -> StepRule:
        """A step rule without memory."""
        return _PicardRule()
