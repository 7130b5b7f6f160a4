"""How much a request may ask for, and how a request is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from equifuse.errors import EquifuseError, InputError

# A body may unfold to so many times the bytes that it may have: JSON such as "0," and compressed columns do.
_UNFOLDING = 4
# Characters of a refusal: it may quote names that the client made up.
_LONGEST = 300


@dataclass(frozen=True)
class Limits:
    """Bounds on what one request, and all of them together, cost the service.

    >>> from equifuse.serve import Limits
    >>> Limits(max_rows=100).max_rows
    100
    >>> Limits(timeout=0)
    Traceback (most recent call last):
    equifuse.errors.InputError: timeout must be positive, got 0

    Attributes:
        max_rows: rows of a prediction, ≥ 1.
        max_explained: rows of an explanation, each of which costs a prediction for every subset of its modalities.
        max_bytes: size of a request's body. The values that it holds take at most four times as much as float32.
        max_waiting: requests that have arrived and are computed or wait for it, ≥ 1; others are refused with 503.
        max_connections: connections at a time, ≥ 1; others are closed.
        timeout: seconds in which a body has to arrive, then those in which its turn has to come, and then those in
            which it has to be answered; a worker that takes longer is stopped and replaced.
        idle: seconds in which the head of a request has to arrive, and that a connection may be idle.
        memory: MiB that a worker may take beyond the models, where the system can limit it.
    """

    max_rows: int = 1024
    max_explained: int = 64
    max_bytes: int = 2**24
    max_waiting: int = 64
    max_connections: int = 256
    timeout: float = 30.0
    idle: float = 10.0
    memory: int = 4096

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0 or not math.isfinite(value):
                raise InputError(f"{field.name} must be positive, got {value}")

    @property
    def max_values(self) -> int:
        """Float32 values that a body may unfold to."""
        return _UNFOLDING * self.max_bytes // 4


class Refusal(EquifuseError):
    """A request that is not answered, and the HTTP status that says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def one_line(message: object) -> str:
    """A message without line breaks, cut where it gets long."""
    text = " ".join(str(message).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
