"""Which predictions go into an ensemble, and with what weight: greedy selection with replacement."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

STEPS = 25
# Steps without any gain after which no more is expected.
_PATIENCE = 5
# A gain below this share of the cost is none.
_LEAST = 1e-6


def greedy_weights(
    outputs: Sequence[Tensor],
    cost: Callable[[Tensor], float],
    average: Callable[[Tensor, Tensor], Tensor],
    steps: int = STEPS,
) -> list[float]:
    """Weights of predictions whose average costs little (Caruana et al. 2004).

    Begin with the best; again and again add the one, perhaps once more, with which the average is best; keep the
    shortest of the best beginnings. What never helps has the weight 0, so that the result costs no more than the best.

    >>> from equifuse.auto.selection import greedy_weights
    >>> target = torch.zeros(4)
    >>> outputs = [torch.tensor([1.0, 1, 1, 1]), torch.tensor([-1.0, -1, -1, -1]), torch.full((4,), 9.0)]
    >>> mean = lambda each, weights: torch.einsum("e,e...->...", weights, each)
    >>> greedy_weights(outputs, lambda out: float((out - target).square().mean()), mean)
    [0.5, 0.5, 0.0]

    Args:
        outputs: of each candidate for the same samples.
        cost: of outputs; less is better, infinite where it has no value.
        average: of outputs ``(E, n, ...)`` by weights ``(E,)`` that add up to 1.
        steps: additions, at most.

    Returns:
        A weight of each, adding up to 1.
    """
    costs = [cost(each) for each in outputs]
    first = min(range(len(outputs)), key=lambda e: costs[e])
    chosen, current = [first], outputs[first]
    best, length = costs[first], 1
    for step in range(1, steps):
        shares = torch.tensor([step / (step + 1), 1 / (step + 1)], dtype=current.dtype)
        tried = [average(torch.stack([current, each]), shares) for each in outputs]
        costs = [cost(each) for each in tried]
        e = min(range(len(outputs)), key=lambda e: costs[e])
        chosen.append(e)
        current = tried[e]
        if costs[e] < best - _LEAST * abs(best) or (math.isinf(best) and costs[e] < best):
            best, length = costs[e], step + 1
        elif step + 1 - length >= _PATIENCE:
            break
    kept = chosen[:length]
    return [kept.count(e) / length for e in range(len(outputs))]
