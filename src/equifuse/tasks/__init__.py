"""Tasks: loss, metrics and reading of raw outputs. One file per task."""

from __future__ import annotations

from typing import Any

from equifuse.data.batch import Batch
from equifuse.registry import TASKS
from equifuse.tasks.base import Columns, Evaluation, Task
from equifuse.tasks.classification import Classification
from equifuse.tasks.multilabel import Multilabel
from equifuse.tasks.regression import Regression
from equifuse.tasks.retrieval import Retrieval
from equifuse.tasks.survival import Survival

__all__ = [
    "Batch",
    "Classification",
    "Columns",
    "Evaluation",
    "Multilabel",
    "Regression",
    "Retrieval",
    "Survival",
    "Task",
    "make_task",
]

for _kind in (Classification, Multilabel, Regression, Retrieval, Survival):
    TASKS.register(_kind)


def make_task(name: str, **options: Any) -> Task:
    """A task by name.

    Args:
        name: ``"classification"``, ``"multilabel"``, ``"regression"``, ``"retrieval"`` or ``"survival"``.
        **options: ``classes`` for all; others as the task's class has them.

    Raises:
        UnknownNameError: no such task.
        InputError: an option the task does not have, or a value out of range.
    """
    task: Task = TASKS.make(str(name), **options)
    return task
