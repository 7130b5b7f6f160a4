"""Evaluations in low precision, used as long as their errors are small against the residual of a solve."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# The dtype of a low-precision product's factors, and the largest relative error that this gives.
LOW_PRECISION = torch.bfloat16
ROUNDOFF = torch.finfo(LOW_PRECISION).eps / 2
# A low-precision evaluation's error stays below this share of the residual that is expected of it ...
_SHARE = 0.25
# ... which is this share of the last one, before two residuals are known.
_FIRST_RATE = 0.25


class Evaluated(NamedTuple):
    """The result of one evaluation of a map.

    >>> ef.solve.Evaluated(torch.ones(1, 2)).error is None  # an exact evaluation
    True

    Attributes:
        image: ``f(z)`` ``(B, …)``.
        ahead: ``(B, …)`` a point with the same fixed points that is nearer to them than the image, obtained by
            repeating a cheap part of ``f``. None: use the image.
        error: ``(B,)`` estimate of the image's error, rather too large than too small; None if it is exact.
    """

    image: Tensor
    ahead: Tensor | None = None
    error: Tensor | None = None


class ReferencePoint(ABC):
    """A map with a cheap evaluation near its reference point, the point where it was last evaluated exactly.

    The cheap evaluation adds to the exact image a low-precision product with the distance from the reference point. Its
    error shrinks with this distance, so a solve that moves the reference point now and then reaches the tolerance of
    the exact map.
    """

    @property
    @abstractmethod
    def known(self) -> bool:
        """Whether there is a reference point yet."""

    @abstractmethod
    def adopt(self, other: ReferencePoint, select_rows: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]) -> None:
        """Start from the reference point of ``other``, the same map with more samples.

        Args:
            other: the map to copy from.
            select_rows: function that reduces its tensors to these samples.
        """

    @abstractmethod
    def exact(self, z: Tensor) -> Evaluated:
        """``f(z)`` exactly; ``z`` becomes the reference point."""

    @abstractmethod
    def low_precision(self, z: Tensor) -> Evaluated:
        """``f(z)`` nearly."""


class Schedule:
    """Decides when a solve moves the reference point: when a low-precision error would hide the next residual.

    There is one decision for the whole batch, by the majority of the samples that are still running. For the others the
    estimated error counts as residual, so that no sample is called converged too early.
    """

    def __init__(self) -> None:
        self._last: Tensor | None = None
        self.exact_next = False

    def note(self, residual: Tensor, error: Tensor, running: Tensor) -> None:
        """Record an evaluation and decide whether the next one is exact.

        Args:
            residual: ``(B,)`` relative residuals.
            error: ``(B,)`` estimates of their errors.
            running: bool ``(B,)``, samples that have not stopped.
        """
        rate = _FIRST_RATE if self._last is None else (residual / self._last).clamp(max=1.0)
        # The next point is about one residual further from the reference point.
        coming = error + ROUNDOFF * residual
        wanting = running & (coming > _SHARE * rate * residual)
        self.exact_next = 2 * int(wanting.count_nonzero()) > int(running.count_nonzero())
        self._last = residual

    def select(self, rows: Tensor) -> None:
        """Drop all samples except ``rows`` (indices)."""
        if self._last is not None:
            self._last = self._last[rows]
