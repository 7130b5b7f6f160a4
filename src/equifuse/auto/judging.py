"""What predictions of rows that a model was not trained on are worth: fold by fold, as a task has it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equifuse.data import Split
from equifuse.data.lazy import Indices
from equifuse.data.loaders import mix
from equifuse.evaluation.conditions import keep_some
from equifuse.evaluation.intervals import draw, members_of, percentiles
from equifuse.tasks import Task
from equifuse.training.rules import still_to_hide

# Rows that differences are drawn from: more say no more about chance.
_MOST = 4000
_DRAWS = 300


class Judge:
    """The cost of raw outputs: the task's monitored value, the mean over the folds, each by its number of rows.

    Models of different folds may count in different units, such as the log-risks of a survival model, so that each fold
    is judged on its own.

    >>> from equifuse.auto.judging import Judge
    >>> judge = Judge(ef.tasks.make_task("regression"), np.zeros((4, 1), np.float32), [np.arange(2), np.arange(2, 4)])
    >>> judge.cost(torch.tensor([[1.0], [1], [3], [3]])), judge.cost(torch.tensor([[1.0], [1], [3], [3]]), [0])
    (5.0, 1.0)

    Args:
        task: whose monitor and headline.
        target: of the rows.
        folds: rows of each.
        groups: ``(n,)``, what belongs together, such as the patient; None where rows are independent.
    """

    def __init__(
        self,
        task: Task,
        target: NDArray[Any] | None,
        folds: Sequence[Indices],
        groups: NDArray[np.generic] | None = None,
    ) -> None:
        self.task, self.folds, self.groups = task, [torch.from_numpy(np.asarray(fold)) for fold in folds], groups
        self.target = None if target is None else torch.from_numpy(target)
        self.sign = 1.0 if task.mode == "min" else -1.0

    def cost(self, outputs: Tensor, folds: Iterable[int] | None = None) -> float:
        """Less is better; infinite where it has no value.

        Args:
            outputs: ``(n, ...)`` of all rows.
            folds: numbers of those that count; default all.
        """
        chosen = self.folds if folds is None else [self.folds[f] for f in folds]
        return self._over(outputs, chosen, self.task.monitor, self.sign)

    def only(self, folds: Iterable[int]) -> Judge:
        """The judge of some folds alone."""
        return Judge(
            self.task,
            None if self.target is None else self.target.numpy(),
            [self.folds[f].numpy() for f in folds],
            self.groups,
        )

    def value(self, outputs: Tensor, metric: str, folds: Iterable[int] | None = None) -> float | None:
        """A metric, fold by fold, as :meth:`cost`."""
        chosen = self.folds if folds is None else [self.folds[f] for f in folds]
        found = self._over(outputs, chosen, metric, 1.0)
        return None if math.isinf(found) else found

    def _over(self, outputs: Tensor, folds: Sequence[Tensor], metric: str, sign: float) -> float:
        total, count = 0.0, 0
        for rows in folds:
            target = None if self.target is None else self.target[rows]
            value = self.task.measure(outputs[rows], target, [metric]).values.get(metric)
            if value is not None and math.isfinite(value):
                total, count = total + sign * value * len(rows), count + len(rows)
        return total / count if count else math.inf

    def difference(self, one: Tensor, other: Tensor, seed: int = 0) -> tuple[float, float, float] | None:
        """What ``one`` is ahead of ``other`` in the monitored value, and its 95 % interval; above 0 is better.

        The same rows, whole groups where there are some, are drawn for both with replacement.

        Args:
            one: outputs.
            other: outputs for the same rows.
            seed: of the draws.

        Returns:
            The gain, and the ends of its interval; None where it has no value.
        """
        gain = self.cost(other) - self.cost(one)
        if not math.isfinite(gain):
            return None
        generator = np.random.default_rng(seed)
        most = max(1, _MOST // len(self.folds))
        members = [members_of(None if self.groups is None else self.groups[rows.numpy()]) for rows in self.folds]
        found = []
        for _ in range(_DRAWS):
            drawn = [
                rows[torch.from_numpy(draw(generator, len(rows), of_fold, most))]
                for rows, of_fold in zip(self.folds, members, strict=True)
            ]
            costs = [self._over(outputs, drawn, self.task.monitor, self.sign) for outputs in (other, one)]
            if all(math.isfinite(cost) for cost in costs):
                found.append(costs[0] - costs[1])
        ends = percentiles(found, _DRAWS)
        return None if ends is None else (gain, *ends)


def as_expected(split: Split, expected: dict[str, float], seed: int, number: int = 0) -> Split:
    """The rows with as many modalities missing as are expected to be; a row keeps the last one that it has.

    >>> from equifuse.auto.judging import as_expected
    >>> split = ef.datasets.load("digits").splits["val"]
    >>> round(float(as_expected(split, {"pixels": 0.5}, 0).present["pixels"].mean()), 1)
    0.5

    Args:
        split: the rows.
        expected: modality -> share of samples that will lack it.
        seed: of what is hidden.
        number: of the fold.
    """
    names = list(split.inputs)
    here = [split.present.get(m, np.ones(len(split), dtype=np.bool_)) for m in names]
    rates = [still_to_hide(expected.get(m, 0.0), 1 - float(mask.mean())) for m, mask in zip(names, here, strict=True)]
    draws = torch.Generator().manual_seed(mix(seed, number) % 2**62)
    keep = keep_some(torch.from_numpy(np.stack(here)), torch.tensor(rates)[:, None], draws).numpy()
    return replace(split, present=dict(zip(names, keep, strict=True)))
