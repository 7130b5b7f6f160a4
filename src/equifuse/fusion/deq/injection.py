"""The inputs of deep-equilibrium fusion: the stacked modalities, and their weighted sum."""

from __future__ import annotations

import torch
from torch import Tensor


def inject(xs: list[Tensor], mask: Tensor | None, weights: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The modalities' inputs as one tensor, zero where absent, and ``Σ_m w_m x_m + β``.

    Args:
        xs: ``M`` tensors ``(R, d)``.
        mask: bool ``(M, R, 1)``, or None where everything is present.
        weights: ``(M,)``.
        bias: ``(1,)``.

    Returns:
        ``(M, R, d)`` and ``(R, d)``.
    """
    stacked = torch.stack(xs)
    if mask is not None:
        stacked = torch.where(mask, stacked, 0.0)
    flat = stacked.flatten(1)
    return stacked, (weights @ flat).view_as(stacked[0]) + bias
