"""Large CPU tensors in memory that is used again, not allocated anew.

Freshly allocated memory is mapped page by page when it is first written, which at the size of a batch of states takes
many times as long as the arithmetic. GPUs have a caching allocator for that; on a CPU this is ours. A block returns to
the pool when the last tensor that shares its storage is gone, so its tensors can be used like any other.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections import defaultdict

import numpy as np
import torch
from torch import Tensor

# Below this many bytes the system's allocator is as fast.
_WORTH_KEEPING = 2**18
# Most bytes that lie idle.
_MOST_IDLE = 2**29


class _Pool:
    """Idle blocks by size; sizes are rounded up, so that batches of slightly different size share blocks."""

    def __init__(self) -> None:
        self._idle: defaultdict[int, list[np.ndarray]] = defaultdict(list)
        self._bytes = 0
        # Reentrant: a garbage collection within may give a block back.
        self._lock = threading.RLock()

    @property
    def idle_bytes(self) -> int:
        """What lies idle."""
        return self._bytes

    def borrow(self, size: int) -> np.ndarray:
        """``size`` bytes at least, until the array is gone."""
        step = 2 ** max(size.bit_length() - 4, 0)
        rounded = -(-size // step) * step
        block = None
        with self._lock:
            # A batch that shrinks goes on in the blocks it had.
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
        """Free what lies idle."""
        with self._lock:
            self._idle.clear()
            self._bytes = 0


_POOL = _Pool()


def _kept(like: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
    """A tensor in memory of the pool; None where that is not worth it."""
    # While compiling, sizes are symbols, and nothing may be asked about them.
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
    """Whether nothing may be written in place: for autograd, or because a compiler decides on memory."""
    return torch.is_grad_enabled() or torch.compiler.is_compiling()


def spare(like: Tensor, *shape: int) -> Tensor | None:
    """Memory for ``torch.…(out=…)``; None, which means a result of its own, where that is as good or a must."""
    return None if recording() else _kept(like, shape or like.shape, like.dtype)


def copy(x: Tensor) -> Tensor:
    """``x.clone()``, contiguous, not on a tape."""
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
    """Bytes kept for later."""
    return _POOL.idle_bytes


def release_idle_memory() -> None:
    """Free them."""
    _POOL.clear()
