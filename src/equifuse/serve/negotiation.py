"""What comes with a request: its body within limits, and which media types are sent and wanted."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from starlette.requests import ClientDisconnect, Request

from equifuse.serve.limits import Limits, Refusal
from equifuse.serve.messages import CSV, JSON, PARQUET

# Bodies up to so many bytes are not counted among those that take memory.
_SMALL = 2**16


class Bodies:
    """Bodies that are read at the same time, within a limit for all of them together.

    Args:
        limits: of one; all of them may have as many bytes as those that may wait.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits, self._held = limits, 0

    async def read(self, request: Request) -> list[bytes]:
        """The whole body of a request, in the pieces that it came in.

        Raises:
            Refusal: it is too large or too slow, or there are too many.
        """
        most, declared = self._limits.max_bytes, request.headers.get("content-length", "")
        too_large = Refusal(413, f"the body has more than {most} bytes")
        # The declared length only saves time: what arrives is counted.
        if declared.isdecimal() and (len(declared) > 18 or int(declared) > most):
            raise too_large
        seconds = self._limits.timeout
        pieces: list[bytes] = []
        size = 0
        with self._counted() as count:
            try:
                async with asyncio.timeout(seconds):
                    async for piece in request.stream():
                        size += len(piece)
                        if size > most:
                            raise too_large
                        count(size)
                        pieces.append(piece)
            except TimeoutError:
                raise Refusal(408, f"the body did not arrive within {seconds:g} s") from None
            except ClientDisconnect:
                raise Refusal(400, "the connection was closed before the body had arrived") from None
        return pieces

    @contextmanager
    def _counted(self) -> Iterator[Counter]:
        counter = Counter(self)
        try:
            yield counter
        finally:
            self._held -= counter.held

    def take(self, size: int) -> None:
        """Count so many bytes more.

        Raises:
            Refusal: there are too many.
        """
        if self._held + size > self._limits.max_bytes * self._limits.max_waiting:
            raise Refusal(503, "too many large bodies are arriving at the same time; try again later")
        self._held += size


class Counter:
    """The bytes of one body among all of them."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies, self.held = bodies, 0

    def __call__(self, size: int) -> None:
        """The body has so many bytes now."""
        if size > _SMALL:
            self._bodies.take(size - self.held)
            self.held = size


def sent(request: Request) -> str:
    """The media type of the body.

    Raises:
        Refusal: none that is known.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in (JSON, PARQUET, CSV):
        raise Refusal(415, f"Content-Type must be {JSON}, {CSV} or {PARQUET}, got {kind or 'none'}")
    coding = request.headers.get("content-encoding", "identity")
    if coding.strip().lower() != "identity":
        raise Refusal(415, f"Content-Encoding {coding} is not known; send the body as it is")
    return kind


def wanted(request: Request, offered: Sequence[str]) -> str:
    """The media type that the client likes best of those offered, the first of those it likes the same (RFC 9110).

    Raises:
        Refusal: it likes none.
    """
    accept = ",".join(request.headers.getlist("accept")) or "*/*"
    likes: dict[str, float] = {}
    for entry in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in entry.split(";"))
        quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        likes[kind] = float(quality) if re.fullmatch(r"[01](\.\d{0,3})?", quality, re.ASCII) else 0.0

    def liking(offer: str) -> float:
        # The most specific range decides.
        ranges = (offer, f"{offer.partition('/')[0]}/*", "*/*")
        return next((likes[kind] for kind in ranges if kind in likes), 0.0)

    best = max(offered, key=liking)
    if not liking(best):
        raise Refusal(406, f"Accept must allow {' or '.join(offered)}, got {accept}")
    return best
