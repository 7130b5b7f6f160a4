"""``equifuse demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="Folder to create.")] = Path("runs/demo"),
    seeds: Annotated[int, typer.Option(help="Seeds per method.", min=1)] = 3,
    epochs: Annotated[int, typer.Option(help="Most epochs per run.", min=1)] = 30,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted demonstration.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Train deq, gmf, gmf -> deq and concat on the embedded digits, and compare them."""
    from equifuse.report.tables import show, text_table
    from equifuse.training.comparison import HEADER, rows
    from equifuse.training.demo import run_demo

    summary = run_demo(out, seeds=seeds, epochs=epochs, resume=resume, progress=not quiet)
    show(text_table(f"digits, five views, test part, {seeds} seeds", HEADER, rows(summary)))
    typer.echo(f"models, metrics, configuration and plots: {out}")
