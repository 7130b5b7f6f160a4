"""When the host may ask about values: on a GPU every answer waits until the device has caught up."""

from __future__ import annotations

from torch import Tensor

# The kinds of device on which an answer costs nothing.
_FREE = frozenset({"cpu"})
# Elsewhere one step in so many asks.
_EVERY = 4


def can_sync(x: Tensor) -> bool:
    """Whether a question about the values of ``x`` costs nothing."""
    return x.device.type in _FREE


def time_to_ask(x: Tensor, step: int) -> bool:
    """Whether ``step`` (counted from 0) is one that may ask about the values of ``x``."""
    return can_sync(x) or step % _EVERY == _EVERY - 1


def none_of(mask: Tensor) -> bool:
    """Whether no entry is True, where asking costs nothing, else False."""
    return can_sync(mask) and not bool(mask.any())


def all_of(mask: Tensor) -> bool:
    """Whether every entry is True, where asking costs nothing, else False."""
    return can_sync(mask) and bool(mask.all())
