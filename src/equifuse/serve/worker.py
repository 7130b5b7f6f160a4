"""One thread that works for many requests, and no more of them than it can keep up with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import ParamSpec, TypeVar

from equifuse.serve.limits import Refusal

P = ParamSpec("P")
T = TypeVar("T")


class Worker:
    """A thread beside the event loop, so that health and metrics are answered while the model is at work.

    One and not several: filters of warnings and the observers of an equilibrium belong to the whole process, and
    PyTorch uses all cores for one call.

    Args:
        most: requests that may be read, waited for or worked on at a time.
        seconds: that a request may wait and be worked on. What has begun cannot be stopped; its answer is lost then.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self._most, self._seconds = most, seconds
        self._taken = 0
        self._thread: ThreadPoolExecutor | None = None

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """A place among those that are served; taken before a body is read, as bodies take memory.

        Raises:
            Refusal: there is none left.
        """
        if self._taken >= self._most:
            raise Refusal(503, f"{self._taken} requests are waiting already; try again later")
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What ``work`` returns, once it has had its turn.

        Raises:
            Refusal: it took too long.
        """
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="equifuse")
        future = self._thread.submit(work, *args, **kwargs)
        try:
            async with asyncio.timeout(self._seconds):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise Refusal(
                503, f"not answered within {self._seconds:g} s; try again later, or with fewer rows"
            ) from None

    def close(self) -> None:
        """Finish what has begun, and nothing else; who asks later starts a new thread."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
            self._thread = None
