"""``equifuse serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Run folders made by 'equifuse train', or NAME=folder.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for any that is free.", min=0, max=65535)] = 8000,
    workers: Annotated[int, typer.Option(help="Processes, each with a copy of the models.", min=1)] = 1,
    api_key_file: Annotated[Path | None, typer.Option(help="Text file of the keys that let in, one to a line.")] = None,
    certfile: Annotated[Path | None, typer.Option(help="Certificate for TLS, PEM.")] = None,
    keyfile: Annotated[Path | None, typer.Option(help="Its key, where it is in a file of its own.")] = None,
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="Origin of a page elsewhere that may ask; may be repeated.")
    ] = None,
    max_rows: Annotated[int, typer.Option(help="Rows of a prediction, at most.", min=1)] = 1024,
    max_explained: Annotated[int, typer.Option(help="Rows of an explanation, at most.", min=1)] = 64,
    max_bytes: Annotated[int, typer.Option(help="Size of a request's body, at most.", min=1)] = 2**24,
    max_waiting: Annotated[int, typer.Option(help="Requests at work or waiting; others get 503.", min=1)] = 64,
    max_connections: Annotated[int, typer.Option(help="Connections; others are closed.", min=1)] = 256,
    timeout: Annotated[
        float, typer.Option(help="Seconds for a body to arrive, to wait for a worker, and to be answered, each.")
    ] = 30.0,
    idle: Annotated[float, typer.Option(help="Seconds until an idle or half-sent connection is closed.")] = 10.0,
    memory: Annotated[int, typer.Option(help="MiB that a worker may take beyond the models.", min=1)] = 4096,
    explain: Annotated[bool, typer.Option("--explain/--no-explain", help="Whether there is /explain.")] = True,
    access_log: Annotated[
        bool, typer.Option("--access-log/--no-access-log", help="Requests as JSON lines on standard output.")
    ] = True,
) -> None:
    """Serve trained models over HTTP: a page to try them at /, the API at /docs; POST /predict, /explain, /embed.

    Rows come as JSON, {"inputs": {"mrna": [[...], null, ...]}} or {"records": [{"TP53": 1.5, ...}]}, or as the CSV and
    Parquet that 'equifuse predict' reads. Several models are at /v1/models/NAME/predict.
    """
    from equifuse.serve import serve as listen

    listen(
        runs,
        host=host,
        port=port,
        workers=workers,
        explain=explain,
        api_key_file=api_key_file,
        certfile=certfile,
        keyfile=keyfile,
        cors_origin=cors_origin or (),
        access_log=access_log,
        max_rows=max_rows,
        max_explained=max_explained,
        max_bytes=max_bytes,
        max_waiting=max_waiting,
        max_connections=max_connections,
        timeout=timeout,
        idle=idle,
        memory=memory,
    )
