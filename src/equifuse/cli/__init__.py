"""The command line: one file per command, no logic of its own. Only Typer is imported before a command runs."""

from __future__ import annotations

import sys
from typing import Any

from equifuse.errors import InputError
from equifuse.extras import require


def main(arguments: list[str] | None = None) -> None:
    """Entry point: a user's mistake is one line on standard error and exit code 2, never a traceback.

    Args:
        arguments: words of the command line; default those of the process.
    """
    try:
        require("train", "typer", "the command line")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    from equifuse.cli.command_line import run

    run(sys.argv[1:] if arguments is None else arguments)


def __getattr__(name: str) -> Any:
    """``app``, the Typer application, once it is asked for."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from equifuse.cli.command_line import app

    return app
