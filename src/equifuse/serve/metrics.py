"""Numbers for Prometheus."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from equifuse.serve.service import Answer

# prometheus_client keeps its numbers in files of this folder where it is set before the library is imported.
SHARED = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The counters of one service.

    - ``equifuse_requests_total`` by ``path`` and ``status``;
    - ``equifuse_request_seconds``, a histogram by ``path``;
    - ``equifuse_rows_total`` and ``equifuse_unconverged_rows_total``, rows predicted, and those of them that did not
      converge: the share is their ratio.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter("equifuse_requests", "Requests answered.", ("path", "status"), registry=self._registry)
        self.seconds = Histogram(
            "equifuse_request_seconds", "Time to answer.", ("path",), buckets=_SECONDS, registry=self._registry
        )
        self.rows = Counter("equifuse_rows", "Rows predicted.", registry=self._registry)
        self.unconverged = Counter(
            "equifuse_unconverged_rows", "Rows predicted that did not converge.", registry=self._registry
        )

    def count(self, answer: Answer) -> None:
        """Count the rows of a prediction."""
        self.rows.inc(answer.rows)
        self.unconverged.inc(answer.unconverged)

    def text(self) -> bytes:
        """All of it, in Prometheus' text format; of all workers, where there are several."""
        registry = self._registry
        if os.environ.get(SHARED):
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


class Measured:
    """ASGI middleware that counts and times every request.

    Args:
        app: what it is around.
        metrics: where it counts.
        paths: that have a name of their own; all others are ``other``, so that nobody can make up labels.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Collection[str]) -> None:
        self._app, self._metrics, self._paths = app, metrics, frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self._paths else "other"
        status, start = 500, time.perf_counter()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - start)
