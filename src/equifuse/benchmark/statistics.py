"""Comparing methods over seeds and data sets: intervals, paired tests, ranks. Pure functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Ranking:
    """Average ranks over data sets, and whether they differ (Demšar 2006, Journal of Machine Learning Research 7).

    Attributes:
        ranks: ``(k,)`` average ranks, 1 the best.
        friedman: p-value of Friedman's test that all methods are alike; NaN for fewer than three methods or two sets.
        critical: Nemenyi's critical difference: average ranks further apart differ at the 5 % level.
        sets: number of data sets.
    """

    ranks: Scores
    friedman: float
    critical: float
    sets: int


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Mean, and half the width of Student's confidence interval; NaN for a single value.

    Over the seeds of one split it covers the randomness of training, not that of drawing the test part.
    """
    from scipy.stats import t  # noqa: PLC0415

    x = np.asarray(values, dtype=np.float64)
    if len(x) < 2:
        return float(x.mean()), math.nan
    half = t.ppf(0.5 + level / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x))
    return float(x.mean()), float(half)


def paired_test(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p-value of the paired t-test; 1 where all differences are 0, NaN for fewer than two pairs.

    It is 0 where all are the same and not 0, as of methods without randomness.
    """
    from scipy.stats import ttest_1samp  # noqa: PLC0415

    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    if len(difference) < 2:
        return math.nan
    if np.ptp(difference) <= 1e-12 * max(1.0, float(np.abs(difference).max())):
        return 1.0 if abs(float(difference[0])) <= 1e-12 else 0.0
    return float(ttest_1samp(difference, 0.0).pvalue)


def signed_rank_test(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test over data sets; 1 where all differences are 0.

    Zero differences are shared out between both signs (Pratt). NaN for fewer than two pairs.
    """
    from scipy.stats import wilcoxon  # noqa: PLC0415

    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    if len(difference) < 2:
        return math.nan
    if not difference.any():
        return 1.0
    return float(wilcoxon(difference, zero_method="zsplit").pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number by Holm's step-down method; NaN stays, and does not count."""
    p = np.asarray(p_values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(p))
    corrected = p.copy()
    largest = 0.0
    for place, index in enumerate(known[np.argsort(p[known], kind="stable")]):
        largest = max(largest, min(1.0, float(p[index]) * (len(known) - place)))
        corrected[index] = largest
    return [float(value) for value in corrected]


def rank(scores: Scores) -> Scores:
    """Ranks ``(n, k)`` of scores ``(n, k)`` within each row: 1 for the highest, ties share their mean."""
    from scipy.stats import rankdata  # noqa: PLC0415

    ranks: Scores = np.stack([rankdata(-row) for row in scores]) if len(scores) else np.zeros(scores.shape)
    return ranks


def ranking(scores: Scores, level: float = 0.05) -> Ranking:
    """Average ranks of ``k`` methods on ``n`` data sets, scores ``(n, k)``, higher better."""
    from scipy.stats import friedmanchisquare, studentized_range  # noqa: PLC0415

    sets, methods = scores.shape
    ranks = rank(scores)
    friedman = math.nan
    if methods > 2 and sets > 1:
        different = bool((scores != scores[:, :1]).any())
        friedman = float(friedmanchisquare(*scores.T).pvalue) if different else 1.0
    critical = math.nan
    if methods > 1 and sets:
        quantile = studentized_range.ppf(1 - level, methods, np.inf) / math.sqrt(2)
        critical = float(quantile * math.sqrt(methods * (methods + 1) / (6 * sets)))
    return Ranking(ranks.mean(axis=0), friedman, critical, sets)


def cliques(ranks: Sequence[float], critical: float) -> list[tuple[int, ...]]:
    """Largest groups of methods whose average ranks lie within the critical difference, by index, best first."""
    order = sorted(range(len(ranks)), key=lambda i: ranks[i])
    groups: list[tuple[int, ...]] = []
    for start, first in enumerate(order):
        group = tuple(i for i in order[start:] if ranks[i] - ranks[first] <= critical)
        if len(group) > 1 and not any(set(group) <= set(other) for other in groups):
            groups.append(group)
    return groups


def pareto(costs: Sequence[float], scores: Sequence[float]) -> list[int]:
    """Indices, cheapest first, of the points that no other one beats in cost and score at once."""
    best, front = -math.inf, []
    for i in sorted(range(len(costs)), key=lambda i: (costs[i], -scores[i])):
        if scores[i] > best:
            best = scores[i]
            front.append(i)
    return front
