"""``equifuse export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[Path, typer.Argument(help="Run folder made by 'equifuse train'.")],
    out: Annotated[Path, typer.Option(help="File to create: .onnx or .pt2.")],
    format: Annotated[str | None, typer.Option(help="onnx or torch; default by the file's name.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Evaluations of an equilibrium; default as many as it takes.", min=1)
    ] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Solve an equilibrium in a loop that ends by itself.")] = False,
) -> None:
    """Write a trained model as a program that runs without equifuse, in onnxruntime or in PyTorch."""
    from equifuse.report.tables import export_lines
    from equifuse.runs import export_run

    description = export_run(run, out, format=format, steps=steps, loop=loop)
    for line in export_lines(str(out), description):
        typer.echo(line)
