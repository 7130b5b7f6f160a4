"""``equifuse benchmark``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from equifuse.cli.options import resumable, with_options
from equifuse.data.options import SourceOptions


@with_options(SourceOptions, "source")
def benchmark(
    source: dict[str, Any],
    config: Annotated[Path | None, typer.Argument(help="YAML file; options given here win.")] = None,
    out: Annotated[Path, typer.Option(help="Folder to create.")] = Path("runs/benchmark"),
    data: Annotated[list[str] | None, typer.Option(help="Name or path of a data set; repeat for more.")] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="deq, gmf, gmf+deq, concat, linear, ...; repeat for more.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Seeds per method.  [default: 5]", min=1)] = None,
    trials: Annotated[
        int | None, typer.Option(help="Settings tried per method and data set, on validation.  [default: 0]", min=0)
    ] = None,
    missing: Annotated[
        list[str] | None, typer.Option(help="Also on test: a missing rate, 'without' or 'only'; repeat for more.")
    ] = None,
    protocol: Annotated[list[str] | None, typer.Option(help="clean, loose; repeat for both.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Training option for all methods, e.g. epochs=30.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Trainings at a time; 0: in this process.", min=0)] = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of a Dask scheduler to work on.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue; nothing finished is repeated.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> None:
    """Compare methods on data sets, tuned alike, over seeds: tables, tests, plots, and one page with all of it."""
    from equifuse.benchmark import BenchmarkConfig, run_benchmark
    from equifuse.benchmark.runner import STORE
    from equifuse.report.benchmark import PAGE, short_table
    from equifuse.report.tables import show
    from equifuse.runs.settings import parse_settings

    given = {
        "data": data or None,
        "methods": method or None,
        "seeds": seeds,
        "trials": trials,
        "missing": None if missing is None else [_number(entry) for entry in missing],
        "protocols": protocol or None,
    }
    settings = {**parse_settings(setting or []), **({"source": source} if source else {})}
    resolved = BenchmarkConfig.from_options(config, given, settings)
    with resumable(out, STORE):
        summary = run_benchmark(resolved, out, resume=resume, workers=workers, scheduler=scheduler, progress=not quiet)
    if as_json:
        import json

        typer.echo(json.dumps({"out": str(out), **summary.to_dict()}, indent=1))
        return
    from equifuse.report.leaderboard import benchmark_verdict, in_order
    from equifuse.training.protocol import CLEAN

    show(short_table(summary))
    for line in benchmark_verdict(summary):
        typer.echo(line)
    for line in [*summary.failures, *summary.skipped]:
        typer.echo(f"note: {line}", err=True)
    typer.echo(f"report: {out / PAGE}")
    measured = next((name for name, methods in summary.scores[CLEAN].items() if methods), None)
    if not quiet and measured is not None:
        best = in_order(summary, measured)[0][0].partition("+")[0]
        typer.echo(f"next: equifuse train --fusion {best} --out runs/best, with the same options of the data", err=True)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
