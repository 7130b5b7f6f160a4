"""How far metrics may be off because the samples are few: percentile intervals by the bootstrap."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equifuse.tasks import Task

DRAWS = 200
LEVEL = 0.95


def bootstrap_intervals(
    task: Task,
    prediction: Tensor,
    target: Tensor | None,
    *,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
    groups: NDArray[np.generic] | None = None,
    only: Iterable[str] | None = None,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of a task's metrics over resampled samples.

    Example:
        >>> import torch
        >>> from equifuse.evaluation.intervals import bootstrap_intervals
        >>> from equifuse.tasks import make_task
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]]).repeat(50, 1)
        >>> target = torch.tensor([0, 1]).repeat(50)
        >>> bootstrap_intervals(make_task("classification"), logits, target, only=["accuracy"])
        {'accuracy': (1.0, 1.0)}

    Args:
        task: whose metrics.
        prediction: raw outputs ``(n, K)`` on the CPU.
        target: as the task has it.
        draws: how often ``n`` samples are drawn with replacement.
        level: share of the draws that lies within an interval.
        seed: of the draws.
        groups: ``(n,)``, such as the patient: whole groups are drawn, since rows of one are not independent.
        only: names of the metrics; None for all of the task.

    Returns:
        Metric -> lowest and highest value; without metrics that are undefined in most draws. Empty where a sample drawn
        twice makes the task easier or harder, as in retrieval, where measuring takes long, as in detection, or where
        there are no targets.
    """
    if target is None or not (task.hidden_at_rates and task.resamples):
        return {}
    found: dict[str, list[float]] = {}
    for rows in resampled(len(prediction), draws, seed, groups):
        for name, value in task.measure(prediction[rows], target[rows], only).values.items():
            if value is not None:
                found.setdefault(name, []).append(value)
    ends = {name: percentiles(values, draws, level) for name, values in found.items()}
    return {name: interval for name, interval in ends.items() if interval is not None}


def bootstrap_difference(
    task: Task,
    first: Tensor,
    second: Tensor,
    target: Tensor | None,
    *,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
    groups: NDArray[np.generic] | None = None,
) -> tuple[float, float] | None:
    """How much better one model's headline metric is than another's on the same samples: ends of the interval.

    Example:
        >>> import torch
        >>> from equifuse.evaluation.intervals import bootstrap_difference
        >>> from equifuse.tasks import make_task
        >>> right = torch.tensor([[2.0, 0.0], [0.0, 2.0]]).repeat(50, 1)
        >>> target = torch.tensor([0, 1]).repeat(50)
        >>> bootstrap_difference(make_task("classification"), right, -right, target)
        (1.0, 1.0)

    Args:
        task: whose headline metric.
        first: raw outputs ``(n, K)`` of the one.
        second: of the other.
        target: as the task has it.
        draws: see :func:`bootstrap_intervals`.
        level: likewise.
        seed: likewise.
        groups: likewise.

    Returns:
        Positive where the first is better, whichever way the metric is; None where most draws leave it undefined.
    """
    if target is None or not task.hidden_at_rates:
        return None
    sign = 1.0 if task.metric(task.headline).mode == "max" else -1.0
    found = []
    for rows in resampled(len(first), draws, seed, groups):
        one, other = (
            task.measure(p[rows], target[rows], [task.headline]).values[task.headline] for p in (first, second)
        )
        if one is not None and other is not None:
            found.append(sign * (one - other))
    return percentiles(found, draws, level)


def percentiles(values: Sequence[float], draws: int, level: float = LEVEL) -> tuple[float, float] | None:
    """The ends of a percentile interval; None where no more than half of the draws have a value.

    Args:
        values: of the draws that have one.
        draws: how many there were.
        level: share of the values that lies within.
    """
    if len(values) <= draws / 2:
        return None
    tail = 100 * (1 - level) / 2
    return float(np.percentile(values, tail)), float(np.percentile(values, 100 - tail))


def resampled(count: int, draws: int, seed: int = 0, groups: NDArray[np.generic] | None = None) -> Iterator[Tensor]:
    """Rows of each bootstrap draw, int64 ``(n,)``; whole groups where there are some.

    Args:
        count: number of samples.
        draws: how many.
        seed: of the draws.
        groups: ``(count,)`` or None.
    """
    generator = np.random.default_rng(seed)
    members = members_of(groups)
    for _ in range(draws):
        yield torch.from_numpy(draw(generator, count, members))


def members_of(groups: NDArray[np.generic] | None) -> list[NDArray[np.int64]] | None:
    """The rows of each group, for :func:`draw`; None where there are no groups."""
    return None if groups is None else [np.flatnonzero(groups == group) for group in np.unique(groups)]


def draw(
    generator: np.random.Generator, count: int, members: Sequence[NDArray[np.int64]] | None, most: int | None = None
) -> NDArray[np.int64]:
    """Rows of one bootstrap draw, with replacement.

    Args:
        generator: of random numbers.
        count: number of samples.
        members: see :func:`members_of`; whole groups are drawn, as many as there are.
        most: rows at most, without groups.
    """
    if members is None:
        return generator.integers(0, count, count if most is None else min(count, most))
    return np.concatenate([members[i] for i in generator.integers(0, len(members), len(members))])
