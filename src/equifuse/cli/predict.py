"""``equifuse predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def predict(
    run: Annotated[Path, typer.Argument(help="Run folder made by 'equifuse train'.")],
    source: Annotated[Path, typer.Option("--input", help=".csv, .parquet or .npz with the rows to predict.")],
    out: Annotated[Path, typer.Option(help=".csv, .parquet or .npz to write.")],
) -> None:
    """Predict the rows of a file.

    Columns of modality 'mrna' are mrna:ANYTHING, or mrna_0, mrna_1, ...; empty cells in all of them mean that the row
    does not have the modality.
    """
    from equifuse.training import predict_run

    columns = predict_run(run, source, out)
    note = f", {columns['converged'].mean():.1%} converged" if "converged" in columns else ""
    typer.echo(f"{len(next(iter(columns.values())))} predictions: {out}{note}")
