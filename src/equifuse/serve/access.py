"""Who may ask, and what is noted of each request: keys, ids, headers, the access log."""

from __future__ import annotations

import hashlib
import hmac
import json
import queue
import re
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from equifuse.errors import DataError
from equifuse.serve.metrics import Metrics, method

# What the application notes of a request for the log.
NOTES = "equifuse.notes"
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LEAST_KEY = 16
# Lines of the log that may wait to be written; what comes beyond is counted and lost.
_WAITING_LINES = 10_000
_LONGEST_PATH = 200
# Whoever may connect may see these: they tell nothing of the model.
_OPEN = frozenset({"/", "/docs", "/health", "/ready"})
_OPEN_FOLDER = "/static/"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Keys:
    """Keys that let a client in: compared in constant time, kept as their hashes.

    Args:
        path: a text file of one key to a line, of 16 characters or more; empty lines and those after ``#`` are ignored.

    Raises:
        DataError: it cannot be read, or has no keys or bad ones.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.reload()

    def reload(self) -> None:
        """Read the file again.

        Raises:
            DataError: it cannot be read, or has no keys or bad ones; those of before stay.
        """
        try:
            lines = [line.strip() for line in self._path.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"the API keys in {self._path} cannot be read: {error}") from None
        found = [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise DataError(f"{self._path} has no API keys; write one to a line")
        for number, line in enumerate(lines, 1):
            if line in found and (len(line) < _LEAST_KEY or not line.isascii() or " " in line):
                raise DataError(
                    f"{self._path}, line {number}: a key must have {_LEAST_KEY} characters or more, ASCII and no blanks"
                )
        self._hashes = [hashlib.sha256(line.encode()).digest() for line in found]

    def allow(self, headers: Headers) -> bool:
        """Whether a request has a key: ``Authorization: Bearer KEY``, or ``X-API-Key: KEY``."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        key = given.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        digest = hashlib.sha256(key.encode()).digest()
        found = False
        for known in self._hashes:  # all of them, whichever it is
            found |= hmac.compare_digest(known, digest)
        return found


class Guarded:
    """ASGI middleware that lets in who has a key.

    Args:
        app: what it is around.
        keys: that are known.
    """

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = scope.get("path", "")
        closed = scope["type"] == "http" and path not in _OPEN and not path.startswith(_OPEN_FOLDER)
        if closed and not self._keys.allow(Headers(scope=scope)):
            text = "an API key is needed: 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"
            await JSONResponse({"detail": text}, 401, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
            return
        await self._app(scope, receive, send)


class Recorded:
    """ASGI middleware that gives every request an id, counts and times it, and notes it in the log.

    Args:
        app: what it is around.
        metrics: where it counts.
        log: where it writes; None for nowhere.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, log: AccessLog | None) -> None:
        self._app, self._metrics, self._log = app, metrics, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        notes: dict[str, Any] = {"id": given if _ID.fullmatch(given) else uuid.uuid4().hex}
        scope[NOTES] = notes
        status, size, start = 500, 0, time.perf_counter()

        async def watched(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = notes["id"]
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            else:
                size += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            seconds = time.perf_counter() - start
            self._metrics.request(scope["path"], status, seconds)
            if self._log is not None:
                client = scope.get("client")
                self._log.write(
                    {
                        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                        "id": notes.pop("id"),
                        "client": client[0] if client else None,
                        "method": method(scope["method"]),
                        "path": scope["path"][:_LONGEST_PATH],
                        "status": status,
                        "milliseconds": round(seconds * 1000, 2),
                        "bytes": size,
                        **notes,
                    }
                )


class AccessLog:
    """Lines of JSON, one for each request, without anything of what was sent; written by a thread of its own.

    A log that is not read fast enough loses lines, and says how many; it never keeps a request waiting.

    Args:
        stream: where they go; default standard output.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(_WAITING_LINES)
        self._lost = 0
        self._thread: threading.Thread | None = None

    def write(self, entry: Mapping[str, Any]) -> None:
        """Note a request."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, name="access-log", daemon=True)
            self._thread.start()
        if self._lost:
            entry = {**entry, "lines_lost": self._lost}
        try:
            self._lines.put_nowait(json.dumps(entry))
            self._lost = 0
        except queue.Full:
            self._lost += 1

    def close(self) -> None:
        """Write what there is, within a second."""
        if self._thread is not None:
            try:
                self._lines.put(None, timeout=1)
            except queue.Full:
                return
            self._thread.join(1)
            self._thread = None

    def _write_all(self) -> None:
        stream = self._stream or sys.stdout
        while (line := self._lines.get()) is not None:
            try:
                stream.write(line + "\n")
                if self._lines.empty():
                    stream.flush()
            except (OSError, ValueError):  # nobody reads it any more
                return
        try:
            stream.flush()
        except (OSError, ValueError):
            return


def check_origins(origins: Iterable[str]) -> list[str]:
    """Origins that pages may ask from, as browsers write them.

    Raises:
        DataError: one is none.
    """
    found = list(origins)
    for origin in found:
        if origin != "*" and not re.fullmatch(r"https?://[A-Za-z0-9.\-\[\]:]+", origin):
            raise DataError(f"{origin!r} is no origin; expected one such as https://example.org, or *")
    return found
