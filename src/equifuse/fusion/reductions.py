"""Weighted sums and comparisons of vectors that several fusions use; finite whatever is absent."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# Shorter vectors count as this long when directions are compared, because the gradient is unbounded near 0.
_SHORTEST = 1e-3


def shares(scores: Tensor, there: Tensor) -> Tensor:
    """Softmax of ``(R, K)`` over the present entries of each row; over all entries where none is present."""
    return torch.softmax(scores.masked_fill(~there & there.any(1, keepdim=True), -torch.inf), dim=1)


def softmax_sum(scores: Tensor, values: Tensor, there: Tensor) -> Tensor:
    """``Σ_k softmax(scores)_k values_k`` over the present entries of each row; 0 where none is present.

    Args:
        scores: ``(R, K)``.
        values: ``(R, K, d)``, finite.
        there: bool ``(R, K)``, True where present.

    Returns:
        ``(R, d)``.
    """
    # A row without a present entry is an empty sum, whatever its scores.
    return torch.where(there.any(1, keepdim=True), (shares(scores, there)[:, None] @ values).squeeze(1), 0.0)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of the angle between vectors ``(..., d)``, ``(...)``; 0 if one of them is zero."""
    return F.cosine_similarity(a, b, dim=-1, eps=_SHORTEST)
