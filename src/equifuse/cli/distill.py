"""``equifuse distill``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from equifuse.cli.options import parameters, resumable, with_options
from equifuse.data.options import SourceOptions
from equifuse.options import declarations
from equifuse.runs.config import TrainConfig

# What is the teacher's run's own.
_OF_RUN = {name for name, declared in declarations(TrainConfig).items() if declared.group == "Data"}
# What a student does not have.
_NOT_TAUGHT = ("ensemble", "ensemble_by", "protocol", "mixup", "balance", "balance_options")


@with_options(TrainConfig, "given", without={*_OF_RUN, *parameters(SourceOptions), *_NOT_TAUGHT})
def distill(
    run: Annotated[Path, typer.Argument(help="Run folder of the teacher: an ensemble, or any other.")],
    given: dict[str, Any],
    out: Annotated[Path | None, typer.Option(help="Run folder of the student; default <run>-student.")] = None,
    temperature: Annotated[float, typer.Option(help="By which logits are divided before they are compared.")] = 2.0,
    share: Annotated[float, typer.Option(help="Of the teacher in the student's loss, in (0, 1].")] = 0.5,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted training.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train one model on what a run's model says, and print what it keeps: for an ensemble in less space and time."""
    from equifuse.report.tables import distilled_table, show
    from equifuse.runs.distill import distill_run
    from equifuse.runs.folder import TAUGHT

    folder = out or run.resolve().with_name(f"{run.resolve().name}-student")
    with resumable(folder, TAUGHT):
        found = distill_run(
            run, folder, temperature=temperature, share=share, resume=resume, progress=not quiet, **given
        )
    if as_json:
        import json

        typer.echo(json.dumps(found.to_dict(), indent=1))
        return
    show(distilled_table(found))
    if found.note:
        typer.echo(f"note: {found.note}")
    typer.echo(f"run folder: {found.path}")
