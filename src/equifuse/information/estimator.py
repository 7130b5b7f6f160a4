"""What an estimator of information is, and what it gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from equifuse.data.split import folds as split_folds
from equifuse.information.measures import Subset
from equifuse.information.pooling import Fold
from equifuse.information.samples import Samples, Target

Floats = NDArray[np.float64]
Tick = Callable[[str], None]
# Up to so many modalities every subset is measured, for Shapley values.
MOST_EXACT = 4
FOLDS = 4
DRAWS = 200


@dataclass(frozen=True)
class PairBits:
    """Bits of two modalities on the samples that have both; each ``(1 + D,)``: the estimate, and bootstrap draws of it.

    >>> bits = np.array([0.5])
    >>> PairBits(bits, bits, 2 * bits, 0 * bits, None, 100).n
    100

    Attributes:
        a: the first says.
        b: the second says.
        joint: both say.
        redundancy: either says.
        evidence: both say when each is asked alone, or None where it is not measured.
        n: samples.
    """

    a: Floats
    b: Floats
    joint: Floats
    redundancy: Floats
    evidence: Floats | None
    n: int


@dataclass(frozen=True)
class Estimate:
    """What an estimator found about one target.

    >>> Estimate({("a",): np.array([0.5])}, {}).baseline is None
    True

    Attributes:
        bits: of each subset of the modalities on the samples that have it, ``(1 + D,)``.
        pairs: of each pair.
        evidence: what all say when each is asked alone, ``(1 + D,)``, or None where it is not measured.
        baseline: bits that the same estimate finds about shuffled labels, or None.
        pointwise: subset -> bits of each sample ``(n,)``, NaN where it lacks a modality; {} where there are none.
    """

    bits: dict[Subset, Floats]
    pairs: dict[tuple[str, str], PairBits]
    evidence: Floats | None = None
    baseline: float | None = None
    pointwise: dict[Subset, Floats] = field(default_factory=dict)


class Estimator(ABC):
    """Base of the estimators of information, chosen by name.

    >>> from equifuse.registry import INFORMATION
    >>> INFORMATION.names()
    ['discrete', 'gaussian', 'pointwise', 'predictive']

    Attributes:
        name: by which it is chosen.
        assumption: what has to hold, in words.
        bias: how it errs, in words.
    """

    name: ClassVar[str]
    assumption: ClassVar[str]
    bias: ClassVar[str]

    def steps(self, samples: Samples) -> int:
        """How often :meth:`estimate` calls ``tick`` for each target."""
        return len(subsets_of(samples.names))

    @abstractmethod
    def estimate(self, samples: Samples, target: Target, tick: Tick) -> Estimate:
        """Measure.

        Args:
            samples: standardised inputs.
            target: one target of them.
            tick: to be called with the name of each piece of work that is done.

        Raises:
            InputError: the estimator is not made for such data.
        """


def subsets_of(names: Subset) -> list[Subset]:
    """The subsets that are measured: all of few modalities; of more each, pairs, all but each, and all.

    >>> len(subsets_of(("a", "b", "c"))), len(subsets_of(tuple("abcdef")))
    (7, 28)
    """
    count = len(names)
    sizes = range(1, count + 1) if count <= MOST_EXACT else sorted({1, 2, count - 1, count})
    return [subset for size in sizes for subset in combinations(names, size)]


def folds_of(samples: Samples, target: Target, rows: NDArray[np.intp]) -> list[Fold]:
    """Rows to fit on and to predict, among the given ones."""
    groups = None if samples.groups is None else samples.groups[rows]
    return list(split_folds(len(rows), FOLDS, labels=target.classes[rows], groups=groups))


def draw_weights(count: int, groups: NDArray[np.generic] | None, draws: int = DRAWS) -> Floats:
    """How often each sample is in each bootstrap draw ``(1 + D, n)``, whole groups at once; first, once each.

    >>> draw_weights(3, None, 2).sum(1).tolist()
    [3.0, 3.0, 3.0]
    """
    codes = np.arange(count) if groups is None else np.unique(groups, return_inverse=True)[1].reshape(-1)
    kinds = int(codes.max()) + 1
    drawn = np.random.default_rng(0).multinomial(kinds, np.full(kinds, 1 / kinds), size=draws)
    return np.vstack([np.ones(count), drawn[:, codes].astype(np.float64)])


def weighted_means(values: Floats, weights: Floats) -> Floats:
    """Means ``(1 + D,)`` of ``(n,)`` by the draws."""
    return np.asarray(weights @ values / np.maximum(weights.sum(1), 1e-12), np.float64)
