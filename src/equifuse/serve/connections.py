"""Connections that cannot be held: their number, their head, their chunks and their time are limited."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from equifuse.serve.limits import Limits

# Bytes and lines of a request's head.
_HEAD, _LINES = 2**16, 100
# A body may come in so many pieces, more only if they have so many bytes on average.
_PIECES, _PIECE = 1000, 64
# A response has to be taken within so many times the time limit of a request.
_TAKEN = 4


def protocol_of(limits: Limits) -> type[HttpToolsProtocol]:
    """The class of connections with these limits, for uvicorn."""
    return type("LimitedConnection", (_Limited,), {"limits": limits})


class _Limited(HttpToolsProtocol):
    """A connection that is closed where it is one too many, is idle, or does not come to an end."""

    limits: Limits
    _timer: asyncio.TimerHandle | None = None
    _in_head, _head, _pieces, _bytes = True, 0, 0, 0
    _left: float = math.inf

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take it, or close it where there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            transport.abort()
            return
        self._within(self.limits.idle)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what has come; a head that is too long is refused."""
        if self.transport.is_closing():
            return
        if self._in_head and not self._head:
            self._within(self.limits.idle)
        self._head += len(data)
        super().data_received(data)
        if self._in_head and self._head > _HEAD and not self.transport.is_closing():
            self.send_400_response("The head of the request is too long.")

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._pieces, self._bytes = 0, 0

    def on_headers_complete(self) -> None:
        """The head of a request is there: its body, its work and its answer have a time of their own."""
        self._in_head = False
        if len(self.headers) > _LINES:
            raise _Refused
        super().on_headers_complete()
        self._within(_TAKEN * self.limits.timeout + self.limits.idle)

    def on_body(self, body: bytes) -> None:
        """A piece of a body; many small ones only keep the service busy."""
        self._pieces += 1
        self._bytes += len(body)
        if self._pieces > _PIECES and self._bytes < _PIECE * self._pieces:
            raise _Refused
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is whole; what comes now is the head of the next one."""
        self._in_head, self._head = True, 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer was given; the connection is idle until the next request."""
        super().on_response_complete()
        self._left = math.inf
        if not self.pipeline:
            self._within(self.limits.idle)

    def _within(self, seconds: float) -> None:
        self._stop()
        self._timer = self.loop.call_later(seconds, self._too_slow)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        left = self.transport.get_write_buffer_size()
        if 0 < left < self._left:  # an answer that is still being taken, by a slow client
            self._left = left
            self._within(self.limits.idle)
        else:
            self.transport.abort()


class _Refused(Exception):
    """Whatever a callback raises is an error of the parser's: 400, and the connection is closed."""


def more_descriptors(connections: int) -> None:
    """Allow as many open files as so many connections need, where the system lets us."""
    try:
        import resource  # noqa: PLC0415

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted: Any = 2 * connections + 256
        if soft != resource.RLIM_INFINITY and soft < wanted:
            most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    except (ImportError, OSError, ValueError):
        pass
