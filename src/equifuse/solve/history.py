"""What an iteration remembers of each sample: vectors in slots, and products with all of them."""

from __future__ import annotations

import torch
from torch import Tensor

# Slots there is room for at first.
_ROOM = 8


class Slots:
    """Up to ``size`` vectors per sample, slot by slot ``(B, N)``.

    One slot after the other is contiguous in memory and products run slot by slot: on a CPU a batched matrix product of
    so small matrices is several times slower than the elementwise passes that it consists of. On other devices all
    slots are handled by one kernel. While a graph is recorded nothing is written in place.

    Room is made as it is needed, so a large ``size`` costs nothing until it is used.

    Args:
        like: ``(B, N)`` tensor whose shape, dtype and device a slot has.
        size: most slots, ≥ 1.
    """

    def __init__(self, like: Tensor, size: int) -> None:
        self.size = size
        self.used = 0  # slots 0 … used - 1 hold something
        self._buffer = None if torch.is_grad_enabled() else like.new_empty(min(size, _ROOM), *like.shape)
        self._slots: list[Tensor] = [] if self._buffer is None else list(self._buffer)
        self._scratch: Tensor | None = None

    def __getitem__(self, slot: int) -> Tensor:
        return self._slots[slot]

    def put(self, slot: int, value: Tensor) -> None:
        """Let ``slot`` (at most the first unused one) hold ``value`` ``(B, N)``."""
        if self._buffer is not None:
            self._place(slot).copy_(value)
        elif slot == len(self._slots):
            self._slots.append(value)
        else:
            self._slots[slot] = value
        self.used = max(self.used, slot + 1)

    def put_difference(self, slot: int, a: Tensor, b: Tensor) -> None:
        """``put(slot, a - b)`` without a temporary."""
        if self._buffer is None:
            self.put(slot, a - b)
        else:
            torch.sub(a, b, out=self._place(slot))
            self.used = max(self.used, slot + 1)

    def put_scaled(self, slot: int, value: Tensor, factor: Tensor) -> None:
        """``put(slot, value · factor)`` with ``factor`` ``(B, 1)``, without a temporary."""
        if self._buffer is None:
            self.put(slot, value * factor)
        else:
            torch.mul(value, factor, out=self._place(slot))
            self.used = max(self.used, slot + 1)

    def _place(self, slot: int) -> Tensor:
        """The memory of a slot, with more room made if there is none."""
        assert self._buffer is not None
        if slot >= len(self._slots):
            larger = self._buffer.new_empty(min(self.size, 2 * len(self._slots)), *self._buffer.shape[1:])
            larger[: self.used] = self._buffer[: self.used]
            self._buffer, self._slots = larger, list(larger)
        return self._slots[slot]

    def clear(self, samples: Tensor) -> None:
        """Zero the vectors of ``samples``, bool ``(B,)``."""
        for slot in range(self.used):
            self._slots[slot] = self._slots[slot].masked_fill(samples[:, None], 0.0)
            if self._buffer is not None:
                self._buffer[slot] = self._slots[slot]
                self._slots[slot] = self._buffer[slot]

    def dots(self, x: Tensor) -> Tensor:
        """``(B, used)`` inner products with ``x`` ``(B, N)``."""
        if self._together:
            assert self._buffer is not None
            return (self._buffer[: self.used] * x).sum(-1).t()
        if self.used == 0:
            return x.new_zeros(x.shape[0], 0)
        if self._buffer is None:
            return torch.stack([(slot * x).sum(1) for slot in self._slots[: self.used]], dim=1)
        if self._scratch is None:
            self._scratch = torch.empty_like(x)  # large temporaries are dear: their pages are mapped anew each time
        return torch.stack([torch.mul(slot, x, out=self._scratch).sum(1) for slot in self._slots[: self.used]], dim=1)

    def add_to(self, x: Tensor, weights: Tensor, scale: float = 1.0, *, reuse: bool = False) -> Tensor:
        """``x + scale · Σ_j weights_j slot_j``, a new tensor.

        Args:
            x: ``(B, N)``.
            weights: ``(B, k)`` for the first ``k ≤ used`` slots.
            scale: common factor.
            reuse: the result may be written over ``x``.
        """
        count = weights.shape[1]
        if self._together and count:
            assert self._buffer is not None
            return x + scale * (weights.t()[:, :, None] * self._buffer[:count]).sum(0)
        if self._buffer is None:
            for j in range(count):
                x = x + scale * weights[:, j, None] * self._slots[j]
            return x
        total = x if reuse else x.clone()
        for j in range(count):
            total.addcmul_(self._slots[j], weights[:, j, None], value=scale)
        return total

    def keep(self, rows: Tensor) -> None:
        """Forget all samples but ``rows`` (indices)."""
        if self._buffer is None:
            self._slots = [slot[rows] for slot in self._slots]
            return
        smaller = self._buffer.new_empty(len(self._slots), len(rows), *self._buffer.shape[2:])
        for slot in range(self.used):
            torch.index_select(self._buffer[slot], 0, rows, out=smaller[slot])
        self._buffer, self._slots, self._scratch = smaller, list(smaller), None

    @property
    def _together(self) -> bool:
        return self._buffer is not None and self._buffer.device.type != "cpu"


def write(buffer: Tensor, place: tuple[slice | int, ...], value: Tensor) -> Tensor:
    """``buffer`` with ``buffer[place] = value``: in place, or on a copy while a graph is being recorded."""
    if torch.is_grad_enabled():
        buffer = buffer.clone()
    buffer[place] = value
    return buffer
