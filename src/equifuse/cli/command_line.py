"""The application that all commands belong to, and what becomes of errors."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException
from typer.main import get_command

from equifuse import __version__
from equifuse.cli import (
    auto,
    benchmark,
    compare,
    data,
    demo,
    distill,
    embed,
    evaluate,
    explain,
    export,
    finetune,
    impute,
    interactions,
    markers,
    predict,
    questions,
    report,
    robustness,
    serve,
    train,
)
from equifuse.cli.options import GroupedCommand
from equifuse.errors import EquifuseError


class _Commands(TyperGroup):
    """All commands. Typer makes an exit code of an interrupt, and forgets which signal it was: it is kept."""

    stop: KeyboardInterrupt | None = None

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            self.stop = stop
            raise


app = typer.Typer(
    name="equifuse",
    cls=_Commands,
    help="Multimodal fusion: train, evaluate and use models of several modalities.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("train", cls=GroupedCommand)(train.train)
app.command("auto", cls=GroupedCommand, help=auto.HELP)(auto.auto)
app.command("evaluate", cls=GroupedCommand)(evaluate.evaluate)
app.command("predict", cls=GroupedCommand)(predict.predict)
app.command("compare", cls=GroupedCommand)(compare.compare)
app.command("finetune", cls=GroupedCommand)(finetune.finetune)
app.command("distill", cls=GroupedCommand)(distill.distill)
app.command("embed", cls=GroupedCommand)(embed.embed)
app.command("impute", cls=GroupedCommand)(impute.impute)
app.command("markers", cls=GroupedCommand)(markers.markers)
app.command("interactions", cls=GroupedCommand)(interactions.interactions)
app.command("explain")(explain.explain)
app.command("score-answers")(questions.score_answers)
app.command("export")(export.export)
app.command("robustness")(robustness.robustness)
app.command("report")(report.report)
app.command("serve")(serve.serve)
app.command("benchmark", cls=GroupedCommand)(benchmark.benchmark)
app.add_typer(data.app, name="datasets")
app.command("demo")(demo.demo)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"equifuse {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", help="Print the version.", callback=_version, is_eager=True),
) -> None:
    """Multimodal fusion: train, evaluate and use models of several modalities."""


def run(words: list[str]) -> None:
    """Run a command line and exit; see :func:`equifuse.cli.main`.

    Raises:
        KeyboardInterrupt: a signal asked to stop.
    """
    # Once each, after what the command prints; what runs until it is stopped says them at once.
    kept: dict[str, None] = {}
    warnings.showwarning = _one_line if words[:1] == ["serve"] else lambda said, *_, **__: kept.setdefault(str(said))
    try:
        _run(words)
    finally:
        for message in kept:
            _one_line(message)


def _run(words: list[str]) -> None:
    commands = get_command(app)
    assert isinstance(commands, _Commands)
    try:
        code = commands.main(words or ["--help"], prog_name="equifuse", standalone_mode=False)
        if commands.stop is not None:
            raise commands.stop
        sys.exit(code if isinstance(code, int) else 0)
    except TyperException as error:  # a wrong option
        _complain(error.format_message() if hasattr(error, "format_message") else str(error))
    except EquifuseError as error:
        _complain(str(error))
    except MemoryError as error:
        _complain(f"not enough memory: {error}")
    except OSError as error:  # a full disk, a folder that may not be written
        where = error.filename2 or error.filename
        _complain(f"{error.strerror or error}: {where}" if where else str(error))


def _one_line(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


def _complain(message: str) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
