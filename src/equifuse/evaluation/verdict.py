"""What scores do not say by themselves: how each class fares, and what looks wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from equifuse.records import Record
from equifuse.tasks import Task
from equifuse.tasks.metrics import LOSS

Metrics = Mapping[str, float | None]
_NAMED = 5
# Deviations of a mean above 0 that chance reaches in one of 20 cases.
_SURE = 1.645


@dataclass(frozen=True, eq=False)
class ClassScores(Record):
    """One class of a classification.

    Example:
        >>> import numpy as np
        >>> from equifuse.evaluation.verdict import class_scores
        >>> cat, dog = class_scores(np.array([[8, 2], [1, 9]]), ["cat", "dog"])
        >>> cat.precision, cat.recall, cat.n, cat.predicted
        (0.8888888888888888, 0.8, 10, 9)

    Attributes:
        name: of the class.
        n: samples of it.
        predicted: samples that are predicted to be of it.
        precision: share of those that are; None if there are none.
        recall: share of its samples that are predicted as such; None if there are none.
        f1: harmonic mean of both; None where the class neither occurs nor is predicted.
    """

    name: str
    n: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float | None


def class_scores(confusion: NDArray[np.int64], names: Sequence[str]) -> list[ClassScores]:
    """Each class of a confusion matrix, true classes in rows."""
    found = []
    for k, name in enumerate(names):
        hits, n, predicted = int(confusion[k, k]), int(confusion[k].sum()), int(confusion[:, k].sum())
        precision, recall = hits / predicted if predicted else None, hits / n if n else None
        f1 = 2 * hits / (n + predicted) if n + predicted else None
        found.append(ClassScores(str(name), n, predicted, precision, recall, f1))
    return found


def concerns(task: Task, metrics: Metrics, baseline: Metrics, classes: Sequence[ClassScores] = ()) -> list[str]:
    """What looks wrong, in words: classes that are never predicted, and scores that knowing nothing would reach.

    Args:
        task: which metric is the headline, and which way it is better.
        metrics: of the model.
        baseline: of a prediction from the training targets alone.
        classes: of a classification.
    """
    said = []
    never = [f"{c.name} ({c.n} samples)" for c in classes if c.n and not c.predicted]
    if never:
        more = f" and {len(never) - _NAMED} more" if len(never) > _NAMED else ""
        verb = "is" if len(never) == 1 else "are"
        said.append(f"never predicted {verb}: {', '.join(never[:_NAMED])}{more}; try --balanced, or more epochs")
    for name in dict.fromkeys((task.headline, LOSS.name)):
        reached, known = metrics.get(name), baseline.get(name)
        if reached is None or known is None:
            continue
        better = reached > known if task.metric(name).mode == "max" else reached < known
        if not better:
            said.append(f"{name} {reached:.4f} is no better than {known:.4f}, which needs no features at all")
    return said


def surely_better(losses: Tensor, others: Tensor) -> bool:
    """Whether losses of the same samples are less than others by more than chance, with 95 % confidence.

    >>> from equifuse.evaluation.verdict import surely_better
    >>> others = torch.tensor([1.0, 2.0, 3.0, 4.0])
    >>> surely_better(others - 1, others), surely_better(others + torch.tensor([1.0, -1.5, 1.0, -1.5]), others)
    (True, False)

    Args:
        losses: ``(n,)``.
        others: ``(n,)``.
    """
    gains = (others - losses).double()
    return len(gains) > 1 and float(gains.mean()) > _SURE * float(gains.std()) / math.sqrt(len(gains))
