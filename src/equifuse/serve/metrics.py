"""Numbers for Prometheus."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from equifuse.serve.messages import Answer
    from equifuse.serve.pool import Timing

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_TOGETHER = (1, 2, 4, 8, 16, 32, 64)
_OF_MODEL = re.compile(r"/v1/models/[^/]+(?P<what>/predict|/explain|/embed)?")
# Methods of HTTP; what else a client makes up is no label.
_METHODS = ("GET", "HEAD", "POST", "OPTIONS")


class Metrics:
    """The counters of one service.

    - ``equifuse_requests_total`` by ``path`` and ``status``;
    - ``equifuse_request_seconds``, a histogram by ``path``;
    - ``equifuse_rows_total`` and ``equifuse_unconverged_rows_total`` by ``model``: rows predicted, and those of them
      that did not converge: the share is their ratio;
    - ``equifuse_together``, how many requests were answered at once, and ``equifuse_waited_seconds`` before that;
    - ``equifuse_workers``, those that are ready, and ``equifuse_workers_lost_total``, those that died or were stopped
      in the middle of a request.

    Args:
        paths: that have a name of their own; all others are ``other``, so that nobody can make up labels.
    """

    def __init__(self, paths: Collection[str]) -> None:
        self._paths = frozenset(paths)
        self._registry = of = CollectorRegistry()
        self.requests = Counter("equifuse_requests", "Requests answered.", ("path", "status"), registry=of)
        self.seconds = Histogram(
            "equifuse_request_seconds", "Time to answer.", ("path",), buckets=_SECONDS, registry=of
        )
        self.rows = Counter("equifuse_rows", "Rows predicted.", ("model",), registry=of)
        self.unconverged = Counter(
            "equifuse_unconverged_rows", "Rows predicted that did not converge.", ("model",), registry=of
        )
        self.together = Histogram("equifuse_together", "Requests answered at once.", buckets=_TOGETHER, registry=of)
        self.waited = Histogram(
            "equifuse_waited_seconds", "Time until a worker was free.", buckets=_SECONDS, registry=of
        )
        self.workers = Gauge("equifuse_workers", "Workers that are ready.", registry=of)
        self.lost = Counter("equifuse_workers_lost", "Workers that died or were stopped.", registry=of)
        self._lost = 0

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        label = self.label(path)
        self.requests.labels(label, str(status)).inc()
        self.seconds.labels(label).observe(seconds)

    def label(self, path: str) -> str:
        """What a path is called: one of a few names."""
        if path in self._paths:
            return path
        found = _OF_MODEL.fullmatch(path)
        return f"/v1/models/{{name}}{found['what'] or ''}" if found else "other"

    def count(self, model: str, answer: Answer, timing: Timing) -> None:
        """Count the rows of a prediction."""
        self.rows.labels(model).inc(answer.rows)
        self.unconverged.labels(model).inc(answer.unconverged)
        self.together.observe(timing.together)
        self.waited.observe(timing.waited)

    def text(self, workers: int, lost: int) -> bytes:
        """All of it, in Prometheus' text format.

        Args:
            workers: that are ready.
            lost: that died or were stopped, so far.
        """
        self.workers.set(workers)
        self.lost.inc(lost - self._lost)
        self._lost = lost
        return generate_latest(self._registry)


def method(name: str) -> str:
    """A method of HTTP, or ``other``."""
    return name if name in _METHODS else "other"
