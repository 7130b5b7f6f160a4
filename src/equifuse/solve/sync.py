"""When reading a tensor's values is cheap, and when it is allowed at all: on a GPU every read waits for queued work."""

from __future__ import annotations

import torch
from torch import Tensor

# On other devices than a CPU, values are read in one step out of this many.
_EVERY = 8
# Devices whose work can be recorded.
_RECORDS = ("cuda",)


def can_read(x: Tensor) -> bool:
    """Whether the host may read values of ``x``: not in a graph that is being compiled, or recorded on a GPU."""
    return not torch.compiler.is_compiling() and not is_recorded(x)


def is_recorded(x: Tensor) -> bool:
    """Whether what is done with ``x`` is being recorded as a CUDA graph, in which a compiler would break its own."""
    return x.device.type in _RECORDS and torch.cuda.is_current_stream_capturing()


def is_sync_step(x: Tensor, step: int) -> bool:
    """Whether the values of ``x`` are read in ``step`` (counted from 0): always on a CPU, else in every eighth."""
    return x.device.type == "cpu" or (step % _EVERY == _EVERY - 1 and not is_recorded(x))
