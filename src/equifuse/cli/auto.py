"""``equifuse auto``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from equifuse.auto.limits import Budget, duration, seconds_of
from equifuse.auto.options import not_shared, presets_table
from equifuse.cli.options import resumable, with_options
from equifuse.runs.config import TrainConfig

if TYPE_CHECKING:
    from equifuse.data import MultimodalDataset
    from equifuse.information import Interactions

# Seconds below which processes are not worth their start.
_SHORT = 120
HELP = (
    "Find the best model within a time: many methods, and a weighted ensemble of the best, as one run folder.\n\n\b\n"
    + "\n".join(presets_table())
)


@with_options(TrainConfig, "given", without=not_shared())
def auto(
    given: dict[str, Any],
    out: Annotated[Path, typer.Option(help="Run folder to create.", rich_help_panel="Output")],
    time_limit: Annotated[
        str,
        typer.Option(
            help="For everything: 90s, 10m, 1h; none does all of the preset, so that the result is the same anywhere.",
            rich_help_panel="Search",
        ),
    ] = "10m",
    preset: Annotated[str, typer.Option(help="fast, good or best; see above.", rich_help_panel="Search")] = "good",
    workers: Annotated[
        int | None,
        typer.Option(
            help="Models that are trained at a time, in processes; 0: in this one. Default one per core, at most 4; of "
            "limits below 2 minutes 0, since processes take long to start.",
            min=0,
            rich_help_panel="Machine",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on; nothing finished is repeated.", rich_help_panel="Output")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No lines of progress.", rich_help_panel="Output")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print leaderboard and report as JSON.", rich_help_panel="Output")
    ] = False,
) -> None:
    """Find the best model within a time."""
    limit = seconds_of(time_limit)
    budget = Budget(limit, began=time.monotonic())
    from equifuse.auto.run import ASKED
    from equifuse.auto.run import auto as run
    from equifuse.data.sources import understood
    from equifuse.runs.executors import begin_imports, default_workers

    if workers is None:
        workers = 0 if limit is not None and limit < _SHORT else default_workers()
    if workers:
        begin_imports()

    def tell(line: str) -> None:
        if not quiet:
            typer.echo(line, err=True)

    known: list[Interactions | str] = []

    def say(dataset: MultimodalDataset) -> None:
        for line in understood(dataset):
            typer.echo(line, err=True)
        from equifuse.auto.knowledge import knowledge

        known.append(knowledge(config, dataset, limit))

    config = TrainConfig.from_options(None, given)
    with resumable(out, ASKED):
        found = run(
            config,
            out,
            time_limit=time_limit,
            preset=preset,
            resume=resume,
            workers=workers,
            tell=tell,
            on_data=say,
            budget=budget,
        )
    from equifuse.report.search import write_search
    from equifuse.runs.folder import load_run

    task = load_run(found.path).task
    page = write_search(found, Path(found.path), Path(config.data).stem, task, known[0] if known else None)
    if as_json:
        import json

        typer.echo(json.dumps(found.to_dict(), indent=1))
        return
    from equifuse.report.tables import TextTable, show

    header, rows = found.table()
    show(TextTable(header, rows, f"leaderboard, {duration(found.seconds)}"))
    for sentence in found.report:
        typer.echo(sentence)
    for one in known:
        typer.echo(one if isinstance(one, str) else f"What the modalities know: {one.verdict}")
    typer.echo(f"page: {page}")
    typer.echo(f"run folder: {found.path}")
    typer.echo(f"the best single method: {Path(found.path) / 'best'}")
    tell(f"next: equifuse report {found.path}")
    tell(f"      equifuse predict {found.path} --input NEW.csv --out predictions.csv")
