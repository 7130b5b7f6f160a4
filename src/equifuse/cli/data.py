"""``equifuse datasets`` and its commands ``inspect``, ``convert`` and ``fetch-instructions``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from equifuse.cli.options import GroupedCommand, with_options
from equifuse.data.options import SourceOptions

app = typer.Typer(help="List, inspect and convert data sets.", invoke_without_command=True, rich_markup_mode=None)


@app.callback()
def datasets(
    context: typer.Context,
    root: Annotated[
        Path | None, typer.Option(help="Folder of .npz data sets; default the variable EQUIFUSE_DATA.")
    ] = None,
) -> None:
    """List the data sets that can be trained on by name."""
    if context.invoked_subcommand is not None:
        return
    from equifuse import datasets as catalog
    from equifuse.report.tables import datasets_table, show

    show(datasets_table([catalog.load(name, root) for name in catalog.available(root)]))


@app.command(cls=GroupedCommand)
@with_options(SourceOptions, "given")
def inspect(
    path: Annotated[str, typer.Argument(help="Name of a data set, or path of a file or folder.")],
    given: dict[str, Any],
    interactions: Annotated[
        bool, typer.Option("--interactions", help="Also measure what the modalities know of the target.")
    ] = False,
) -> None:
    """Say what is in a data set, what is suspicious about it, and how to train on it."""
    from equifuse import datasets as catalog
    from equifuse.data.inspect import guess_options
    from equifuse.data.inspect import inspect as look
    from equifuse.data.sources import understood
    from equifuse.errors import InputError
    from equifuse.report.tables import inspection_tables, show

    source = SourceOptions.of(given)
    try:
        dataset = catalog.load(path, source=source)
    except InputError as error:
        guess = guess_options(Path(path)) if not source.modalities and not source.untrusted else None
        if guess is None:
            raise
        options = " ".join(f"--modality {m}='{pattern}'" for m, pattern in guess.modalities.items())
        raise InputError(f"{error}; by their names, the groups may be: {options}") from None
    for line in understood(dataset):
        typer.echo(line)
    found = look(dataset, path, source)
    for table in inspection_tables(found):
        show(table)
    for warning in found.warnings:
        typer.echo(f"note: {warning}")
    if interactions:
        from equifuse.information import interactions as measure
        from equifuse.report.information import show_interactions

        show_interactions(measure(dataset, group=source.group, progress=True))
    typer.echo(f"try: {found.command}")


@app.command(cls=GroupedCommand)
@with_options(SourceOptions, "given")
def convert(
    source: Annotated[Path, typer.Argument(help="File or folder in any known format, or a pickle of MMSA.")],
    out: Annotated[Path, typer.Argument(help="File to create: .npz or .hdf5.")],
    given: dict[str, Any],
) -> None:
    """Write a data set as one file of plain arrays, split included."""
    from equifuse.data.conversion import convert as run

    dataset = run(source, out, given)
    rows = ", ".join(f"{len(split)} {part}" for part, split in dataset.splits.items())
    typer.echo(f"{out}: {dataset.task}, {', '.join(dataset.modalities)}; {rows}")


@app.command("fetch-instructions")
def fetch_instructions(
    name: Annotated[str | None, typer.Argument(help="Name of a public data set; without one, all are listed.")] = None,
) -> None:
    """Say where the files of a public data set come from, under which licence, and how to train on them.

    Nothing is downloaded.
    """
    from equifuse.registry import PUBLIC_SETS

    if name is None:
        for known in PUBLIC_SETS.parts():
            typer.echo(f"{known.name}: {known.title}")
        return
    for line in PUBLIC_SETS.get(name).instructions():
        typer.echo(line)
