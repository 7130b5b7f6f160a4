"""``equifuse compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from equifuse.cli.options import OF_SPLITTING, with_options
from equifuse.data.options import SourceOptions


@with_options(SourceOptions, "source", without=OF_SPLITTING)
def compare(
    run: Annotated[Path, typer.Argument(help="Run folder made by 'equifuse train'.")],
    source: dict[str, Any],
    data: Annotated[str, typer.Option(help="Other data, such as those of another hospital; all rows are measured.")],
    by: Annotated[str | None, typer.Option(help="Column, such as the site: also measure each of its values.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to create; default <run>/comparison.")] = None,
) -> None:
    """Compare a run's own test part with other data: scores, sites, coverage, and which features moved, in one page."""
    from equifuse.files import refuse_existing
    from equifuse.report.comparison import comparison_table, write_comparison
    from equifuse.report.tables import show
    from equifuse.runs.compare import compare_run
    from equifuse.runs.embed import output_folder

    folder = output_folder(run, out, "comparison")
    refuse_existing(folder)
    found = compare_run(run, data, source=source, by=by)
    page = write_comparison(found, folder, f"{Path(run).name} on {Path(data).name}")
    show(comparison_table(found))
    for note in found.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"report: {page}")
