"""``equifuse evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from equifuse.cli.options import OF_SPLITTING, with_options
from equifuse.data.options import SourceOptions


@with_options(SourceOptions, "source", without=OF_SPLITTING)
def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder made by 'equifuse train'.")],
    source: dict[str, Any],
    data: Annotated[
        str | None, typer.Option(help="Other data, all rows of which are measured; default the run's own test part.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Only this part: train, val or test.")] = None,
    without: Annotated[list[str] | None, typer.Option(help="Modality to take away; may be repeated.")] = None,
    by: Annotated[str | None, typer.Option(help="Column, such as the site: also measure each of its values.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to create: JSON, CSV and plots.")] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object: metrics, intervals, and the confusion matrix of classes."),
    ] = False,
) -> None:
    """Measure a trained model, with 95 % intervals and a baseline, on its test part or on other data."""
    import json

    from equifuse.files import refuse_existing
    from equifuse.runs.evaluate import measure_run
    from equifuse.runs.folder import read_run_config
    from equifuse.training.protocol import LOOSE, PROTOCOLS

    if out is not None:
        refuse_existing(out)
    measured = measure_run(run, data, split, tuple(without or ()), source=source, by=by)
    if as_json:
        # The metrics also stand alone, as in version 0.1.
        flat = {**measured.metrics, **(measured.convergence or {})}
        typer.echo(json.dumps({"split": split or ("all" if data else "test"), **measured.to_dict(), **flat}, indent=1))
    else:
        from equifuse.report.tables import measured_tables, show

        for table in measured_tables(measured):
            show(table)
        if measured.mix:
            typer.echo(measured.mix.sentence)
        for note in measured.notes:
            typer.echo(f"note: {note}")
    if out is not None:
        from equifuse.report.measured import write_measured

        write_measured(measured, out)
        if not as_json:
            typer.echo(f"tables, plots and predictions: {out}")
    if read_run_config(run)[0].protocol == LOOSE:
        typer.echo(f"note: protocol {LOOSE}: {PROTOCOLS[LOOSE]}", err=True)
