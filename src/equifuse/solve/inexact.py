"""Evaluations in a narrower dtype, as long as a solve does not feel the difference."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# What a product's factors are rounded to, and by how much that moves the product relative to its size, at most.
ROUGH = torch.bfloat16
ROUNDOFF = torch.finfo(ROUGH).eps / 2
# A rough evaluation's error stays below this share of the residual that is expected of it ...
_SHARE = 0.25
# ... which is this much of the last one, before there are two to tell.
_FIRST_RATE = 0.25


class Evaluated(NamedTuple):
    """An evaluation of a map.

    Attributes:
        image: ``f(z)`` ``(B, …)``.
        ahead: ``(B, …)`` a point that is fixed where ``z`` is, and nearer to the fixed point than the image, from
            repeating a part of ``f`` that costs little. None for the image.
        error: ``(B,)`` estimate of how far the image is off, on the large side; None if it is exact.
    """

    image: Tensor
    ahead: Tensor | None = None
    error: Tensor | None = None


class ReferencePoint(ABC):
    """A map with a cheap evaluation near an anchor, the point where it was last evaluated exactly.

    The cheap one adds to the anchor's image what rounded products say about the way from the anchor, so its error
    falls with the way: a solve can reach the tolerance of the exact map by moving the anchor now and then.
    """

    @property
    @abstractmethod
    def known(self) -> bool:
        """Whether there is an anchor."""

    @abstractmethod
    def adopt(self, other: ReferencePoint, select_rows: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]) -> None:
        """Start from the anchor of ``other``, the same map of more samples.

        Args:
            other: that one.
            select_rows: what its tensors are, of these samples alone.
        """

    @abstractmethod
    def exact(self, z: Tensor) -> Evaluated:
        """``f(z)``; ``z`` becomes the anchor."""

    @abstractmethod
    def rough(self, z: Tensor) -> Evaluated:
        """``f(z)`` nearly."""


class Schedule:
    """When a solve moves the anchor: if a rough evaluation would not see the residual that is expected of it.

    The decision is one for the whole batch, by the majority of the samples that still run: the error of a sample that
    would rather have decided otherwise counts as residual, so nothing is called converged too early.
    """

    def __init__(self) -> None:
        self._last: Tensor | None = None
        self.exact_next = False

    def note(self, residual: Tensor, error: Tensor, running: Tensor) -> None:
        """Take in an evaluation and decide about the next one.

        Args:
            residual: ``(B,)`` relative residuals.
            error: ``(B,)`` how far they may be off.
            running: bool ``(B,)``, which samples go on.
        """
        rate = _FIRST_RATE if self._last is None else (residual / self._last).clamp(max=1.0)
        # The next point is about one residual further from the anchor.
        coming = error + ROUNDOFF * residual
        wanting = running & (coming > _SHARE * rate * residual)
        self.exact_next = 2 * int(wanting.count_nonzero()) > int(running.count_nonzero())
        self._last = residual

    def select(self, rows: Tensor) -> None:
        """Forget all samples but ``rows`` (indices)."""
        if self._last is not None:
            self._last = self._last[rows]
