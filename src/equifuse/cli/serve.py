"""``equifuse serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    run: Annotated[Path, typer.Argument(help="Run folder made by 'equifuse train'.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535)] = 8000,
    workers: Annotated[int, typer.Option(help="Processes, each with a copy of the model.", min=1)] = 1,
    max_rows: Annotated[int, typer.Option(help="Rows of a prediction, at most.", min=1)] = 1024,
    max_explained: Annotated[int, typer.Option(help="Rows of an explanation, at most.", min=1)] = 64,
    max_bytes: Annotated[int, typer.Option(help="Size of a request's body, at most.", min=1)] = 2**24,
    max_waiting: Annotated[int, typer.Option(help="Requests at a time; others get 503.", min=1)] = 16,
    timeout: Annotated[float, typer.Option(help="Seconds for a body to arrive, and for its answer.")] = 30.0,
    explain: Annotated[bool, typer.Option("--explain/--no-explain", help="Whether there is /explain.")] = True,
) -> None:
    """Serve a trained model over HTTP: POST /predict and /explain, GET /health, /model, /metrics and /openapi.json.

    Rows come as JSON, {"inputs": {"mrna": [[...], null, ...]}}, or as the Parquet that 'equifuse predict' reads.
    """
    from equifuse.serve import serve as listen

    listen(
        run,
        host=host,
        port=port,
        workers=workers,
        explain=explain,
        max_rows=max_rows,
        max_explained=max_explained,
        max_bytes=max_bytes,
        max_waiting=max_waiting,
        timeout=timeout,
    )
