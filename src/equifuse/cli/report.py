"""``equifuse report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="Folder made by 'equifuse train'.")],
    out: Annotated[Path | None, typer.Option(help="Folder to create; default <run>/report.")] = None,
    features: Annotated[
        bool | None, typer.Option("--features/--no-features", help="Which features mattered; needs Captum.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Test samples to explain, at most.", min=1)] = 2000,
) -> None:
    """Tell all about a run in one HTML page: metrics, convergence, what modalities and features did, certainty."""
    from equifuse.files import read_json
    from equifuse.report.run import EXPLANATION, report_run

    page = report_run(run, out, features=features, samples=samples)
    summary = page.parent / EXPLANATION
    for line in read_json(summary)["verdict"] if summary.is_file() else ():
        typer.echo(line)
    typer.echo(f"report: {page}")
