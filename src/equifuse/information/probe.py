"""What a linear head can read off a representation, and what two representations have in common."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from equifuse.data.split import folds as split_folds
from equifuse.information.experts import linear_predictions
from equifuse.information.measures import gained_bits
from equifuse.information.pooling import pool
from equifuse.information.samples import Target, tidy

Floats = NDArray[np.float64]
_FOLDS = 4
_COMPONENTS = 10
_SHUFFLES = 5
# No canonical correlation counts for more than about ten bits.
_MOST = 1 - 1e-6


def probe(x: Floats, target: Target) -> Floats:
    """Bits of each sample's class ``(n,)`` that linear models read off a representation, cross-fitted.

    The models are fitted on other samples than those they are measured on. It is usable information (Xu et al., arXiv
    2002.10689): unlike mutual information it may rise from layer to layer.

    >>> x = np.random.default_rng(0).normal(size=(200, 3))
    >>> bool(probe(x, Target("", (x[:, 0] > 0).astype(np.int64))).mean() > 0.8)
    True

    Args:
        x: ``(n, d)``.
        target: classes of the samples.
    """
    columns = tidy(x, np.ones(len(x), np.bool_))
    y = target.classes
    folds = list(split_folds(len(y), _FOLDS, labels=y))
    experts = linear_predictions(columns, y, int(y.max()) + 1, folds, target.values)
    return gained_bits(pool(experts, y, folds), y)


def common_bits(x: Floats, y: Floats) -> float:
    """Mutual information in bits between two representations of the same samples, as if they were Gaussian.

    ``-Σ log2(1 - ρ²) / 2`` over the canonical correlations of their leading principal components, ten of each at most,
    minus the same of shuffled samples. What is not linear is not counted.

    >>> x = np.random.default_rng(0).normal(size=(400, 3))
    >>> common_bits(x, x) > 5 > 0.1 > common_bits(x, x[::-1])
    True

    Args:
        x: ``(n, d)``.
        y: ``(n, e)``.
    """
    first, second = (_directions(z) for z in (x, y))
    if not (first.shape[1] and second.shape[1]):
        return 0.0
    generator = np.random.default_rng(0)
    chance = np.mean([_gaussian(first, second[generator.permutation(len(second))]) for _ in range(_SHUFFLES)])
    return max(0.0, _gaussian(first, second) - float(chance))


def _directions(x: Floats) -> Floats:
    """Orthonormal columns ``(n, k)`` that span the leading principal components."""
    centred = x - x.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    most = max(1, min(_COMPONENTS, len(x) // 20))
    kept = s[:most] > 1e-9 * max(float(s[0]), 1e-30)
    return np.asarray(u[:, :most][:, kept], np.float64)


def _gaussian(u: Floats, v: Floats) -> float:
    correlations = np.minimum(np.linalg.svd(u.T @ v, compute_uv=False), _MOST)
    return float(-0.5 * np.log1p(-(correlations**2)).sum() / math.log(2))
