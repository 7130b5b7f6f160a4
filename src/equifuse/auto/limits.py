"""How long it may take: a limit as people write it, and what is left of it."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable

from equifuse.errors import InputError

NONE = "none"
_UNITS = {"s": 1, "m": 60, "h": 3600}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([smh])")


def seconds_of(limit: str | float | None) -> float | None:
    """Seconds of ``"90s"``, ``"10m"``, ``"1h30m"``, or of a number; None of ``"none"``.

    >>> from equifuse.auto.limits import seconds_of
    >>> seconds_of("90s"), seconds_of("1h30m"), seconds_of("none")
    (90.0, 5400.0, None)

    Raises:
        InputError: it is none of these, or not above 0.
    """
    if limit is None or limit == NONE:
        return None
    if isinstance(limit, str):
        text = limit.strip().lower()
        if not text or _PART.sub("", text).strip():
            raise InputError(f"a time limit is written like 90s, 10m, 1h30m or none, got {limit!r}")
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    elif isinstance(limit, bool) or not isinstance(limit, int | float):
        raise InputError(f"a time limit is a number of seconds, or written like 10m, got {limit!r}")
    else:
        seconds = float(limit)
    if not 0 < seconds < math.inf:
        raise InputError(f"a time limit is above 0, got {limit!r}")
    return seconds


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> from equifuse.auto.limits import duration
    >>> duration(8.2), duration(192), duration(3840)
    ('8 s', '3 min 12 s', '1 h 4 min')
    """
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + f" {whole % 60} s" * bool(whole % 60)
    return f"{whole // 3600} h" + f" {whole % 3600 // 60} min" * bool(whole % 3600 // 60)


class Budget:
    """What is left of a time limit.

    >>> from equifuse.auto.limits import Budget
    >>> times = iter([0.0, 10.0, 10.0])
    >>> budget = Budget(60, spent=5, clock=lambda: next(times))
    >>> budget.left(), budget.left(reserved=20)
    (45.0, 25.0)

    Args:
        limit: seconds; None for no limit.
        spent: seconds before this, of the same search.
        clock: seconds of some clock.
        began: what the clock said at the beginning; default what it says now.
    """

    def __init__(
        self,
        limit: float | None,
        spent: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        began: float | None = None,
    ) -> None:
        self.limit = math.inf if limit is None else limit
        self.clock = clock
        self._began = (clock() if began is None else began) - spent

    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self.clock() - self._began

    def left(self, reserved: float = 0.0) -> float:
        """Seconds that are left beside those reserved for later; below 0 where there are none, infinite without limit.

        Args:
            reserved: seconds.
        """
        return self.limit - self.elapsed() - reserved

    def deadline(self, seconds: float) -> float | None:
        """Time of the system's clock in so many seconds; None for infinitely many."""
        return None if math.isinf(seconds) else time.time() + seconds
