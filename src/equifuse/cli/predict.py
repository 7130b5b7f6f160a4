"""``equifuse predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from equifuse.cli.options import OF_SPLITTING, resumable, with_options
from equifuse.data.options import OF_FORMATS, SourceOptions
from equifuse.errors import InputError


@with_options(SourceOptions, "source", without=(*OF_SPLITTING, *OF_FORMATS, "target"))
def predict(
    run: Annotated[Path, typer.Argument(help="Run folder made by 'equifuse train'.")],
    source: dict[str, Any],
    rows: Annotated[
        Path, typer.Option("--input", help="Rows to predict: a table, .npz or .hdf5, or a folder of such files.")
    ],
    out: Annotated[
        Path, typer.Option(help=".csv, .parquet, .xlsx, .npz or .json to write; for a folder, the folder to create.")
    ],
    keep: Annotated[
        list[str] | None, typer.Option(help="For tables: column to have in the output too; may be repeated.")
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="csv, parquet, xlsx, npz or json; default by the name of --out.")
    ] = None,
    coverage: Annotated[
        float | None,
        typer.Option(help="Intervals, or sets of classes, that hold this share of the truths, such as 0.9."),
    ] = None,
    survival_at: Annotated[
        list[float] | None, typer.Option(help="Time at which to give the chance of survival; may be repeated.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Files of a folder at a time; 0: in this process.", min=0)] = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of a Dask scheduler to work on.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on; no finished file is repeated.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Predict the rows of a file, or of every file of a folder; features, scenes, clips or questions are one set.

    Columns of modality 'mrna' are those of training, or mrna:ANYTHING, or mrna_0, mrna_1, ..., or in the file that
    --modality mrna=FILE names, joined by the id; empty cells in all of them mean that the row does not have it.
    """
    from equifuse.data.formats import is_one_set
    from equifuse.runs import predict_run, predict_shards
    from equifuse.runs.predict import convergence_of
    from equifuse.runs.shards import MANIFEST

    source |= {"keep": keep} if keep else {}
    if is_one_set(rows):
        if workers is not None or scheduler is not None or resume:
            raise InputError("--workers, --scheduler and --resume are for a folder of tables as --input")
        columns = predict_run(
            run, rows, out, source=source, format=format, coverage=coverage, survival_at=survival_at or ()
        )
        found = convergence_of(columns)
        count = len(next(iter(columns.values())))
    else:
        untrusted = source.pop("untrusted", False)
        if source or format is not None or coverage is not None or survival_at:
            raise InputError(
                "the options of a table, --keep, --format, --coverage and --survival-at are for a file as --input"
            )
        with resumable(out, MANIFEST):
            found = predict_shards(
                run,
                rows,
                out,
                resume=resume,
                workers=workers,
                scheduler=scheduler,
                progress=not quiet,
                untrusted=untrusted,
            )
        count = int(found["rows"])
    if as_json:
        import json

        typer.echo(json.dumps({"n": count, "out": str(out), "convergence": found or None}, indent=1))
        return
    note = f", {found['converged']:.1%} converged" if found and "converged" in found else ""
    typer.echo(f"{count} predictions: {out}{note}")
