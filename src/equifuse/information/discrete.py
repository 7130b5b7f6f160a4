"""Information by counting: each modality as a few states, and the decomposition solved exactly."""

from __future__ import annotations

import warnings
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from equifuse.errors import InputError
from equifuse.extras import require
from equifuse.information.decomposition import decompose, union_information
from equifuse.information.estimator import (
    Estimate,
    Estimator,
    Floats,
    PairBits,
    Tick,
    draw_weights,
    folds_of,
    subsets_of,
    weighted_means,
)
from equifuse.information.measures import Subset, gained_bits, mutual_information
from equifuse.information.pooling import pool
from equifuse.information.samples import LEAST, Samples, Target
from equifuse.registry import INFORMATION

_DRAWS = 50
# Added to each count before shares are taken of them.
_SMOOTHING = 0.01


@INFORMATION.register
class Discrete(Estimator):
    """Counts of states: a modality is its distinct rows where they are few, else the clusters of its samples.

    The decomposition is that of Bertschinger et al., solved as a convex programme by cvxpy and Clarabel (extra
    ``information``). What is clustered loses what the clusters do not show; nothing else is assumed.

    >>> Discrete(states=4).states
    4

    Args:
        states: most states of a modality, 2 at least.

    Raises:
        InputError: fewer than 2 states.
    """

    name: ClassVar[str] = "discrete"
    assumption: ClassVar[str] = "a modality says no more than which of a few states, its values or clusters, it is in"
    bias: ClassVar[str] = (
        "counting says too much, by about (states - 1)(classes - 1) / (1.39 n) bits, which the shuffled labels show; "
        "clusters say too little"
    )

    def __init__(self, states: int = 6) -> None:
        if not isinstance(states, int) or states < 2:
            raise InputError(f"states must be a whole number of at least 2, got {states!r}")
        self.states = states

    def estimate(self, samples: Samples, target: Target, tick: Tick) -> Estimate:
        """See :meth:`Estimator.estimate`.

        Raises:
            InputError: fewer samples than five for each cell of all modalities' states and the classes, or the extra is
                not installed.
        """
        require("information", "cvxpy", "the estimator 'discrete'")
        codes = {m: self.codes(x, samples.present[m]) for m, x in samples.inputs.items()}
        self._check(samples, codes, target)
        y = target.classes
        weights = draw_weights(len(samples), samples.groups, _DRAWS)
        bits, pointwise = {}, {}
        for subset in subsets_of(samples.names):
            rows = np.flatnonzero(samples.having(subset))
            if len(rows) < LEAST:
                raise InputError(
                    f"{len(rows)} samples have {' and '.join(subset)}, {LEAST} are needed; leave one of them out"
                )
            code = _joint_code([codes[m][rows] for m in subset])
            bits[subset] = np.array([mutual_information(_counts(code, y[rows], w)) for w in weights[:, rows]])
            pointwise[subset] = np.full(len(samples), np.nan)
            pointwise[subset][rows] = _pointwise(code, y[rows])
            tick(" + ".join(subset))
        pairs = {(s[0], s[1]): _pair(samples, codes, target, s, weights) for s in bits if len(s) == 2}
        rows = np.flatnonzero(samples.having(samples.names))
        code = _joint_code([codes[m][rows] for m in samples.names])
        shuffled = np.random.default_rng(0).permutation(y[rows])
        chance = mutual_information(_counts(code, shuffled, np.ones(len(rows))))
        evidence = _evidence([codes[m][rows] for m in samples.names], target, samples, rows, weights[:, rows])
        return Estimate(bits, pairs, evidence, chance, pointwise)

    def codes(self, x: Floats, present: NDArray[np.bool_]) -> NDArray[np.intp]:
        """The state ``(n,)`` of each sample: its distinct row, or its cluster; 0 where it is absent."""
        found = np.zeros(len(x), np.intp)
        if not x.shape[1]:
            return found
        own = np.unique(np.round(x[present], 6), axis=0, return_inverse=True)[1].reshape(-1)
        if own.max() >= self.states:
            from sklearn.cluster import KMeans  # noqa: PLC0415

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                own = KMeans(self.states, n_init=4, random_state=0).fit(x[present]).labels_
        found[present] = own
        return found

    def _check(self, samples: Samples, codes: dict[str, NDArray[np.intp]], target: Target) -> None:
        cells = float(np.prod([float(code.max() + 1) for code in codes.values()])) * (target.classes.max() + 1)
        if 5 * cells > len(samples):
            raise InputError(
                f"the estimator 'discrete' needs five samples for each cell: the states of {len(codes)} modalities and "
                f"{target.classes.max() + 1} classes make {cells:.0f} cells of {len(samples)} samples; take fewer "
                "states, or the estimator 'predictive'"
            )


def _pair(
    samples: Samples, codes: dict[str, NDArray[np.intp]], target: Target, pair: Subset, weights: Floats
) -> PairBits:
    y = target.classes
    rows = np.flatnonzero(samples.having(pair))
    a, b = (codes[m][rows] for m in pair)
    drawn = weights[:, rows]
    first, second, joint, shared = [], [], [], []
    for i, w in enumerate(drawn):
        table = np.zeros((a.max() + 1, b.max() + 1, y.max() + 1))
        np.add.at(table, (a, b, y[rows]), w)
        own, other = table.sum(1), table.sum(0)
        first.append(mutual_information(own))
        second.append(mutual_information(other))
        joint.append(mutual_information(table.reshape(-1, table.shape[2])))
        # The draws show the spread, for which the fast solution is near enough.
        exact = decompose(table).redundancy if not i else first[-1] + second[-1] - union_information(own, other, 60)
        shared.append(max(0.0, exact))
    evidence = _evidence([a, b], target, samples, rows, drawn)
    return PairBits(np.array(first), np.array(second), np.array(joint), np.array(shared), evidence, len(rows))


def _evidence(
    codes: list[NDArray[np.intp]], target: Target, samples: Samples, rows: NDArray[np.intp], weights: Floats
) -> Floats:
    """What the shares of classes in each modality's states say when they are multiplied, ``(1 + D,)``."""
    y = target.classes[rows]
    experts = []
    for code in codes:
        table = _counts(code, y, np.ones(len(y))) + _SMOOTHING
        experts.append(np.log(table / table.sum(1, keepdims=True))[code])
    return weighted_means(gained_bits(pool(experts, y, folds_of(samples, target, rows)), y), weights)


def _joint_code(codes: list[NDArray[np.intp]]) -> NDArray[np.intp]:
    return np.unique(np.stack(codes, axis=1), axis=0, return_inverse=True)[1].reshape(-1)


def _counts(code: NDArray[np.intp], y: NDArray[np.int64], weight: Floats) -> Floats:
    table = np.zeros((int(code.max()) + 1, int(y.max()) + 1))
    np.add.at(table, (code, y), weight)
    return table


def _pointwise(code: NDArray[np.intp], y: NDArray[np.int64]) -> Floats:
    table = _counts(code, y, np.ones(len(y)))
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / len(y)
    return np.asarray(np.log2(table[code, y] / expected[code, y]), np.float64)
