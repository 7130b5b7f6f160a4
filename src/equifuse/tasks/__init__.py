"""Tasks: loss, targets, metrics and reading of raw outputs. One file per task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from equifuse.data.batch import Batch
from equifuse.registry import TASKS
from equifuse.tasks import extra  # noqa: F401 - registers its metrics
from equifuse.tasks.base import Columns, Task
from equifuse.tasks.boxes import Boxes
from equifuse.tasks.classification import Classification
from equifuse.tasks.detection import Detection3D
from equifuse.tasks.evaluated import Evaluation
from equifuse.tasks.metrics import Detailed, Measurement, Metric, metric
from equifuse.tasks.multilabel import Multilabel
from equifuse.tasks.regression import Regression
from equifuse.tasks.retrieval import Retrieval
from equifuse.tasks.several import Mixture, Several
from equifuse.tasks.survival import Survival
from equifuse.tasks.targets import Classes, EventTimes, Labels, OptionalClasses, Quantities, Targets
from equifuse.tasks.vqa import VQA, Answers

__all__ = [
    "VQA",
    "Answers",
    "Batch",
    "Boxes",
    "Classes",
    "Classification",
    "Columns",
    "Detailed",
    "Detection3D",
    "Evaluation",
    "EventTimes",
    "Labels",
    "Measurement",
    "Metric",
    "Mixture",
    "Multilabel",
    "OptionalClasses",
    "Quantities",
    "Regression",
    "Retrieval",
    "Several",
    "Survival",
    "Targets",
    "Task",
    "make_task",
    "metric",
]

for _kind in (Classification, Detection3D, Multilabel, Regression, Retrieval, Several, Survival, VQA):
    TASKS.register(_kind)


def make_task(
    name: str,
    *,
    metrics: Iterable[str] | str = (),
    monitor: str | None = None,
    offered: Mapping[str, Any] | None = None,
    **options: Any,
) -> Task:
    """A task by name.

    Example:
        >>> task = make_task("classification", metrics="f1_macro", monitor="val_auc")
        >>> task.headline, task.monitor, task.mode
        ('f1_macro', 'auc', 'max')

    Args:
        name: ``"classification"``, ``"detection3d"``, ``"multilabel"``, ``"regression"``, ``"retrieval"``,
            ``"several"``, ``"survival"``, ``"vqa"``, or that of a registered task.
        metrics: names of metrics that are measured beside the task's own, of :data:`equifuse.registry.METRICS`, or of
            its own; the first one becomes the headline.
        monitor: name of the metric that early stopping watches, with or without ``val_`` before it; None for the
            task's usual one.
        offered: options that are only passed on if the task has them, such as ``classes`` and ``modalities``.
        **options: as the task's class has them.

    Raises:
        UnknownNameError: no such task or metric.
        InputError: an option the task does not have, or a value out of range.
    """
    if offered:
        known = TASKS.options(str(name))
        options = {**{option: value for option, value in offered.items() if option in known}, **options}
    task: Task = TASKS.make(str(name), **options)
    return task.choose_metrics(metrics, monitor)
