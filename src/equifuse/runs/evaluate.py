"""Evaluate a finished run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from equifuse.data import load
from equifuse.evaluation.evaluate import evaluate_model
from equifuse.evaluation.intervals import bootstrap_intervals
from equifuse.runs.folder import PathLike, load_run
from equifuse.tasks.base import output_names

Metrics = dict[str, float | None]


@dataclass(frozen=True)
class Measured:
    """The result of :func:`measure_run`: metrics with intervals, and in classification the confusion matrix.

    >>> run = train(TrainConfig("digits", fusion="concat", epochs=1), "run", progress=False).path
    >>> found = measure_run(run)
    >>> found.n, len(found.confusion_matrix)
    (359, 10)

    Attributes:
        n: samples.
        metrics: metric -> value; None where it is undefined.
        convergence: share converged, steps and residual, or None for a closed-form fusion.
        intervals: metric -> lowest and highest value in 95 % of bootstrap draws; {} where they mean nothing.
        classes: names of the classes in classification, else None.
        confusion_matrix: samples of each class (rows) by predicted class (columns), else None.
        undefined: metric -> why it has no value.
    """

    n: int
    metrics: Metrics
    convergence: dict[str, float] | None = None
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    classes: list[str] | None = None
    confusion_matrix: list[list[int]] | None = None
    undefined: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; classes only where there are some."""
        values: dict[str, Any] = {
            "n": self.n,
            "metrics": self.metrics,
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "convergence": self.convergence,
        }
        if self.confusion_matrix is not None:
            values |= {"classes": self.classes, "confusion_matrix": self.confusion_matrix}
        return values | ({"undefined": self.undefined} if self.undefined else {})


def measure_run(
    run: PathLike, data: str | None = None, split: str = "test", without: Iterable[str] = (), *, intervals: bool = True
) -> Measured:
    """Measure a finished run, with intervals and, in classification, the confusion matrix.

    >>> run = train(TrainConfig("digits", fusion="concat", epochs=1), "run", progress=False).path
    >>> low, high = measure_run(run).intervals["accuracy"]
    >>> low < high
    True

    Args:
        run: the run folder.
        data: name or path of a data set; default the one it was trained on.
        split: ``"train"``, ``"val"`` or ``"test"``.
        without: modalities to take away from every sample.
        intervals: whether to draw bootstrap samples.

    Raises:
        DataError: no finished run there, or data that cannot be used or do not fit the model.
        UnknownNameError: an unknown data set, split or modality.
        InputError: no modality left, or widths that do not fit.
    """
    opened = load_run(run)
    config = opened.config
    if data is None:
        dataset = opened.dataset()
    else:
        dataset = load(data, val_fraction=config.val_fraction, seed=config.seed, source=config.source)
    evaluation = evaluate_model(opened.model, opened.task, dataset, split, tuple(without))
    given = dataset.splits[split].target
    target = None if given is None else torch.from_numpy(given)
    confusion = None if target is None else opened.task.confusion(evaluation.prediction, target)
    return Measured(
        len(dataset.splits[split]),
        evaluation.metrics,
        evaluation.convergence(),
        bootstrap_intervals(opened.task, evaluation.prediction, target) if intervals else {},
        None if confusion is None else list(output_names(opened.task.classes, len(confusion))),
        None if confusion is None else confusion.tolist(),
        evaluation.undefined,
    )


def evaluate_run(run: PathLike, data: str | None = None, split: str = "test", without: Iterable[str] = ()) -> Metrics:
    """Metrics of a finished run on a split, also without some of the modalities.

    >>> run = train(TrainConfig("digits", fusion="concat", epochs=1), "run", progress=False).path
    >>> found = evaluate_run(run, without=["pixels"])
    >>> 0 < found["accuracy"] <= 1
    True

    It is :func:`measure_run` without intervals, as one mapping.

    Args:
        run: the run folder.
        data: name or path of a data set; default the one it was trained on.
        split: ``"train"``, ``"val"`` or ``"test"``.
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
