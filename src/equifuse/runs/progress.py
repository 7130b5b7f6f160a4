"""Progress over the epochs of one training, and over many trainings: a bar, or a line in a notebook without widgets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from equifuse.extras import require

OnEpochEnd = Callable[[dict[str, float | None], float], None]
# Called with what changes: ``description``, ``completed`` or ``advance``, ``losses``.
Update = Callable[..., None]
# Seconds between two versions of a notebook's line.
_EVERY = 0.5


@contextmanager
def epoch_bar(epochs: int, runs: int = 1, monitor: str = "loss") -> Iterator[Callable[[str], OnEpochEnd]]:
    """A bar on standard error over ``runs`` trainings of at most ``epochs`` epochs each.

    Args:
        epochs: most epochs of a run.
        runs: number of runs.
        monitor: the metric that selects the epoch.

    Yields:
        A function from a label to what the next run calls after each epoch, with its row and the best monitored value.
    """
    with _bar("{task.description}", "epochs {task.fields[losses]}", "epochs", epochs * runs) as update:
        begun = 0

        def follow(label: str) -> OnEpochEnd:
            nonlocal begun
            # A run that stopped early, or was already there, counts in full.
            start = epochs * begun
            begun += 1
            update(description=label, completed=start)

            def on_epoch_end(row: dict[str, float | None], best: float) -> None:
                now = _monitored(row, monitor)
                losses = f" val {monitor} {'-' if now is None else f'{now:.4f}'}  best {best:.4f} "
                update(completed=start + (row["epoch"] or 0.0) + 1, losses=losses)

            return on_epoch_end

        yield follow


def _monitored(row: dict[str, float | None], monitor: str) -> float | None:
    """What an epoch is selected by: with hidden modalities measured, too, the mean of both."""
    intact, reduced = row.get(f"val_{monitor}"), row.get(f"val_reduced_{monitor}")
    return intact if intact is None or reduced is None else (intact + reduced) / 2


@contextmanager
def count_bar(
    total: int, shown: bool = True, doing: str = "training", what: str = "models"
) -> Iterator[Callable[..., None]]:
    """A bar on standard error over many pieces of work, with the time left, and a line for each finished one.

    Args:
        total: number of pieces.
        shown: whether there is to be one.
        doing: what is done.
        what: the pieces.

    Yields:
        A function that takes the label of the piece just finished, and what to say about it, by default the label.
    """
    with _bar(doing, f"{what} {{task.description}}", f"{doing}, {what}", total, shown) as update:

        def advance(label: str, line: str = "") -> None:
            update(advance=1, description=f"(latest: {label})", line=line or label)

        yield advance


@contextmanager
def _bar(before: str, after: str, unit: str, total: int, shown: bool = True) -> Iterator[Update]:
    """Rich's bar between two texts; in a notebook that cannot show one, a line that is written over."""
    require("train", "rich", "a progress bar")
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    console = Console(stderr=True)
    if console.is_jupyter and find_spec("ipywidgets") is None:
        with _line(unit, total, shown) as write:
            yield write
        return
    columns = (
        TextColumn(before),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn(after),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        task = progress.add_task("", total=total, losses="")

        def write(line: str = "", **changes: Any) -> None:
            if line and shown:
                progress.console.print(line, markup=False, highlight=False)
            progress.update(task, **changes)

        yield write


@contextmanager
def _line(unit: str, total: int, shown: bool) -> Iterator[Update]:
    """One line on standard output, written over at most twice a second, and a last one at the end."""
    state: dict[str, Any] = {"description": "", "completed": 0.0, "losses": ""}
    written, width = -_EVERY, 0

    def write(**changes: Any) -> None:
        nonlocal written, width
        changes.pop("line", None)  # the one line there is shows the latest
        state["completed"] += changes.pop("advance", 0)
        state.update(changes)
        now = time.monotonic()
        if shown and (now - written >= _EVERY or state["completed"] >= total):
            words = (f"{state['completed']:.0f}/{total} {unit}", state["description"], state["losses"])
            line = "  ".join(word.strip() for word in words if word.strip())
            print(f"\r{line:<{width}}", end="", flush=True)
            written, width = now, max(width, len(line))

    try:
        yield write
    finally:
        if shown and width:
            print(flush=True)
