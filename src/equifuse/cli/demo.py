"""``equifuse demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from equifuse.cli.options import resumable


def demo(
    out: Annotated[Path, typer.Option(help="Folder to create.")] = Path("runs/demo"),
    seeds: Annotated[int, typer.Option(help="Seeds per method.", min=1)] = 3,
    epochs: Annotated[int | None, typer.Option(help="Epochs of each training.  [default: 5]", min=1)] = None,
    workers: Annotated[
        int | None, typer.Option(help="Trainings at a time; 0: in this process.  [default: one per core]", min=0)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted demonstration.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Compare deq, gmf, gmf+deq and concat on the embedded digits: a small benchmark, in seconds."""
    from equifuse.runs.executors import begin_imports

    if workers != 0 and not resume:
        begin_imports()
    from equifuse.benchmark.presets import run_demo
    from equifuse.benchmark.runner import STORE
    from equifuse.report.benchmark import PAGE, method_table
    from equifuse.report.tables import show

    with resumable(out, STORE):
        summary = run_demo(out, seeds=seeds, epochs=epochs, resume=resume, workers=workers, progress=not quiet)
    show(method_table(summary, "digits"))
    for line in summary.failures:
        typer.echo(f"note: {line}", err=True)
    typer.echo(f"report: {out / PAGE}")
