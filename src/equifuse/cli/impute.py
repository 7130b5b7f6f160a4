"""``equifuse impute``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from equifuse.cli.options import OF_SPLITTING, with_options
from equifuse.data.options import SourceOptions


@with_options(SourceOptions, "source", without=(*OF_SPLITTING, "target"))
def impute(
    run: Annotated[Path, typer.Argument(help="Run folder made by 'equifuse train'.")],
    name: Annotated[str, typer.Argument(help="Modality to predict.")],
    source: dict[str, Any],
    data: Annotated[str | None, typer.Option(help="Other data; default all of the run's own.")] = None,
    split: Annotated[str | None, typer.Option(help="Only this part: train, val or test.")] = None,
    out: Annotated[
        Path | None, typer.Option(help=".csv, .parquet or .xlsx to create; default <run>/<modality>.csv.")
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="For tables: column to have in the output too; may be repeated.")
    ] = None,
) -> None:
    """Predict the features of a modality where it is missing, from the others; says how well that works on test."""
    from equifuse.runs.embed import output_folder
    from equifuse.runs.impute import impute_run

    path = output_folder(run, out, f"{name}.csv")
    source |= {"keep": keep} if keep else {}
    found = impute_run(run, name, data, split, source=source, out=path)
    for note in found.notes:
        typer.echo(f"note: {note}")
    scores = sorted(found.r2.items(), key=lambda pair: -pair[1])
    best, worst = scores[0], scores[-1]
    better = sum(score > 0 for _, score in scores)
    typer.echo(
        f"on test, R2 of {len(scores)} features: median {found.median:.3f}, best {best[1]:.3f} ({best[0]}), worst "
        f"{worst[1]:.3f} ({worst[0]}); {better} are better than the mean"
    )
    errors = ", ".join(f"{through} {error:.3g}" for through, error in found.errors.items())
    typer.echo(f"predicted by a ridge from the {found.through} (validation error in variances: {errors})")
    typer.echo(f"{int(found.imputed.sum())} of {len(found.imputed)} rows predicted: {path}")
