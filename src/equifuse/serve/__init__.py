"""An HTTP service for trained runs: predictions, explanations and embeddings within limits, health and metrics.

Needs the extra ``serve``. Starlette is loaded when a service is made, PyTorch only in its workers.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from equifuse.errors import InputError
from equifuse.serve.limits import Limits

if TYPE_CHECKING:
    from starlette.applications import Starlette

__all__ = ["Limits", "create_app", "serve"]

PathLike = str | os.PathLike[str]


def create_app(
    run: PathLike | Sequence[PathLike],
    *,
    explain: bool = True,
    workers: int = 1,
    api_key_file: PathLike | None = None,
    cors_origin: Sequence[str] = (),
    **limits: Any,
) -> Starlette:
    """The service of one run, or several, as an ASGI application; its workers start and stop with its lifespan.

    >>> from equifuse.runs import TrainConfig, train
    >>> from equifuse.serve import create_app
    >>> run = train(TrainConfig("digits", fusion="concat", epochs=1), "run", progress=False).path
    >>> app = create_app(run, max_rows=100)
    >>> sorted(route.path for route in app.routes if "POST" in route.methods and "name" not in route.path)
    ['/embed', '/explain', '/predict']

    - ``POST /predict``: rows as JSON, CSV or Parquet; the columns of ``equifuse predict`` as JSON or Parquet.
    - ``POST /explain``: Shapley contributions of the modalities to each row.
    - ``POST /embed``: what the model makes of each row.
    - ``GET /health``, ``/ready``, ``/model``, ``/metrics``, ``/openapi.json``; pages at ``/`` and ``/docs``.
    - The same of each of several models under ``/v1/models/NAME``.

    Connections are the business of what runs it; :func:`serve` limits them too.

    Args:
        run: the run folder, or several, or ``"NAME=folder"``.
        explain: whether there is ``/explain``; retrieval has nothing of the kind in any case.
        workers: processes, ≥ 1, each with a copy of the models; they share the threads that PyTorch would use.
        api_key_file: text file of keys, one to a line; None lets everybody in.
        cors_origin: origins of pages elsewhere that may ask.
        **limits: ``max_rows``, ``max_bytes`` and the others of :class:`Limits`.

    Raises:
        InputError: the extra is not installed, or an argument out of range.
        DataError: the keys cannot be used.
    """
    try:
        from equifuse.serve.models import names_of  # noqa: PLC0415
        from equifuse.serve.options import Options  # noqa: PLC0415
        from equifuse.serve.server import application  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise _not_installed(error) from None
    keys = None if api_key_file is None else os.fspath(api_key_file)
    options = Options(workers=workers, explain=explain, api_key_file=keys, cors_origin=cors_origin)
    return application(names_of(_several(run)), options, Limits(**limits))


def serve(
    run: PathLike | Sequence[PathLike],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    explain: bool = True,
    api_key_file: PathLike | None = None,
    certfile: PathLike | None = None,
    keyfile: PathLike | None = None,
    cors_origin: Sequence[str] = (),
    access_log: bool = True,
    **limits: Any,
) -> None:
    """Serve one run, or several, until SIGINT or SIGTERM; requests under way are answered first.

    >>> from equifuse.serve import serve
    >>> serve("nowhere")
    Traceback (most recent call last):
    equifuse.errors.DataError: no run at nowhere: expected a folder with config.yaml

    A model is read again when its folder is replaced, and on SIGHUP.

    Args:
        run: see :func:`create_app`.
        host: address to listen on.
        port: likewise; 0 for any that is free.
        workers: see :func:`create_app`.
        explain: likewise.
        api_key_file: likewise.
        certfile: certificate for TLS, PEM; None for plain HTTP.
        keyfile: its key, where the certificate's file has none.
        cors_origin: see :func:`create_app`.
        access_log: whether requests are written to standard output, a JSON object to a line, without what was sent.
        **limits: see :class:`Limits`.

    Raises:
        InputError: the extra is not installed, an argument is out of range, the address cannot be used, or there is
            no finished run.
        DataError: the keys cannot be used.
    """
    try:
        from equifuse.serve.models import names_of  # noqa: PLC0415
        from equifuse.serve.options import Options  # noqa: PLC0415
        from equifuse.serve.server import listen  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise _not_installed(error) from None
    options = Options(
        workers=workers,
        explain=explain,
        cors_origin=cors_origin,
        access_log=access_log,
        **{
            name: None if path is None else os.fspath(path)
            for name, path in (("api_key_file", api_key_file), ("certfile", certfile), ("keyfile", keyfile))
        },
    )
    listen(names_of(_several(run)), host, port, options, Limits(**limits))


def _several(run: PathLike | Sequence[PathLike]) -> list[PathLike]:
    return [run] if isinstance(run, str | os.PathLike) else list(run)


def _not_installed(error: ModuleNotFoundError) -> InputError:
    package = (error.name or "").partition(".")[0]
    return InputError(f"serving needs {package}: pip install 'equifuse[serve]'")
