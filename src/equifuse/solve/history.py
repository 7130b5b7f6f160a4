"""Storage for the history of an iteration: vectors of each sample in slots, and products with all of them."""

from __future__ import annotations

import torch
from torch import Tensor

from equifuse.solve.recycling import copy, empty

# Slots allocated at first, where all slots are one block of memory.
_ROOM = 8
# With fewer numbers per slot than this, one operation on all slots is faster on a CPU, too.
_ONE_BLOCK_BELOW = 2**15


class Slots:
    """Up to ``size`` vectors per sample, slot by slot ``(B, N)``.

    On a CPU each slot has memory of its own, and products are computed slot by slot: a batched product of such small
    matrices is several times slower there. On other devices, and for small slots, where a call costs more than its
    arithmetic, all slots are one block of memory, and one operation handles them. While a graph is recorded nothing is
    written in place.

    Memory is allocated only when it is needed, so a large ``size`` costs nothing until it is used.

    Args:
        like: ``(B, N)`` tensor with the shape, dtype and device of a slot.
        size: largest number of slots, ≥ 1.
    """

    def __init__(self, like: Tensor, size: int) -> None:
        self.size = size
        self.used = 0  # slots 0 … used - 1 hold something
        self._recording = torch.is_grad_enabled()
        self._like = like.detach()
        self._block: Tensor | None = None
        self._slots: list[Tensor] = []
        self._scratch: Tensor | None = None
        if not self._recording and (not like.is_cpu or like.numel() < _ONE_BLOCK_BELOW):
            self._block = like.new_empty(min(size, _ROOM), *like.shape)
            self._slots = list(self._block)

    def __getitem__(self, slot: int) -> Tensor:
        return self._slots[slot]

    def store(self, slot: int, value: Tensor) -> None:
        """Store ``value`` ``(B, N)`` in ``slot``, which is a used one or the first unused one."""
        if self._recording:
            self._slots[slot : slot + 1] = [value]
            self.used = max(self.used, slot + 1)
        else:
            self._place(slot).copy_(value)

    def store_difference(self, slot: int, a: Tensor, b: Tensor) -> None:
        """``store(slot, a - b)`` without a temporary tensor."""
        if self._recording:
            self.store(slot, a - b)
        else:
            torch.sub(a, b, out=self._place(slot))

    def store_scaled(self, slot: int, value: Tensor, factor: Tensor) -> None:
        """``store(slot, value · factor)`` with ``factor`` ``(B, 1)``, without a temporary tensor."""
        if self._recording:
            self.store(slot, value * factor)
        else:
            torch.mul(value, factor, out=self._place(slot))

    def _place(self, slot: int) -> Tensor:
        """The memory of a slot that will be written next."""
        self.used = max(self.used, slot + 1)
        if slot < len(self._slots):
            return self._slots[slot]
        if self._block is None:
            self._slots.append(empty(self._like))
        else:
            larger = self._block.new_empty(min(self.size, 2 * len(self._slots)), *self._block.shape[1:])
            larger[:slot] = self._block[:slot]
            self._block, self._slots = larger, list(larger)
        return self._slots[slot]

    def clear(self, samples: Tensor) -> None:
        """Set the vectors of ``samples``, bool ``(B,)``, to zero."""
        if self._block is not None:
            self._block[: self.used].masked_fill_(samples[:, None], 0.0)
            return
        for slot in range(self.used):
            if self._recording:
                self._slots[slot] = self._slots[slot].masked_fill(samples[:, None], 0.0)
            else:
                self._slots[slot].masked_fill_(samples[:, None], 0.0)

    def dots(self, *vectors: Tensor) -> list[Tensor]:
        """Inner products ``(B, used)`` of all slots with each of the ``vectors`` ``(B, N)``, in one pass."""
        if self._block is not None:
            return [(self._block[: self.used] * x).sum(-1).t() for x in vectors]
        if self.used == 0:
            return [x.new_zeros(x.shape[0], 0) for x in vectors]
        if self._recording:
            return [torch.stack([(slot * x).sum(1) for slot in self._slots[: self.used]], dim=1) for x in vectors]
        if self._scratch is None:
            self._scratch = empty(self._like)
        found = [x.new_empty(x.shape[0], self.used) for x in vectors]
        for j, slot in enumerate(self._slots[: self.used]):
            for x, products in zip(vectors, found, strict=True):
                torch.sum(torch.mul(slot, x, out=self._scratch), 1, out=products[:, j])
        return found

    def add_to(self, x: Tensor, weights: Tensor, scale: float = 1.0, *, reuse: bool = False) -> Tensor:
        """``x + scale · Σ_j weights_j slot_j``, a new tensor.

        Args:
            x: ``(B, N)``.
            weights: ``(B, k)`` for the first ``k ≤ used`` slots.
            scale: common factor.
            reuse: the result may be written over ``x``.
        """
        count = weights.shape[1]
        if self._block is not None and count:
            return x + scale * (weights.t()[:, :, None] * self._block[:count]).sum(0)
        if self._recording:
            for j in range(count):
                x = x + scale * weights[:, j, None] * self._slots[j]
            return x
        total = x if reuse else copy(x)
        for j in range(count):
            total.addcmul_(self._slots[j], weights[:, j, None], value=scale)
        return total

    def select(self, rows: Tensor) -> None:
        """Drop all samples except ``rows`` (indices)."""
        if self._recording:
            self._slots = [slot[rows] for slot in self._slots]
        elif self._block is not None:
            self._block = self._block[:, rows]
            self._slots = list(self._block)
        else:
            self._like = self._like[rows]
            self._slots = [torch.index_select(slot, 0, rows, out=empty(self._like)) for slot in self._slots]
            self._scratch = None


def write(buffer: Tensor, place: tuple[slice | int, ...], value: Tensor) -> Tensor:
    """``buffer`` with ``buffer[place] = value``: in place, or on a copy while a graph is being recorded."""
    if torch.is_grad_enabled():
        buffer = buffer.clone()
    buffer[place] = value
    return buffer
