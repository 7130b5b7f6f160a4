"""The command line: one file per command, no logic of its own."""

from __future__ import annotations

import sys

import click
import typer

from equifuse.cli import data, demo, evaluate, predict, train
from equifuse.errors import EquifuseError

app = typer.Typer(
    name="equifuse",
    help="Multimodal fusion: train, evaluate and use models of several modalities.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.command("datasets")(data.datasets)
app.command("demo")(demo.demo)


def _version(wanted: bool) -> None:
    if wanted:
        from equifuse import __version__

        typer.echo(f"equifuse {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", help="Print the version.", callback=_version, is_eager=True),
) -> None:
    """Multimodal fusion: train, evaluate and use models of several modalities."""


def main() -> None:
    """Entry point: a user's mistake is one line on standard error and exit code 2, never a traceback."""
    try:
        code = app(standalone_mode=False)
    except EquifuseError as error:
        code = _complain(str(error))
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.ctx.get_help())
        code = 2
    except click.ClickException as error:
        code = _complain(error.format_message())
    except (click.Abort, KeyboardInterrupt):
        print("interrupted; continue with the same command and --resume", file=sys.stderr)
        code = 130
    except OSError as error:  # a full disk, a folder that may not be written
        code = _complain(f"{error.strerror or error}: {error.filename}" if error.filename else str(error))
    sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2
