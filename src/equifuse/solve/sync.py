"""When reading a tensor's values is cheap: on a GPU every read waits until the device has finished its queued work."""

from __future__ import annotations

from torch import Tensor

# Devices on which reading a value costs nothing.
_FREE = frozenset({"cpu"})
# On all others, values are read in one step out of this many.
_EVERY = 4


def can_sync(x: Tensor) -> bool:
    """Whether the values of ``x`` can be read without waiting for a device."""
    return x.device.type in _FREE


def is_sync_step(x: Tensor, step: int) -> bool:
    """Whether the values of ``x`` may be read in ``step`` (counted from 0): always on a CPU, else in every fourth."""
    return can_sync(x) or step % _EVERY == _EVERY - 1


def known_empty(mask: Tensor) -> bool:
    """Whether no entry of ``mask`` is True; False, which means "not known", where reading it would have to wait."""
    return can_sync(mask) and not bool(mask.any())


def known_full(mask: Tensor) -> bool:
    """Whether every entry of ``mask`` is True; False, which means "not known", where reading it would have to wait."""
    return can_sync(mask) and bool(mask.all())
