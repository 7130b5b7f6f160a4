"""Large CPU temporaries that are used again, not allocated anew.

Freshly allocated memory is mapped page by page when it is first written, which at the size of a batch of states takes
as long as the arithmetic. GPUs have a caching allocator for that; on a CPU this is ours. Every thread has its own pool.
"""

from __future__ import annotations

import math
import threading
from types import TracebackType

import torch
from torch import Tensor

# Below this many numbers the system's allocator is as fast.
_WORTH_KEEPING = 2**16
# Most bytes that lie idle per thread.
_MOST_IDLE = 2**29


class _Pool(threading.local):
    def __init__(self) -> None:
        self.idle: list[Tensor] = []  # flat, ascending by size

    def borrow(self, count: int, dtype: torch.dtype) -> Tensor:
        for i, buffer in enumerate(self.idle):
            if buffer.dtype == dtype and count <= buffer.numel() <= 2 * count:
                return self.idle.pop(i)
        return torch.empty(count, dtype=dtype)

    def give_back(self, buffers: list[Tensor]) -> None:
        self.idle = sorted(self.idle + buffers, key=Tensor.numel)
        total = 0
        for i, buffer in enumerate(self.idle):
            total += buffer.numel() * buffer.element_size()
            if total > _MOST_IDLE:
                del self.idle[i:]
                break


_POOL = _Pool()


class Workspace:
    """Tensors borrowed from the pool until :meth:`release`, or the end of a ``with`` block. Not for autograd."""

    def __init__(self) -> None:
        self._held: list[Tensor] = []

    def empty(self, like: Tensor, *shape: int) -> Tensor:
        """An uninitialised tensor of ``shape`` (default: that of ``like``), dtype and device of ``like``."""
        size = shape or tuple(like.shape)
        count = math.prod(size)
        if like.device.type != "cpu" or count < _WORTH_KEEPING:
            return like.new_empty(size)
        flat = _POOL.borrow(count, like.dtype)
        self._held.append(flat)
        return flat[:count].view(size)

    def release(self) -> None:
        """Give everything back; the tensors must not be used any more."""
        if self._held:
            _POOL.give_back(self._held)
            self._held = []

    def __enter__(self) -> Workspace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def release_idle_memory() -> None:
    """Free this thread's idle buffers."""
    _POOL.idle.clear()
