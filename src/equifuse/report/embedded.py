"""What an embedding is written as: one table, and maps coloured by a column."""

from __future__ import annotations

from pathlib import Path

from equifuse.errors import UnknownNameError
from equifuse.files import atomic_folder, write_json
from equifuse.report import plots
from equifuse.runs.embed import Embedded
from equifuse.runs.output import write_columns


def write_embedded(found: Embedded, folder: Path, *, format: str = "parquet", colour: str | None = None) -> None:
    """Write what :func:`~equifuse.runs.embed.embed_run` gives into a new folder.

    Args:
        found: the embedding.
        folder: to create: ``embeddings.parquet`` (or of another format), ``summary.json``, and ``pca.png``, …
        format: of the table: csv, parquet, xlsx or npz.
        colour: column that colours the maps; default the target.

    Raises:
        OutputExistsError: the folder exists.
        UnknownNameError: there is no such column.
    """
    colour = colour or next((name for name in ("target", "time", "cluster") if name in found.about), None)
    if colour is not None and colour not in found.about:
        raise UnknownNameError("column", colour, found.about)
    values = None if colour is None else found.about[colour]
    with atomic_folder(folder) as staging:
        write_columns(staging / f"embeddings.{format}", found.columns())
        for name, places in found.maps.items():
            figure = plots.scatter(places, values, colour or "", axes=_axes(found, name))
            plots.save(figure, staging / f"{name}.png")
        write_json(
            staging / "summary.json",
            {
                "n": len(found.vectors["fused"]),
                "widths": {name: x.shape[1] for name, x in found.vectors.items()},
                "pca_explained": found.explained,
                "clusters": None if found.clusters is None else found.clusters.to_dict(),
                "colour": colour,
            },
        )


def _axes(found: Embedded, name: str) -> tuple[str, str]:
    if name != "pca" or found.explained is None:
        called = {"tsne": "t-SNE", "umap": "UMAP"}.get(name, name)
        return f"{called} 1", f"{called} 2"
    first, second = (f"PC{k + 1} ({share:.0%} of the variance)" for k, share in enumerate(found.explained))
    return first, second
