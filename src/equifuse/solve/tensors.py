"""Small tensor functions that all solvers share."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def work_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of a solve's own state: float64 stays, everything narrower than float32 is widened to it."""
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """A context without autocast. Does nothing where autocast is off already, so that a traced graph is not broken."""
    return torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext()


def flatten_batch(x: Tensor) -> Tensor:
    """``(B, …)`` viewed as ``(B, N)``; also works for ``B = 0``."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def row_norm(x: Tensor) -> Tensor:
    """``‖x‖`` per row of ``(B, N)``, also where squares would underflow or overflow."""
    peak = x.detach().abs().amax(1, keepdim=True) if x.shape[1] else x.new_zeros(len(x), 1)
    safe = torch.where((peak > 0) & (peak < torch.inf), peak, 1.0)
    norm: Tensor = torch.linalg.vector_norm(x / safe, dim=1) * safe.squeeze(1)
    return norm


def relative_residual(r: Tensor, fz: Tensor) -> Tensor:
    """``‖r‖ / ‖f(z)‖`` per row of ``(B, N)``; 0 where both norms are 0, +inf where anything is not finite.

    Where only ``f(z)`` is 0 the result is the largest finite number, because such a state is valid.
    """
    residual, scale = row_norm(r), row_norm(fz)
    relative = torch.nan_to_num(residual / scale)  # 0 / 0 is 0
    return torch.where(residual + scale < torch.inf, relative, torch.inf)  # NaN is not below either
