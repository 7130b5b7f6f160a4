"""``equifuse train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from equifuse.cli.options import with_options
from equifuse.runs.config import TrainConfig


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
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.", rich_help_panel="Output")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the test part's metrics as JSON.", rich_help_panel="Output")
    ] = False,
) -> None:
    """Train a model; the best epoch on validation is kept and measured on test."""
    from equifuse.runs import train as run

    resolved = TrainConfig.from_options(config, given)
    parts = (Path(resolved.data).stem, resolved.fusion, resolved.backend, f"seed{resolved.seed}")
    folder = out or Path("runs") / "-".join(part for part in parts if part)
    try:
        result = run(resolved, folder, resume=resume, progress=not quiet)
    except KeyboardInterrupt:
        typer.echo(f"interrupted; continue with the same options, --out {folder} and --resume", err=True)
        raise typer.Exit(130) from None
    if not result.metrics:  # another process writes, and tells
        return
    if as_json:
        import json

        from equifuse.runs.evaluate import measure_run

        typer.echo(json.dumps({"run": str(result.path), **measure_run(result.path).to_dict()}, indent=1))
        return
    from equifuse.report.tables import metrics_table, show

    show(metrics_table(result.metrics))
    if resolved.protocol != "clean":
        typer.echo(f"note: protocol {result.metrics['protocol']}")
    typer.echo(f"run folder: {result.path}")
