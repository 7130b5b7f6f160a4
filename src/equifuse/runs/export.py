"""Export a trained run's model."""

from __future__ import annotations

from equifuse.data.batch import Batch
from equifuse.data.loaders import batches_of, first_rows
from equifuse.errors import DataError, UnknownNameError
from equifuse.export import export_model
from equifuse.export.description import ExportDescription
from equifuse.runs.folder import PathLike, Run, load_run

# Samples of the validation part that the steps are chosen with, and the file is checked on.
_EXAMPLES = 256


def export_run(
    run: PathLike, out: PathLike, *, format: str | None = None, steps: int | None = None, loop: bool = False
) -> ExportDescription:
    """Export the model of a finished run as a file that runs without this library.

    >>> run = train(TrainConfig("digits", fusion="concat", epochs=1), "run", progress=False).path
    >>> export_run(run, "model.pt2")["error"] < 1e-4
    True

    Samples of its validation part are used as examples.

    Where the run's data are not there any more, or have changed, the examples are made up, and the description says so.

    Args:
        run: the run folder.
        out: see :func:`equifuse.export.export_model`, also for the rest, the value and the errors.
        format: likewise.
        steps: likewise.
        loop: likewise.

    Raises:
        DataError: no finished run there.
    """
    opened = load_run(run)
    batch = _examples(opened)
    parts = (None,) * 3 if batch is None else (batch.inputs, batch.present, batch.lengths)
    example, present, lengths = parts
    return export_model(
        opened.model,
        out,
        format=format,
        example=example,
        present=present,
        lengths=lengths,
        steps=steps,
        loop=loop,
    )


def _examples(run: Run) -> Batch | None:
    try:
        return first_rows(batches_of(run.dataset().splits["val"]), _EXAMPLES)
    except (DataError, UnknownNameError):
        return None
