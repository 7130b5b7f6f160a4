"""Evaluate a finished run."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equifuse.data import Split
from equifuse.data.assemble import ROW
from equifuse.data.loaders import batches_of
from equifuse.data.options import SourceOptions
from equifuse.errors import ConvergenceWarning, DataError, UnknownNameError
from equifuse.evaluation.conditions import Without
from equifuse.evaluation.evaluate import warn_unconverged
from equifuse.evaluation.intervals import bootstrap_intervals
from equifuse.evaluation.survival import SurvivalScores, columns_of, survival_scores
from equifuse.evaluation.verdict import ClassScores, class_scores, concerns
from equifuse.model import Ensemble
from equifuse.records import OPTIONAL, Record, plain
from equifuse.runs.folder import METRICS, PathLike, Run, load_run
from equifuse.runs.metrics import RunMetrics
from equifuse.runs.samples import samples_of
from equifuse.tasks import Columns, Evaluation
from equifuse.tasks.base import output_names
from equifuse.training.mix import Mix

Metrics = dict[str, float | None]
_LEAST = 2


@dataclass(frozen=True)
class Measured:
    """The result of :func:`measure_run`: metrics with intervals, what to compare them with, and what looks wrong.

    >>> run = train(TrainConfig("digits", fusion="concat", epochs=1), "run", progress=False).path
    >>> found = measure_run(run)
    >>> found.n, len(found.confusion_matrix), found.baseline["accuracy"] < found.metrics["accuracy"]
    (359, 10, True)

    Attributes:
        n: samples.
        metrics: metric -> value; None where it is undefined.
        convergence: share converged, steps and residual, or None for a closed-form fusion.
        intervals: metric -> lowest and highest value in 95 % of bootstrap draws; {} where they mean nothing.
        classes: names of the classes in classification, else None.
        confusion_matrix: samples of each class (rows) by predicted class (columns), else None.
        undefined: metric -> why it has no value.
        baseline: metric -> value of what is predicted from the training targets alone, such as the most frequent class;
            {} where there is no such thing.
        by_class: each class, in classification.
        by: value of a column -> the same for the rows that have it; {} where no column was named.
        notes: what was measured, and what looks wrong, in words.
        survival: curves by risk, hazard ratios and scores over time, for times to an event; None for other tasks, and
            without scikit-survival.
        alone: modality -> metrics of what it says alone, from the same model, over the samples that have it; {} where
            the model has no such outputs.
        mix: of what the fusion and the modalities alone say, as training fitted it.
        headline: the metric to show where there is room for one.
        predictions: a row for each sample: its id, kept columns, target, and what the model says; not in ``to_dict``.
    """

    n: int
    metrics: Metrics
    convergence: dict[str, float] | None = None
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    classes: list[str] | None = None
    confusion_matrix: list[list[int]] | None = None
    undefined: dict[str, str] = field(default_factory=dict)
    baseline: Metrics = field(default_factory=dict)
    by_class: list[ClassScores] = field(default_factory=list)
    by: dict[str, Part] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    survival: SurvivalScores | None = None
    alone: dict[str, Metrics] = field(default_factory=dict)
    mix: Mix | None = None
    headline: str = ""
    predictions: Columns = field(default_factory=dict, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; classes only where there are some."""
        values: dict[str, Any] = {
            "n": self.n,
            "metrics": self.metrics,
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "baseline": self.baseline,
            "convergence": self.convergence,
        }
        if self.confusion_matrix is not None:
            values |= {
                "classes": self.classes,
                "confusion_matrix": self.confusion_matrix,
                "by_class": [each.to_dict() for each in self.by_class],
            }
        survival = None if self.survival is None else self.survival.to_dict()
        optional = {
            "undefined": self.undefined,
            "by": plain(self.by),
            "alone": self.alone,
            "mix": None if self.mix is None else self.mix.to_dict(),
            "survival": survival,
            "notes": self.notes,
        }
        return values | {name: value for name, value in optional.items() if value}


@dataclass(frozen=True, eq=False)
class Part(Record):
    """Some of the samples of :class:`Measured`, such as those of one site.

    >>> Part(12, {"accuracy": 0.75}).n
    12

    Attributes:
        n: samples.
        metrics: metric -> value; None where it is undefined.
        intervals: as of :class:`Measured`, of the headline metric.
        undefined: metric -> why it has no value.
    """

    n: int
    metrics: Metrics
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    undefined: dict[str, str] | None = field(default=None, metadata=OPTIONAL)


def measure_run(
    run: PathLike,
    data: str | None = None,
    split: str | None = None,
    without: Iterable[str] = (),
    *,
    source: SourceOptions | Mapping[str, Any] | None = None,
    by: str | None = None,
    intervals: bool = True,
) -> Measured:
    """Measure a finished run, with intervals, a baseline and, in classification, each class.

    >>> run = train(TrainConfig("digits", fusion="concat", epochs=1), "run", progress=False).path
    >>> low, high = measure_run(run).intervals["accuracy"]
    >>> low < high
    True

    Args:
        run: the run folder.
        data: name or path of other data; default those it was trained on. All of their rows are measured, and no file
            of training is read.
        split: ``"train"``, ``"val"`` or ``"test"``; default "test" of the run's own data, and all rows of others.
        without: modalities to take away from every sample.
        source: which columns and files of other data are what; a target and id that are not named are called as in
            training.
        by: a column: also measure the rows of each of its values.
        intervals: whether to draw bootstrap samples; whole groups where the run keeps groups together.

    Raises:
        DataError: no finished run there, or data that cannot be used or do not fit the model.
        UnknownNameError: an unknown data set, split, modality or class.
        InputError: no modality left, or widths that do not fit.
    """
    opened = load_run(run)
    samples, notes = samples_of(opened, data, split, SourceOptions.of(source), keep=(by,) if by else ())
    if data is None and split in ("train", "val") and isinstance(opened.model, Ensemble):
        notes = [
            *notes,
            f"members were trained on rows of {split}; metrics.json has scores of unseen rows",
        ]
    taken = tuple(without)
    for name in taken:
        if name not in opened.model.modalities:
            raise UnknownNameError("modality", name, opened.model.modalities)
    samples = Without(taken)(samples) if taken else samples
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        evaluation = opened.task.evaluate(opened.model, batches_of(samples))
    warn_unconverged(evaluation.convergence(), str(data or f"the {split or 'test'} part of {opened.config.data!r}"))
    return _measured(opened, samples, evaluation, notes, by, intervals)


