"""What a step rule remembers of each sample, in ring buffers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def write(buffer: Tensor, place: Any, value: Tensor) -> Tensor:
    """``buffer`` with ``buffer[place] = value``: in place, or on a copy while a graph is being recorded.

    An integer ``place`` is a slot of the second axis.
    """
    if torch.is_grad_enabled():
        buffer = buffer.clone()
    buffer[(slice(None), place) if isinstance(place, int) else place] = value
    return buffer


def keep_rows(buffer: Tensor, rows: Tensor, used: int) -> Tensor:
    """The given samples of a buffer ``(B, slots, …)``; only its first ``used`` slots hold anything."""
    smaller = buffer.new_empty(len(rows), *buffer.shape[1:])
    smaller[:, :used] = buffer[rows, :used]
    return smaller
