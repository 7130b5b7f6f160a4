"""Signals that ask a process to stop: each interrupts the work under way, says so, and becomes the exit code."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# From the keyboard, from a scheduler or `kill`, from a terminal that was closed, and from a console of Windows.
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to stop; a :class:`KeyboardInterrupt`, so that no ``except Exception`` hides it.

    >>> from equifuse.interruption import Interrupted
    >>> stop = Interrupted("SIGTERM")
    >>> stop.code, str(stop)
    (143, 'interrupted by SIGTERM')

    Args:
        name: of the signal.

    Attributes:
        name: of the signal.
        code: exit code of a process that it ended, 128 and the signal's number.
    """

    def __init__(self, name: str) -> None:
        super().__init__("interrupted" if name == "SIGINT" else f"interrupted by {name}")
        self.name = name
        self.code = 128 + int(getattr(signal, name, 0))


@contextmanager
def stop_signals() -> Iterator[None]:
    """Within, the first signal that asks to stop raises :class:`Interrupted`; more of them change nothing.

    A signal that is ignored, as by ``nohup``, stays ignored, and one that somebody else handles stays theirs. In a
    thread nothing happens: Python handles signals in the main one.

    >>> import signal
    >>> from equifuse.interruption import Interrupted, stop_signals
    >>> try:
    ...     with stop_signals():
    ...         signal.raise_signal(signal.SIGTERM)
    ... except Interrupted as stop:
    ...     print(stop)
    interrupted by SIGTERM
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = (signal.SIG_DFL, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in _numbers()}
    replaced = {number: handler for number, handler in before.items() if handler in ours}
    stopping = False

    def stop(number: int, _: FrameType | None) -> None:
        nonlocal stopping
        if not stopping:
            stopping = True
            raise Interrupted(signal.Signals(number).name)

    for number in replaced:
        signal.signal(number, stop)
    try:
        yield
    finally:
        if not sys.is_finalizing():
            for number, handler in replaced.items():
                signal.signal(number, handler)


@contextmanager
def advice(how: Callable[[], str]) -> Iterator[None]:
    """Around work that can go on later: what to do is noted on an interrupt that comes out of it.

    Args:
        how: says it, once the work has been interrupted.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.add_note(how())
        raise


def leave_to_parent() -> None:
    """In a worker: only its parent ends it, by SIGTERM; what a terminal sends to all its processes is not for it."""
    for number in _numbers():
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))


def _numbers() -> list[signal.Signals]:
    return [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
