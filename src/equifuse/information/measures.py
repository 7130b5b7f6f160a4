"""Information in bits: entropies, what predictions are worth, Gaussian closed forms, and sums over many modalities."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# The modalities that something is known of, in order.
Subset = tuple[str, ...]


def entropy(p: Floats) -> float:
    """Entropy in bits of a distribution of any shape; it need not be normalised.

    >>> entropy(np.array([1.0, 1.0])), entropy(np.array([3.0, 0.0]))
    (1.0, 0.0)
    """
    q = np.asarray(p, dtype=np.float64).ravel()
    q = q[q > 0] / q.sum()
    return float(max(0.0, -(q * np.log2(q)).sum()))


def mutual_information(joint: Floats) -> float:
    """Mutual information in bits between the rows and the columns of a table ``(A, B)`` of probabilities or counts.

    >>> mutual_information(np.eye(2)), mutual_information(np.ones((2, 2)))
    (1.0, 0.0)
    """
    table = np.asarray(joint, dtype=np.float64)
    return max(0.0, entropy(table.sum(0)) + entropy(table.sum(1)) - entropy(table))


def class_entropy(target: NDArray[np.int64]) -> float:
    """Entropy in bits of classes ``(n,)`` by their shares.

    >>> class_entropy(np.array([0, 1, 0, 1]))
    1.0
    """
    return entropy(np.bincount(target).astype(np.float64))


def gained_bits(log_p: Floats, target: NDArray[np.int64]) -> Floats:
    """What predictions tell of each sample's class ``(n,)``, in bits: ``log2 p(y|x) - log2 p(y)``.

    Its mean is the entropy of the classes minus the log loss: the usable information of Xu et al. (arXiv 2002.10689),
    which is at most the mutual information where the predictions were made without the sample's own class.

    >>> gained_bits(np.log([[0.5, 0.5], [0.25, 0.75]]), np.array([0, 1])).round(3).tolist()
    [0.0, 0.585]

    Args:
        log_p: ``(n, K)`` natural logarithms of the predicted probabilities.
        target: ``(n,)`` classes.
    """
    shares = np.bincount(target, minlength=log_p.shape[1]) / len(target)
    return np.asarray((log_p[np.arange(len(target)), target] - np.log(shares[target])) / math.log(2), np.float64)


def gaussian_entropy(covariance: Floats) -> float:
    """Differential entropy in bits of a Gaussian of covariance ``(d, d)``: ``(d log2(2πe) + log2 det Σ) / 2``.

    >>> round(gaussian_entropy(np.eye(1)), 3)
    2.047
    """
    d = len(covariance)
    return 0.5 * (d * math.log2(2 * math.pi * math.e) + float(np.linalg.slogdet(covariance)[1]) / math.log(2))


def gaussian_information(covariance: Floats, x: list[int], y: list[int]) -> float:
    """Mutual information in bits between two groups of coordinates of a Gaussian.

    ``I(X; Y) = (log2 det Σ_x + log2 det Σ_y - log2 det Σ_xy) / 2``.

    >>> round(gaussian_information(np.array([[1.0, 0.6], [0.6, 1.0]]), [0], [1]), 4)  # -log2(1 - 0.6²) / 2
    0.3219

    Args:
        covariance: ``(d, d)``, positive definite.
        x: coordinates of the one.
        y: coordinates of the other, none of them in ``x``.
    """

    def log_det(rows: list[int]) -> float:
        return float(np.linalg.slogdet(covariance[np.ix_(rows, rows)])[1])

    return max(0.0, 0.5 * (log_det(x) + log_det(y) - log_det([*x, *y])) / math.log(2)) if x and y else 0.0


def gaussian_bias(n: int, width: int) -> float:
    """How many bits too many a sample covariance says that ``width`` coordinates know of one other.

    The logarithm of the residual variance has ``n - 1 - width`` degrees of freedom, that of the variance ``n - 1``.

    >>> gaussian_bias(1000, 0), round(gaussian_bias(1000, 20), 4)
    (0.0, 0.0146)
    """
    from scipy.special import digamma  # noqa: PLC0415

    return float(digamma((n - 1) / 2) - digamma((n - 1 - width) / 2)) / (2 * math.log(2))


def shapley_bits(bits: Mapping[Subset, float], names: Subset) -> dict[str, float]:
    """Each modality's share of the information of all: Shapley values of the game ``S -> I(S; Y)``.

    Where not all subsets are known, the mean of what each says first and of what it adds last, moved alike to add up
    to what all say: that is exact where no more than two of them interact.

    >>> shapley_bits({("a",): 1.0, ("b",): 0.0, ("a", "b"): 1.0}, ("a", "b"))
    {'a': 1.0, 'b': 0.0}

    Args:
        bits: of every subset of the names, each in their order; or of each, all but each, and all.
        names: of the modalities.
    """
    count = len(names)
    if any(subset not in bits for size in range(1, count) for subset in combinations(names, size)):
        both = {
            m: 0.5 * (bits[(m,)] + bits[names] - bits[tuple(other for other in names if other != m)]) for m in names
        }
        left = (bits[names] - sum(both.values())) / count
        return {m: value + left for m, value in both.items()}
    found = dict.fromkeys(names, 0.0)
    for size in range(count):
        weight = 1 / (count * math.comb(count - 1, size))
        for without in combinations(names, size):
            for m in names:
                if m not in without:
                    joined = tuple(name for name in names if name in without or name == m)
                    found[m] += weight * (bits[joined] - bits.get(without, 0.0))
    return found


def o_information(bits: Mapping[Subset, float], names: Subset) -> float:
    """Whether modalities rather repeat each other about the target (positive) or complete each other (negative).

    The gradient of the O-information (Scagliarini et al., arXiv 2210.11964),
    ``(1 - M) I(all; Y) + Σ_m I(all but m; Y)``. For two modalities it is their redundancy minus their synergy.

    >>> o_information({("a",): 0.0, ("b",): 0.0, ("a", "b"): 1.0}, ("a", "b"))  # exclusive or
    -1.0

    Args:
        bits: of all modalities together, and of all but each.
        names: of the modalities, two at least.
    """
    rest = sum(bits[tuple(other for other in names if other != m)] for m in names)
    return (1 - len(names)) * bits[names] + rest
