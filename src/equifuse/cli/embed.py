"""``equifuse embed``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from equifuse.cli.options import OF_SPLITTING, with_options
from equifuse.data.options import OF_FORMATS, SourceOptions


@with_options(SourceOptions, "source", without=(*OF_SPLITTING, *OF_FORMATS, "target"))
def embed(
    run: Annotated[Path, typer.Argument(help="Run folder made by 'equifuse train'.")],
    source: dict[str, Any],
    data: Annotated[str | None, typer.Option(help="Other data; default all of the run's own.")] = None,
    split: Annotated[str | None, typer.Option(help="Only this part: train, val or test.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to create; default <run>/embeddings.")] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="For tables: column to have in the output too; may be repeated.")
    ] = None,
    plot: Annotated[list[str] | None, typer.Option(help="pca, tsne or umap; may be repeated.  [default: pca]")] = None,
    colour: Annotated[str | None, typer.Option(help="Column that colours the plots; default the target.")] = None,
    clusters: Annotated[int | None, typer.Option(help="Number of k-means clusters to find.", min=2)] = None,
    format: Annotated[str, typer.Option(help="Of the table: csv, parquet, xlsx or npz.")] = "parquet",
    seed: Annotated[int, typer.Option(help="Seed of t-SNE, UMAP and k-means.", min=0)] = 0,
) -> None:
    """Write what the model makes of samples: fused vectors, each modality's, GMF's parts; plots, and clusters."""
    from equifuse.report.embedded import write_embedded
    from equifuse.runs.embed import embed_run, output_folder
    from equifuse.runs.output import check_output

    folder = output_folder(run, out, "embeddings")
    check_output(folder, format)
    columns = dict.fromkeys([*(keep or []), *([colour] if colour and colour not in _OWN else [])])
    source |= {"keep": list(columns)} if columns else {}
    found = embed_run(run, data, split, source=source, projections=tuple(plot or ["pca"]), clusters=clusters, seed=seed)
    write_embedded(found, folder, format=format, colour=colour)
    for note in found.notes:
        typer.echo(f"note: {note}")
    widths = ", ".join(f"{name} {x.shape[1]}" for name, x in found.vectors.items())
    typer.echo(f"{len(found.vectors['fused'])} samples: {widths}")
    if found.clusters is not None:
        like = found.clusters.agreement
        agreement = "" if like is None else f", adjusted Rand index with the classes {like:.3f}"
        typer.echo(f"{found.clusters.count} clusters: silhouette {found.clusters.silhouette:.3f}{agreement}")
    typer.echo(f"table and plots: {folder}")


# Columns that are there without being kept.
_OWN = ("target", "time", "event", "cluster", "part", "id", "row")
