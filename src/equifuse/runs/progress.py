"""Progress bars: over the epochs of one training, and over many trainings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Tell = Callable[[dict[str, float | None], float], None]


@contextmanager
def epoch_bar(epochs: int, runs: int = 1) -> Iterator[Callable[[str], Tell]]:
    """A bar on standard error over ``runs`` trainings of at most ``epochs`` epochs each.

    Args:
        epochs: most epochs of a run.
        runs: number of runs.

    Yields:
        A function from a label to what the next run calls after each epoch, with its row and the best loss.
    """
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("epochs {task.fields[losses]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("", total=epochs * runs, losses="")
        begun = 0

        def follow(label: str) -> Tell:
            nonlocal begun
            # A run that stopped early, or was already there, counts in full.
            start = epochs * begun
            begun += 1
            progress.update(bar, description=label, completed=start)

            def tell(row: dict[str, float | None], best: float) -> None:
                loss = row["val_loss"]
                losses = f" val loss {'-' if loss is None else f'{loss:.4f}'}  best {best:.4f} "
                progress.update(bar, completed=start + (row["epoch"] or 0.0) + 1, losses=losses)

            return tell

        yield follow


@contextmanager
def count_bar(
    total: int, shown: bool = True, doing: str = "training", what: str = "models"
) -> Iterator[Callable[[str], None]]:
    """A bar on standard error over many pieces of work, with the time left.

    Args:
        total: number of pieces.
        shown: whether there is to be one.
        doing: what is done.
        what: the pieces.

    Yields:
        A function that takes the label of the piece just finished.
    """
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (
        TextColumn(doing),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn(f"{what} {{task.description}}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown) as progress:
        job = progress.add_task("", total=total)
        yield lambda label: progress.update(job, advance=1, description=f"(latest: {label})")
