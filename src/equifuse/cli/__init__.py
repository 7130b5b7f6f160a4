"""The command line: one file per command, no logic of its own. Only Typer is imported before a command runs."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any, NoReturn

from equifuse.errors import InputError
from equifuse.extras import require
from equifuse.interruption import Interrupted, stop_signals


def main(arguments: list[str] | None = None) -> None:
    """Entry point: a user's mistake is one line on standard error and exit code 2, never a traceback.

    A signal that asks to stop is one line too, and 128 and its number is the exit code: 143 for SIGTERM.

    Args:
        arguments: words of the command line; default those of the process.
    """
    try:
        require("train", "typer", "the command line")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    try:
        with stop_signals():
            from equifuse.cli.command_line import run

            run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt as stop:
        _end(stop, own=arguments is None)


def _end(stop: KeyboardInterrupt, own: bool) -> NoReturn:
    """Say that the command was interrupted and how to go on, and leave; at once if the process is the command's own."""
    notes = getattr(stop, "__notes__", None) or ["what it was writing is whole or not there; run it again"]
    print("; ".join([str(stop) or "interrupted", *notes[:1]]), file=sys.stderr)
    code = stop.code if isinstance(stop, Interrupted) else 130
    if own and any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # a training in a thread would hold the interpreter until it is done
    sys.exit(code)


def __getattr__(name: str) -> Any:
    """``app``, the Typer application, once it is asked for."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from equifuse.cli.command_line import app

    return app
