"""A solver: Polyak's heavy ball, plain steps that keep some of their momentum."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from equifuse.solve import Solver
from equifuse.solve.solver import SecantPair, StepRule


class _Rule(StepRule):
    """One solve: remembers the iterate before."""

    def __init__(self, momentum: float, damping: float) -> None:
        self.momentum, self.damping = momentum, damping
        self.before: Tensor | None = None

    def step(self, z: Tensor, fz: Tensor, r: Tensor) -> Tensor:
        kept = torch.zeros_like(z) if self.before is None else z - self.before
        self.before = z
        return z + self.damping * r + self.momentum * kept

    def select(self, rows: Tensor) -> None:
        self.before = None if self.before is None else self.before[rows]


@dataclass(frozen=True, kw_only=True)
class HeavyBall(Solver):
    """``z ← f(z) + momentum · (z − z_before)``; tolerance and budget are those of every solver."""

    momentum: float = 0.1
    name = "heavy_ball"

    def start(self, z: Tensor, known: Iterable[SecantPair] = ()) -> StepRule:
        """A new solve."""
        return _Rule(self.momentum, self.damping)
