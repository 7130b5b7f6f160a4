"""The extent of a solve: what a layer inside a map draws or updates once, and keeps until the solve is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, TypeVar

import torch

Value = TypeVar("Value")
# What the outermost solve that runs in this thread has kept so far, by owner; None outside of a solve.
_kept: ContextVar[dict[object, Any] | None] = ContextVar("kept", default=None)


def one_solve() -> AbstractContextManager[None]:
    """A solve, with the evaluation that its gradient is of. Solves inside of it belong to it; none while compiling."""
    return nullcontext() if torch.compiler.is_compiling() or _kept.get() is not None else _new()


@contextmanager
def _new() -> Iterator[None]:
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def once_per_solve(owner: object, make: Callable[[], Value]) -> Value:
    """What ``make`` returned the first time ``owner`` asked in this solve; outside of a solve each time anew."""
    kept = _kept.get()
    if kept is None:
        return make()
    if owner not in kept:
        kept[owner] = make()
    value: Value = kept[owner]
    return value
