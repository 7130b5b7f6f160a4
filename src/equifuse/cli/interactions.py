"""``equifuse interactions``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from equifuse.cli.options import with_options
from equifuse.data.options import SourceOptions


@with_options(SourceOptions, "source")
def interactions(
    data: Annotated[str, typer.Option(help="Name of a data set, or path of a file or folder.")],
    source: dict[str, Any],
    estimator: Annotated[
        str, typer.Option(help="predictive, discrete, gaussian or pointwise, or one of another package.")
    ] = "predictive",
    without: Annotated[list[str] | None, typer.Option(help="Modality to leave out; may be repeated.")] = None,
    of: Annotated[str | None, typer.Option(help="One of several labels or quantities; default all of them.")] = None,
    samples: Annotated[int, typer.Option(help="Samples to measure on, at most.", min=20)] = 3000,
    out: Annotated[Path | None, typer.Option(help="Folder to create: JSON, CSV, a page and the plot.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what each modality knows of the target, what two share or need both for, and whether fusion can pay."""
    import json

    from equifuse import datasets as catalog
    from equifuse.data.sources import understood
    from equifuse.files import refuse_existing
    from equifuse.information import interactions as measure
    from equifuse.report.information import show_interactions, write_interactions

    if out is not None:
        refuse_existing(out)
    options = SourceOptions.of(source)
    dataset = catalog.load(data, source=options)
    for line in understood(dataset):
        typer.echo(line, err=True)
    found = measure(
        dataset,
        estimator,
        most_samples=samples,
        group=options.group,
        without=without or (),
        target=of,
        progress=True,
    )
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=1))
    else:
        show_interactions(found)
    if out is not None:
        write_interactions(found, out)
        if not as_json:
            typer.echo(f"tables, page and plot: {out}")
