"""``equifuse markers``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from equifuse.cli.options import OF_SPLITTING, with_options
from equifuse.data.options import SourceOptions


@with_options(SourceOptions, "source", without=(*OF_SPLITTING, "target"))
def markers(
    run: Annotated[Path, typer.Argument(help="Run folder made by 'equifuse train'.")],
    source: dict[str, Any],
    data: Annotated[str | None, typer.Option(help="Other data; default the run's own.")] = None,
    split: Annotated[str | None, typer.Option(help="train, val or test.  [default: test]")] = None,
    out: Annotated[
        Path | None, typer.Option(help=".csv, .parquet or .xlsx to create; default <run>/markers.csv.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Samples to look at, at most.", min=1)] = 500,
    top: Annotated[int, typer.Option(help="Features to print for each class.", min=1)] = 5,
) -> None:
    """Rank all features of all modalities for each class, by integrated gradients; needs Captum."""
    from equifuse.report.tables import markers_table, show
    from equifuse.runs.embed import output_folder
    from equifuse.runs.markers import markers_run
    from equifuse.runs.output import check_output

    path = output_folder(run, out, "markers.csv")
    check_output(path)
    found = markers_run(run, data, split, source=source, samples=samples, out=path)
    show(markers_table(found, top))
    typer.echo(f"all {len(found)} lines: {path}")
