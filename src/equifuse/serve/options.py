"""How a service is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """How a service is run; see :func:`equifuse.serve.serve`."""

    workers: int = 1
    explain: bool = True
    api_key_file: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    cors_origin: Sequence[str] = ()
    access_log: bool = True
