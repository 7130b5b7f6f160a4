"""Reuse of the memory of large CPU tensors.

The operating system maps newly allocated memory page by page when it is first written, which for a batch of states
takes many times as long as the arithmetic. PyTorch has a caching allocator for GPUs, but not for CPUs; this module
is one. A block returns to the pool when the last tensor in it is deleted, so its tensors can be used like any other.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections import defaultdict

import numpy as np
import torch
from torch import Tensor

# Below this many bytes the system's allocator is equally fast.
_WORTH_KEEPING = 2**18
# Largest number of unused bytes in the pool.
_MOST_IDLE = 2**29


class _Pool:
    """Idle blocks by size; sizes are rounded up, so that batches of slightly different size share blocks."""

    def __init__(self) -> None:
        self._idle: defaultdict[int, list[np.ndarray]] = defaultdict(list)
        self._bytes = 0
        # Reentrant, because a garbage collection while it is held may return a block.
        self._lock = threading.RLock()

    @property
    def idle_bytes(self) -> int:
        """Bytes that are not in use now."""
        return self._bytes

    def borrow(self, size: int) -> np.ndarray:
        """An array of at least ``size`` bytes; its memory returns to the pool when it is deleted."""
        step = 2 ** max(size.bit_length() - 4, 0)
        rounded = -(-size // step) * step
        block = None
        with self._lock:
            # A batch that becomes smaller reuses its larger blocks.
            fitting = [held for held, blocks in self._idle.items() if rounded <= held <= 2 * rounded and blocks]
            if fitting:
                block = self._idle[min(fitting)].pop()
                self._bytes -= block.nbytes
        if block is None:
            block = torch.empty(rounded, dtype=torch.uint8).numpy()
        lent = block[:]
        weakref.finalize(lent, self._give_back, block).atexit = False
        return lent

    def _give_back(self, block: np.ndarray) -> None:
        with self._lock:
            if self._bytes + block.nbytes > _MOST_IDLE:
                self.clear()
            if block.nbytes <= _MOST_IDLE:
                self._idle[block.nbytes].append(block)
                self._bytes += block.nbytes

    def clear(self) -> None:
        """Free the memory that is not in use."""
        with self._lock:
            self._idle.clear()
            self._bytes = 0


_POOL = _Pool()


def _kept(like: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
    """A tensor in memory of the pool; None where that is not worth it."""
    # While compiling, sizes are symbols that must not be compared.
    if not like.is_cpu or torch.compiler.is_compiling():
        return None
    count = math.prod(shape)
    if count * dtype.itemsize < _WORTH_KEEPING:
        return None
    return torch.from_numpy(_POOL.borrow(count * dtype.itemsize)).view(dtype)[:count].view(shape)


def empty(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised tensor of ``shape`` (default: that of ``like``), with its dtype (or another) and device."""
    size, dtype = shape or like.shape, dtype or like.dtype
    kept = _kept(like, size, dtype)
    return like.new_empty(size, dtype=dtype) if kept is None else kept


def recording() -> bool:
    """Whether nothing may be written in place: autograd records a graph, or a compiler plans the memory."""
    return torch.is_grad_enabled() or torch.compiler.is_compiling()


def spare(like: Tensor, *shape: int) -> Tensor | None:
    """Memory to pass as ``out=``; None, for a newly allocated result, where reuse is not allowed or not faster."""
    return None if recording() else _kept(like, shape or like.shape, like.dtype)


def copy(x: Tensor) -> Tensor:
    """A contiguous copy of ``x`` that autograd does not record."""
    return empty(x).copy_(x)


def select(x: Tensor, rows: Tensor) -> Tensor:
    """``x[rows]`` (indices into the first axis)."""
    return torch.index_select(x, 0, rows, out=spare(x, len(rows), *x.shape[1:]))


def scatter(x: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """``x`` with ``x[rows] = values`` (indices into the first axis), a new tensor."""
    if recording():
        return x.index_copy(0, rows, values)
    return copy(x).index_copy_(0, rows, values)


def spread(values: Tensor, places: Tensor, count: int) -> Tensor:
    """``(count, …)`` zeros with ``values`` at ``places`` (indices into the first axis)."""
    if recording():
        return values.new_zeros(count, *values.shape[1:]).index_copy(0, places, values)
    return empty(values, count, *values.shape[1:]).zero_().index_copy_(0, places, values)


def idle_bytes() -> int:
    """Bytes in the pool that are not in use now."""
    return _POOL.idle_bytes


def release_idle_memory() -> None:
    """Free the memory of the pool that is not in use."""
    _POOL.clear()
