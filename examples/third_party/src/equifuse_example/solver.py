"""A solver: Polyak's heavy ball, plain steps that keep some of their momentum."""

from dataclasses import dataclass

import torch
from torch import Tensor

from equifuse.solve import Solver
from equifuse.solve.loop import StepRule


class _Rule(StepRule):
    """One solve: remembers the iterate before."""

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        self.before: Tensor | None = None

    def step(self, z: Tensor, fz: Tensor, r: Tensor, damping: Tensor | None, restart: Tensor) -> Tensor:
        kept = torch.zeros_like(z) if self.before is None else torch.where(restart[:, None], 0.0, z - self.before)
        self.before = z
        return z + (r if damping is None else damping * r) + self.momentum * kept

    def select(self, rows: Tensor) -> None:
        self.before = None if self.before is None else self.before[rows]


@dataclass(frozen=True, kw_only=True)
class HeavyBall(Solver):
    """``z ← f(z) + momentum · (z − z_before)``; tolerance and budget are those of every solver."""

    momentum: float = 0.1
    name = "heavy_ball"
    looks_ahead = False

    def start(self, z: Tensor, after: StepRule | None = None) -> StepRule:
        """A new solve."""
        return _Rule(self.momentum)
