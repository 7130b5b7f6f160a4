"""The service as a process, or several."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict
from typing import Any

import uvicorn
from fastapi import FastAPI

from equifuse.errors import InputError
from equifuse.runs.folder import PathLike
from equifuse.serve.limits import Limits
from equifuse.serve.metrics import SHARED

# How a worker, which is a fresh process, learns what to serve.
_SETTINGS = "EQUIFUSE_SERVE"
# Seconds that requests under way have, beyond their own time, to be answered when the service is stopped.
_GRACE = 5


def listen(run: PathLike, host: str, port: int, workers: int, explain: bool, limits: Limits) -> None:
    """See :func:`equifuse.serve.serve`."""
    from equifuse.serve.app import build  # noqa: PLC0415

    if workers < 1:
        raise InputError(f"workers must be at least 1, got {workers}")
    options: dict[str, Any] = {
        "host": host,
        "port": port,
        "timeout_graceful_shutdown": int(limits.timeout) + _GRACE,
    }
    app = build(run, explain, limits)
    if workers == 1:
        uvicorn.run(app, **options)
        return
    del app  # Workers make their own; but a mistake is reported once, and before anything listens.
    with tempfile.TemporaryDirectory(prefix="equifuse-metrics-") as shared:
        os.environ[SHARED] = shared
        settings = {"run": os.fspath(run), "explain": explain, "workers": workers, "limits": asdict(limits)}
        os.environ[_SETTINGS] = json.dumps(settings)
        uvicorn.run("equifuse.serve.server:of_worker", factory=True, workers=workers, **options)


def of_worker() -> FastAPI:
    """The service in a worker, as its environment says; called by uvicorn."""
    import torch  # noqa: PLC0415

    from equifuse.serve.app import build  # noqa: PLC0415

    settings = json.loads(os.environ[_SETTINGS])
    torch.set_num_threads(max(1, torch.get_num_threads() // settings["workers"]))
    return build(settings["run"], settings["explain"], Limits(**settings["limits"]))