def _measured(
    run: Run, samples: Split, evaluation: Evaluation, notes: list[str], by: str | None, intervals: bool
) -> Measured:
    task, prediction = run.task, evaluation.prediction
    target = None if samples.target is None else torch.from_numpy(samples.target)
    trained = SourceOptions.of(run.config.source)
    groups = samples.columns.get(trained.group) if trained.group else None
    confusion = None if target is None else task.confusion(prediction, target)
    classes = None if confusion is None else list(output_names(task.classes, len(confusion)))
    by_class = [] if confusion is None or classes is None else class_scores(confusion, classes)
    baseline: Metrics = {}
    known = run.record.get("baseline")
    if known is not None and target is not None:
        constant = torch.tensor(known, dtype=prediction.dtype).expand(len(prediction), -1)
        baseline = dict(task.measure(constant, target).values)
    parts: dict[str, Part] = {}
    if by is not None:
        column = samples.columns[by]
        for value in np.unique(column):
            rows = np.flatnonzero(column == value)
            index = torch.from_numpy(rows)
            some = None if target is None else target[index]
            found = task.assess(prediction[index], some)
            drawn = {}
            if intervals and len(rows) >= _LEAST:
                drawn = bootstrap_intervals(task, prediction[index], some, only=[task.headline])
            parts[str(value)] = Part(len(rows), found.values, drawn, found.undefined or None)
    survival = None
    if task.time_to_event and target is not None and intervals:
        survival, said = _survival(run, prediction, target)
        notes = [*notes, *said]
    return Measured(
        n=len(samples),
        metrics=evaluation.metrics,
        convergence=evaluation.convergence(),
        intervals=bootstrap_intervals(task, prediction, target, groups=groups) if intervals else {},
        classes=classes,
        confusion_matrix=None if confusion is None else confusion.tolist(),
        undefined=evaluation.undefined,
        baseline=baseline,
        by_class=by_class,
        by=parts,
        notes=[*notes, *concerns(task, evaluation.metrics, baseline, by_class)],
        survival=survival,
        alone={m: dict(each.values) for m, each in task.measure_alone(evaluation.unimodal, target).items()},
        mix=RunMetrics.read(run.path / METRICS).mix,
        headline=task.headline,
        predictions=_predictions(run, samples, evaluation),
    )


def _survival(run: Run, prediction: Tensor, target: Tensor) -> tuple[SurvivalScores | None, list[str]]:
    """Survival curves and scores, and why there are none."""
    if find_spec("sksurv") is None:
        return None, ["for survival curves, hazard ratios and Brier scores: pip install 'equifuse[survival]'"]
    try:
        train = run.dataset().splits["train"]
    except DataError as error:
        return None, [f"no survival curves, their cut and baseline are those of the training data: {error}"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        known = run.task.evaluate(run.model, batches_of(train)).prediction
    found = survival_scores(columns_of(known, train.target), columns_of(prediction, target))
    return found, [f"{name} of survival: {why}" for name, why in found.undefined.items()]


def _predictions(run: Run, samples: Split, evaluation: Evaluation) -> Columns:
    """Each sample: what it is called, kept columns, target, prediction."""
    called = {ROW: samples.columns.get(ROW, np.arange(len(samples)))} if samples.ids is None else {"id": samples.ids}
    kept = {name: column for name, column in samples.columns.items() if name != ROW}
    targets = {} if samples.target is None else run.task.targets.columns(samples.target, run.model.classes)
    said = run.task.predict(evaluation.prediction)
    return {**called, **kept, **targets, **said}


def evaluate_run(
    run: PathLike, data: str | None = None, split: str | None = None, without: Iterable[str] = ()
) -> Metrics:
    """Metrics of a finished run on a split, also without some of the modalities.

    >>> run = train(TrainConfig("digits", fusion="concat", epochs=1), "run", progress=False).path
    >>> found = evaluate_run(run, without=["pixels"])
    >>> 0 < found["accuracy"] <= 1
    True

    It is :func:`measure_run` without intervals, as one mapping.

    Args:
        run: the run folder.
        data: see :func:`measure_run`.
        split: likewise.
        without: modalities to take away from every sample.

    Returns:
        Metric name -> value, and ``converged``, ``mean_steps``, … where the fusion solves for an equilibrium.

    Raises:
        DataError: no finished run there, or data that cannot be used or do not fit the model.
        UnknownNameError: an unknown data set, split or modality.
        InputError: no modality left, or widths that do not fit.
    """
    measured = measure_run(run, data, split, without, intervals=False)
    return {**measured.metrics, **(measured.convergence or {})}
