"""``equifuse finetune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from equifuse.cli.options import with_options
from equifuse.data.options import SourceOptions


@with_options(SourceOptions, "source", without=("task",))
def finetune(
    run: Annotated[Path, typer.Argument(help="Run folder made by 'equifuse train'.")],
    source: dict[str, Any],
    data: Annotated[str, typer.Option(help="New data, with targets.")],
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/<data>-from-<run>.")] = None,
    epochs: Annotated[int, typer.Option(help="Most epochs of each stage.", min=1)] = 30,
    lr: Annotated[float | None, typer.Option(help="Learning rate of the first stage; default the run's.")] = None,
    frozen_only: Annotated[bool, typer.Option("--frozen-only", help="Never train the encoders.")] = False,
    seed: Annotated[int | None, typer.Option(help="Of the split and of training; default the run's.", min=0)] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Go on training on a new cohort: encoders frozen first, then all, the best on its validation part is kept."""
    from equifuse.report.tables import finetuned_table, show
    from equifuse.runs.finetune import finetune_run

    folder = out or Path("runs") / f"{Path(data).stem}-from-{run.resolve().name}"
    found = finetune_run(
        run, data, folder, source=source, epochs=epochs, lr=lr, frozen_only=frozen_only, seed=seed, progress=not quiet
    )
    if as_json:
        import json

        typer.echo(json.dumps(found.to_dict(), indent=1))
        return
    show(finetuned_table(found))
    typer.echo(f"kept: {found.kept}")
    typer.echo(f"run folder: {found.path}")
