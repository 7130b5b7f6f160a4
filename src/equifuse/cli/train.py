"""``equifuse train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from equifuse.cli.options import resumable, with_options
from equifuse.errors import InputError
from equifuse.options import default_of
from equifuse.runs.config import TrainConfig

if TYPE_CHECKING:
    from equifuse.data import MultimodalDataset
    from equifuse.runs import CrossValidation


@with_options(TrainConfig, "given")
def train(
    given: dict[str, Any],
    config: Annotated[
        Path | None, typer.Option(help="YAML file of options; those given here win.", rich_help_panel="Data")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder; default runs/<data>-<fusion>-seed<seed>.", rich_help_panel="Output"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted run.", rich_help_panel="Output")
    ] = False,
    workers: Annotated[
        int, typer.Option(help="Processes that train an ensemble's members.", min=0, rich_help_panel="Machine")
    ] = 0,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Address of a Dask scheduler that trains an ensemble's members.", rich_help_panel="Machine"),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.", rich_help_panel="Output")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the test part's metrics as JSON.", rich_help_panel="Output")
    ] = False,
) -> None:
    """Train a model; the best epoch on validation is kept and measured on test. With --cv: one for each fold."""
    from equifuse.runs import cross_validate
    from equifuse.runs import train as run
    from equifuse.runs.folder import CONFIG

    resolved = TrainConfig.from_options(config, given)
    folds = f"cv{resolved.cv}" if resolved.cv else None
    if (workers or scheduler) and (folds or not resolved.ensemble):
        raise InputError("--workers and --scheduler are for the members of an ensemble; give --ensemble 5")
    by = resolved.ensemble_by if resolved.ensemble_by != default_of(TrainConfig, "ensemble_by") else ""
    count = f"ensemble{resolved.ensemble}{f'x{resolved.bags}' * (resolved.bags > 1)}" if resolved.ensemble else None
    parts = (Path(resolved.data).stem, resolved.fusion, resolved.backend, count, by, folds, f"seed{resolved.seed}")
    folder = out or Path("runs") / "-".join(part for part in parts if part)

    def tell(dataset: MultimodalDataset) -> None:
        from equifuse.data.sources import understood
        from equifuse.runs.prepare import sizes_of

        lines = understood(dataset)
        for line in lines[:-1] if folds else lines:  # the last is about parts, which folds take the place of
            typer.echo(line, err=as_json)
        sizes = "" if folds else sizes_of(resolved, dataset)
        if sizes:
            typer.echo(sizes, err=as_json)

    with resumable(folder, CONFIG):
        if folds:
            found = cross_validate(resolved, folder, resume=resume, progress=not quiet, on_data=tell)
            _show_folds(found, folder, as_json)
            return
        result = run(
            resolved,
            folder,
            resume=resume,
            progress=not quiet,
            on_data=tell,
            workers=workers,
            scheduler=scheduler,
        )
    if not result.metrics:  # another process writes, and tells
        return
    if as_json:
        import json

        from equifuse.runs.evaluate import measure_run

        typer.echo(json.dumps({"run": str(result.path), **measure_run(result.path).to_dict()}, indent=1))
        return
    from equifuse.report.tables import metrics_table, show

    show(metrics_table(result.metrics))
    if result.metrics.mix:
        typer.echo(result.metrics.mix.sentence)
    if result.metrics.soup:
        typer.echo(f"weights: the mean of epochs {', '.join(map(str, sorted(result.metrics.soup)))}")
    if result.metrics.members:
        typer.echo(result.metrics.members_sentence)
    if resolved.protocol != "clean":
        typer.echo(f"note: protocol {result.metrics['protocol']}")
    for note in result.metrics.notes or ():
        typer.echo(f"note: {note}")
    typer.echo(f"run folder: {result.path}")
    if not quiet:
        typer.echo(f"next: equifuse report {result.path}", err=True)
        typer.echo(f"      equifuse evaluate {result.path} --without MODALITY", err=True)
        typer.echo(f"      equifuse predict {result.path} --input NEW.csv --out predictions.csv", err=True)


def _show_folds(found: CrossValidation, folder: Path, as_json: bool) -> None:
    if as_json:
        import json

        typer.echo(json.dumps(found.to_dict(), indent=1))
        return
    from equifuse.report.tables import folds_table, show

    show(folds_table(found))
    for name in (found.chosen or [{}])[0]:
        values = [str(each[name]) for each in found.chosen or ()]
        counts = ", ".join(
            f"{value} in {values.count(value)} of {len(values)} folds" for value in dict.fromkeys(values)
        )
        typer.echo(f"chosen by validation: {name} {counts}")
    typer.echo(f"predictions of rows that no model saw: {folder / 'predictions.csv'}")
    typer.echo(f"folder: {folder}")
