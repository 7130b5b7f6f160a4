"""The state of a running Anderson solve, row by row, as the fused kernels read and write it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# What has become of a row: still iterating, within tolerance, stalled (no progress or not finite), out of evaluations.
RUNNING, CONVERGED, STALLED, EXHAUSTED = 0, 1, 2, 3
# A row whose solve has a limit of patience has stalled, too, when its residual exceeds its smallest by this factor.
BLOW_UP = 1e3


@dataclass
class RowLimits:
    """When a row stops, and how it moves.

    Attributes:
        tol: relative residual at which it has converged.
        max_steps: largest number of evaluations.
        patience: number of evaluations without a new smallest residual after which it counts as stalled; 0: never.
        damping: share of the residual that a step moves by.
    """

    tol: float
    max_steps: int
    patience: int
    damping: float


@dataclass
class Rows:
    """Everything that an Anderson solve stores about its ``R`` rows of ``N`` numbers. All tensors are contiguous.

    Attributes:
        best: ``(R, N)`` the iterate with the smallest residual.
        residual: ``(R,)`` that residual, infinite at first.
        steps: int32 ``(R,)`` evaluations made.
        since: int32 ``(R,)`` evaluations since the best one.
        status: int8 ``(R,)``, ``RUNNING`` and so on.
        last_f: ``(R, N)`` the last target.
        last_r: ``(R, N)`` its residual.
        q: ``(R, m, N)`` orthonormal differences of residuals, a ring; zeros count as nothing.
        g: ``(R, m, N)`` the same combinations of the targets' differences.
        scale: ``(R,)`` what residuals are relative to; None for the norm of the image.
    """

    best: Tensor
    residual: Tensor
    steps: Tensor
    since: Tensor
    status: Tensor
    last_f: Tensor
    last_r: Tensor
    q: Tensor
    g: Tensor
    scale: Tensor | None

    @classmethod
    def begin(cls, z: Tensor, memory: int, scale: Tensor | None = None) -> Rows:
        """The state before the first evaluation at ``z`` ``(R, N)``."""
        count, width = z.shape
        return cls(
            best=z.clone(),
            residual=z.new_full((count,), torch.inf),
            steps=z.new_zeros(count, dtype=torch.int32),
            since=z.new_zeros(count, dtype=torch.int32),
            status=z.new_zeros(count, dtype=torch.int8),
            last_f=torch.empty_like(z),
            last_r=torch.empty_like(z),
            q=z.new_empty(count, memory, width),
            g=z.new_empty(count, memory, width),
            scale=scale,
        )
