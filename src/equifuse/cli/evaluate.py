"""``equifuse evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder made by 'equifuse train'.")],
    data: Annotated[str | None, typer.Option(help="Another data set; default the run's own.")] = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    without: Annotated[list[str] | None, typer.Option(help="Modality to take away; may be repeated.")] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object: metrics, intervals, and the confusion matrix of classes."),
    ] = False,
) -> None:
    """Evaluate a trained model, optionally with modalities taken away."""
    import json

    from equifuse.runs.evaluate import measure_run
    from equifuse.runs.folder import read_run_config
    from equifuse.training.protocol import LOOSE, PROTOCOLS

    measured = measure_run(run, data=data, split=split, without=tuple(without or ()), intervals=as_json)
    flat = {**measured.metrics, **(measured.convergence or {})}
    if as_json:
        # The metrics also stand alone, as in version 0.1.
        typer.echo(json.dumps({"split": split, **measured.to_dict(), **flat}, indent=1))
    else:
        from equifuse.report.tables import metrics_table, show

        show(metrics_table({split: flat, "undefined": {split: measured.undefined}}))
    if read_run_config(run)[0].protocol == LOOSE:
        typer.echo(f"note: protocol {LOOSE}: {PROTOCOLS[LOOSE]}", err=True)
