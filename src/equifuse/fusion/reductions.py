"""Sums and comparisons of vectors that several fusions make, row by row, and finite whatever is absent."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# A vector shorter than this is taken to be this long where directions are compared: at 0 there is none, and next to it
# the slope would have no bound.
_SHORTEST = 1e-3


def shares(scores: Tensor, there: Tensor) -> Tensor:
    """Softmax of ``(R, K)`` over those that are there, per row; over all where none is."""
    return torch.softmax(scores.masked_fill(~there & there.any(1, keepdim=True), -torch.inf), dim=1)


def softmax_sum(scores: Tensor, values: Tensor, there: Tensor) -> Tensor:
    """``Σ_k softmax(scores)_k values_k`` over those that are there, per row; 0 where none is.

    Args:
        scores: ``(R, K)``.
        values: ``(R, K, d)``, finite.
        there: bool ``(R, K)``.

    Returns:
        ``(R, d)``.
    """
    # A row without any is a sum over nothing, whatever its scores.
    return torch.where(there.any(1, keepdim=True), (shares(scores, there)[:, None] @ values).squeeze(1), 0.0)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of the angle between vectors ``(..., d)``, ``(...)``; that with a vector of zeros is 0."""
    return F.cosine_similarity(a, b, dim=-1, eps=_SHORTEST)
