"""``equifuse predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from equifuse.errors import InputError


def predict(
    run: Annotated[Path, typer.Argument(help="Run folder made by 'equifuse train'.")],
    source: Annotated[
        Path, typer.Option("--input", help="Rows to predict: .csv, .parquet, .npz or .hdf5, or a folder of such files.")
    ],
    out: Annotated[Path, typer.Option(help=".csv, .parquet or .npz to write; for a folder, the folder to create.")],
    workers: Annotated[int | None, typer.Option(help="Files of a folder at a time; 0: in this process.", min=0)] = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of a Dask scheduler to work on.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on; no finished file is repeated.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Predict the rows of a file, or of every file of a folder.

    Columns of modality 'mrna' are mrna:ANYTHING, or mrna_0, mrna_1, ...; empty cells in all of them mean that the row
    does not have the modality.
    """
    from equifuse.runs import predict_run, predict_shards
    from equifuse.runs.predict import convergence_of

    if not source.is_dir():
        if workers is not None or scheduler is not None or resume:
            raise InputError("--workers, --scheduler and --resume are for a folder as --input")
        columns = predict_run(run, source, out)
        found = convergence_of(columns)
        rows = len(next(iter(columns.values())))
    else:
        try:
            found = predict_shards(
                run, source, out, resume=resume, workers=workers, scheduler=scheduler, progress=not quiet
            )
        except KeyboardInterrupt:
            typer.echo("interrupted; continue with the same options and --resume", err=True)
            raise typer.Exit(130) from None
        rows = int(found["rows"])
    if as_json:
        import json

        typer.echo(json.dumps({"n": rows, "out": str(out), "convergence": found or None}, indent=1))
        return
    note = f", {found['converged']:.1%} converged" if found and "converged" in found else ""
    typer.echo(f"{rows} predictions: {out}{note}")
