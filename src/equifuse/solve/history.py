"""Per-sample columns remembered by a step rule, in a ring buffer."""

from __future__ import annotations

import torch
from torch import Tensor


def write(buffer: Tensor, slot: int, value: Tensor) -> Tensor:
    """``buffer`` with ``buffer[:, slot] = value``: in place, or on a copy while a graph is being recorded."""
    if torch.is_grad_enabled():
        buffer = buffer.clone()
    buffer[:, slot] = value
    return buffer
