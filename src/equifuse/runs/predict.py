"""Predict the rows of a file with a trained model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equifuse import datasets
from equifuse.data import Split
from equifuse.data.assemble import ROW
from equifuse.data.external import read_rows
from equifuse.data.loaders import Batches, batches_of
from equifuse.data.options import SourceOptions
from equifuse.data.tables import is_table
from equifuse.errors import ConvergenceWarning, DataError, InputError
from equifuse.evaluation.evaluate import warn_unconverged
from equifuse.model import FusionModel
from equifuse.runs.certainty import Certainty
from equifuse.runs.folder import PathLike, Run, load_run
from equifuse.runs.output import check_output, write_columns
from equifuse.tasks import Columns, Evaluation
from equifuse.tasks.evaluated import join, result_of

# Columns beside predictions, of the model's raw outputs.
Beside = Callable[[Tensor], Columns]


def predict_run(
    run: PathLike,
    input_path: PathLike,
    out_path: PathLike,
    *,
    source: SourceOptions | Mapping[str, Any] | None = None,
    format: str | None = None,
    coverage: float | None = None,
    survival_at: Sequence[float] = (),
) -> Columns:
    """Predict the rows of a file with a trained run, and write them as a table.

    >>> run = train(TrainConfig("digits", fusion="concat", epochs=1), "run", progress=False).path
    >>> ef.datasets.write_npz("new.npz", ef.datasets.load("digits"))
    >>> columns = predict_run(run, "new.npz", "predictions.csv")
    >>> len(columns["prediction"])
    359

    Columns: ``id`` (or ``row``, from 0), those that are kept, the task's (``prediction``, ``prob_<class>``, …), and
    ``converged``, ``residual`` and ``steps`` where the fusion solves for an equilibrium.

    Args:
        run: the run folder.
        input_path: a table, ``.npz`` or HDF5; see :func:`equifuse.data.read_inputs`.
        out_path: CSV, Parquet, Excel, ``.npz`` or ``.json`` to create; JSON of answers to questions is a submission.
        source: of a table: ``modalities`` in files of their own, joined by ``id``; columns to ``keep``; and how it is
            read.
        format: ``"csv"``, ``"parquet"``, ``"xlsx"``, ``"npz"`` or ``"json"``; default by the file's name.
        coverage: share of the truths that intervals ``prediction_low`` to ``prediction_high``, or sets of classes
            ``in_set_<class>``, are to hold, calibrated on the validation part; None for neither.
        survival_at: times at which ``survival_<time>`` is the chance that the event is later.

    Returns:
        The columns written, ``(n,)`` each.

    Raises:
        OutputExistsError: ``out_path`` exists.
        DataError: no run there, or an input file that is missing, malformed or does not fit.
        InputError: an output of unknown kind, a kept column with the name of another one, or a task without what is
            asked for.
    """
    out_path = Path(out_path)
    check_output(out_path, format)
    opened = load_run(run)
    beside: Beside | None = None
    if coverage is not None or survival_at:
        beside = partial(Certainty(opened).columns, coverage=coverage, times=survival_at)
    pieces = list(predict_pieces(opened, input_path, SourceOptions.of(source), beside))
    columns = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    warn_unconverged(convergence_of(columns), str(input_path))
    write_columns(out_path, columns, format, opened.task.records)
    return columns


def predict_pieces(
    run: Run, input_path: PathLike, source: SourceOptions | None = None, beside: Beside | None = None
) -> Iterator[Columns]:
    """The columns of :func:`predict_run` piece by piece, as the file is read; nothing is said if some did not converge.

    Args:
        run: the run.
        input_path: see :func:`predict_run`.
        source: likewise; with options, a table is read as a whole.
        beside: further columns of the model's outputs.

    Yields:
        One piece or more, each of one row or more.

    Raises:
        DataError: the file is missing, malformed, does not fit, or has no rows.
    """
    path, source = Path(input_path), source or SourceOptions()
    options, asked = run.wanted(), source.given()
    if (
        asked
        or options.reading
        or options.contents
        or path.is_dir()
        or (is_table(path) and path.suffix != ".parquet" and path.is_file())
    ):
        found = read_rows(path, options, source)
        for note in found.notes:
            warnings.warn(note, stacklevel=2)
        pieces: Iterable[Split] = [found.split]
    else:
        pieces = datasets.read_input_pieces(path, options.shapes, options.features, schema=options.schema)
    rows = 0
    for split in pieces:
        if len(split):
            yield predict_split(run, split, rows, beside)
            rows += len(split)
    if rows == 0:
        raise DataError(f"{path} has no rows")


def predict_split(run: Run, split: Split, first: int = 0, beside: Beside | None = None) -> Columns:
    """Predict rows, and say nothing if some did not converge.

    Args:
        run: the run.
        split: one row or more, as :func:`equifuse.data.read_inputs` gives them.
        first: number of the first row, for rows without ids.
        beside: further columns of the model's outputs.

    Returns:
        The columns of :func:`predict_run`.
    """
    numbers = np.arange(first, first + len(split))
    columns: Columns = {"row": numbers} if split.ids is None else {"id": split.ids}
    columns |= {name: column for name, column in split.columns.items() if name != ROW}
    kept = set(columns)
    outputs = _predict_quietly(run.model, batches_of(split))
    solved = {"converged": outputs.converged, "residual": outputs.residual, "steps": outputs.steps}
    said = run.task.predict(outputs.prediction) | ({} if beside is None else beside(outputs.prediction))
    said |= {name: values.numpy() for name, values in solved.items() if values is not None}
    for name in kept & set(said):
        raise InputError(f"column {name!r} cannot be kept: predictions have one of that name")
    return columns | said


def convergence_of(columns: Columns) -> dict[str, float] | None:
    """Share of rows converged and the largest residual, or None where nothing was solved for."""
    if "converged" not in columns:
        return None
    return {"converged": float(columns["converged"].mean()), "max_residual": float(columns["residual"].max())}


def predict_batches(model: FusionModel, batches: Batches, where: str) -> Evaluation:
    """The raw outputs of a model in evaluation mode on all batches, and one warning if some did not converge.

    Args:
        model: the model.
        batches: what to predict.
        where: what that is, for the warning.
    """
    joined = _predict_quietly(model, batches)
    warn_unconverged(joined.convergence(), where)
    return joined


def _predict_quietly(model: FusionModel, batches: Batches) -> Evaluation:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # one for the whole file instead
        return join([result_of(model(b.inputs, b.present, lengths=b.lengths)) for b in batches])
