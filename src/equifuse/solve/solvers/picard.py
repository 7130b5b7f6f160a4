"""Plain (Picard) iteration: ``z ← z + damping · (f(z) − z)``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from equifuse.registry import SOLVERS
from equifuse.solve.solver import SecantPair, Solver, StepRule

# Stalled samples are tried again with half the damping, down to this.
_LEAST_DAMPING = 1.0 / 16


class _PicardRule(StepRule):
    def __init__(self, damping: float) -> None:
        self.damping = damping

    def step(self, z: Tensor, fz: Tensor, r: Tensor) -> Tensor:
        return fz if self.damping == 1 else z + self.damping * r

    def select(self, rows: Tensor) -> None:
        """Does nothing: nothing is stored."""


@SOLVERS.register
@dataclass(frozen=True, kw_only=True)
class Picard(Solver):
    """Plain iteration, ``z ← f(z)``: the simplest solver, and the baseline for the others.

    It stores no history, converges linearly, and only where ``f`` is a contraction near the fixed point. Use it as a
    yardstick or for maps that contract strongly; otherwise :class:`Anderson` needs fewer evaluations. Samples that
    stall, for instance in a cycle, go on with half the damping.

    >>> z, stats = ef.fixed_point(lambda z: 0.5 * z + 1, torch.zeros(1, 1), solver=ef.Picard(tol=1e-5))
    >>> round(z.item(), 3), stats.steps.tolist()
    (2.0, [17])

    See :class:`equifuse.solve.Solver` for ``tol``, ``max_steps``, ``damping`` and ``patience`` (50 here, because the
    residuals of a contraction that also rotates rise now and then).
    """

    name: ClassVar[str] = "picard"
    patience: int = 50

    def start(self, z: Tensor, known: Iterable[SecantPair] = ()) -> StepRule:
        """A step rule without memory."""
        return _PicardRule(self.damping)

    def fallback(self) -> Solver | None:
        """The same with half the damping; with the least damping, without a limit of patience."""
        if not self.patience:
            return None
        return replace(self, damping=self.damping / 2) if self.damping > _LEAST_DAMPING else replace(self, patience=0)
