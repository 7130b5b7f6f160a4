"""An HTTP service for a trained run: predictions and explanations within limits, health and metrics.

Needs the extra ``serve``. FastAPI is loaded when a service is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from equifuse.errors import InputError
from equifuse.runs.folder import PathLike
from equifuse.serve.limits import Limits

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["Limits", "create_app", "serve"]


def create_app(run: PathLike, *, explain: bool = True, **limits: Any) -> FastAPI:
    """The service of a run as an ASGI application.

    - ``POST /predict``: rows as JSON or Parquet; the columns of ``equifuse predict`` as JSON or Parquet.
    - ``POST /explain``: Shapley contributions of the modalities to each row.
    - ``GET /health``, ``/model``, ``/metrics``, ``/openapi.json``.

    Args:
        run: the run folder; it is read once, now.
        explain: whether there is ``/explain``; retrieval has nothing of the kind in any case.
        **limits: ``max_rows``, ``max_bytes`` and the others of :class:`Limits`.

    Raises:
        DataError: no finished run there.
        InputError: FastAPI is not installed, or a limit out of range.
    """
    try:
        from equifuse.serve.app import build  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise _not_installed(error) from None
    return build(run, explain, Limits(**limits))


def serve(
    run: PathLike,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    explain: bool = True,
    **limits: Any,
) -> None:
    """Serve a run until SIGINT or SIGTERM; requests under way are answered first.

    Args:
        run: the run folder.
        host: address to listen on.
        port: likewise.
        workers: processes, ≥ 1, each with a copy of the model; they share the threads that PyTorch would use.
        explain: see :func:`create_app`.
        **limits: see :class:`Limits`; they hold for each worker.

    Raises:
        DataError: no finished run there.
        InputError: FastAPI or uvicorn are not installed, or an argument out of range.
    """
    try:
        from equifuse.serve.server import listen  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise _not_installed(error) from None
    listen(run, host, port, workers, explain, Limits(**limits))


def _not_installed(error: ModuleNotFoundError) -> InputError:
    return InputError(f"serving needs {error.name}: pip install 'equifuse[serve]'")
