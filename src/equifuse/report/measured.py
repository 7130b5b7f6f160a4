"""What an evaluation is written as: JSON, tables, plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equifuse.evaluation.survival import SurvivalScores
from equifuse.files import atomic_folder, write_json
from equifuse.report import plots
from equifuse.runs.evaluate import Measured
from equifuse.runs.output import write_columns
from equifuse.tasks import Columns


def write_measured(found: Measured, folder: Path) -> None:
    """Write what :func:`~equifuse.runs.measure_run` gives into a new folder.

    ``metrics.json`` has all of it, ``metrics.csv``, ``classes.csv``, ``confusion.csv`` and ``by.csv`` the tables,
    ``predictions.csv`` a line for each sample; ``plots/`` the confusion matrix and the scores of each part.

    Args:
        found: what was measured.
        folder: to create.

    Raises:
        OutputExistsError: the folder exists.
    """
    headline = found.headline
    with atomic_folder(folder) as staging:
        write_json(staging / "metrics.json", found.to_dict())
        write_columns(staging / "metrics.csv", _metrics(found))
        write_columns(staging / "predictions.csv", found.predictions)
        if found.by_class:
            of_class = [each.to_dict() for each in found.by_class]
            write_columns(staging / "classes.csv", {key: _values([c[key] for c in of_class]) for key in of_class[0]})
        if found.confusion_matrix is not None and found.classes:
            columns = np.array(found.confusion_matrix).T
            table = {"class": np.array(found.classes)}
            table |= {f"predicted {name}": column for name, column in zip(found.classes, columns, strict=True)}
            write_columns(staging / "confusion.csv", table)
            plots.save(plots.confusion(found.confusion_matrix, found.classes), staging / "plots" / "confusion.png")
        if found.survival is not None:
            _write_survival(found.survival, staging)
        if found.by:
            write_columns(staging / "by.csv", _parts(found))
            drawn = {
                value: (score, *part.intervals[headline])
                for value, part in found.by.items()
                if (score := part.metrics.get(headline)) is not None and headline in part.intervals
            }
            if drawn:
                plots.save(plots.scores({"": drawn}, headline), staging / "plots" / "by.png")


def _write_survival(found: SurvivalScores, folder: Path) -> None:
    rows = [
        (name, *values)
        for name, c in found.curves.items()
        for values in zip(c.time, c.share, c.low, c.high, strict=True)
    ]
    columns = zip(("group", "time", "share", "low", "high"), zip(*rows, strict=True), strict=True)
    write_columns(folder / "survival.csv", {name: np.array(values) for name, values in columns})
    plots.save(plots.survival_curves(found.curves, p=found.log_rank), folder / "plots" / "survival.png")
    if found.auc:
        figure = plots.over_time(found.times, found.auc, "AUC of having had the event", reference=0.5)
        plots.save(figure, folder / "plots" / "auc_over_time.png")


def _metrics(found: Measured) -> Columns:
    names = list(found.metrics)
    ends = [found.intervals.get(name, (np.nan, np.nan)) for name in names]
    return {
        "metric": np.array(names),
        "value": _values([found.metrics[name] for name in names]),
        "low": np.array([low for low, _ in ends]),
        "high": np.array([high for _, high in ends]),
        **({"baseline": _values([found.baseline.get(name) for name in names])} if found.baseline else {}),
    }


def _parts(found: Measured) -> Columns:
    parts = list(found.by.items())
    columns: Columns = {"value": np.array([value for value, _ in parts]), "n": np.array([p.n for _, p in parts])}
    for name in found.metrics:
        columns[name] = _values([part.metrics.get(name) for _, part in parts])
        if name == found.headline:
            for k, end in enumerate(("low", "high")):
                columns[f"{name} {end}"] = _values([part.intervals.get(name, (None, None))[k] for _, part in parts])
    return columns


def _values(values: Sequence[object]) -> NDArray[Any]:
    """Numbers with NaN where there are none, or text."""
    if any(isinstance(value, str) for value in values):
        return np.array(values)
    return np.array([np.nan if value is None else value for value in values])
