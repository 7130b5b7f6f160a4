"""Tasks: loss, metrics and reading of raw outputs. One file per task."""

from __future__ import annotations

from typing import Any

from equifuse.errors import InputError, UnknownNameError
from equifuse.tasks.base import Batch, Columns, Evaluation, Task
from equifuse.tasks.classification import Classification
from equifuse.tasks.multilabel import Multilabel
from equifuse.tasks.regression import Regression
from equifuse.tasks.retrieval import Retrieval
from equifuse.tasks.survival import Survival

__all__ = [
    "TASKS",
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

TASKS: dict[str, type[Task]] = {
    kind.name: kind for kind in (Classification, Multilabel, Regression, Retrieval, Survival)
}


def make_task(name: str, **options: Any) -> Task:
    """A task by name.

    Args:
        name: ``"classification"``, ``"multilabel"``, ``"regression"``, ``"retrieval"`` or ``"survival"``.
        **options: ``classes`` for all; others as the task's class has them.

    Raises:
        UnknownNameError: no such task.
        InputError: an option the task does not have, or a value out of range.
    """
    if name not in TASKS:
        raise UnknownNameError("task", name, TASKS)
    try:
        return TASKS[name](**options)
    except TypeError as error:
        raise InputError(f"task {name!r}: {error}") from None
