"""Usable information: what cross-fitted models find about the target, and how two modalities share it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from equifuse.errors import InputError
from equifuse.information.decomposition import shared_fraction
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
from equifuse.information.experts import out_of_fold
from equifuse.information.measures import Subset, gained_bits
from equifuse.information.pooling import pool
from equifuse.information.samples import LEAST, Samples, Target
from equifuse.registry import INFORMATION

_FEWEST_STATES, _MOST_STATES = 8, 24
# Up to so many modalities what each part says is an expert, of more what each modality says.
_PARTS = 3
# Draws that the decomposition is solved again for, with few and with many classes.
_SOLVED = (40, 10)


@INFORMATION.register
class Predictive(Estimator):
    """Cross-fitted usable information of linear models, trees and a small network: the default.

    Of each subset of the modalities, models are fitted in four folds on all columns together and on each modality
    alone, and pooled (:func:`equifuse.information.pooling.pool`); the entropy of the target minus their log loss is
    what is usable of the subset. It is a lower bound: what no such model finds is not counted.

    Redundancy: a modality's predictions are all that matters of it, so their values are put into a few states, and of
    these states the decomposition of Bertschinger et al. is solved. The share of the weaker modality's information
    that is redundant there, times what the weaker one says, is the redundancy; what each says beyond it is unique; what
    both say beyond these three is synergy. What two such modalities must say together is a lower bound of the joint.

    >>> Predictive.name
    'predictive'
    """

    name: ClassVar[str] = "predictive"
    assumption: ClassVar[str] = (
        "linear models, trees, a small network and products of two columns can use what there is; redundancy is that "
        "of Bertschinger et al. on states of the predictions"
    )
    bias: ClassVar[str] = "a lower bound: few samples, many columns and intricate dependence make it too low"

    def steps(self, samples: Samples) -> int:
        """One for each subset, and one for shuffled labels."""
        return len(subsets_of(samples.names)) + 1

    def estimate(self, samples: Samples, target: Target, tick: Tick) -> Estimate:
        """See :meth:`Estimator.estimate`."""
        found, y = predictions(samples, target, tick), target.classes
        weights = draw_weights(len(samples), samples.groups)
        bits, pointwise = {}, {}
        for subset, log_p in found.items():
            rows = np.flatnonzero(samples.having(subset))
            gained = gained_bits(log_p[rows], y[rows])
            bits[subset] = weighted_means(gained, weights[:, rows])
            pointwise[subset] = np.full(len(samples), np.nan)
            pointwise[subset][rows] = gained
        pairs = {(s[0], s[1]): self._pair(samples, target, found, s, weights) for s in found if len(s) == 2}
        rows = np.flatnonzero(samples.having(samples.names))
        alone = pool([found[(m,)][rows] for m in samples.names], y[rows], folds_of(samples, target, rows))
        evidence = weighted_means(gained_bits(alone, y[rows]), weights[:, rows])
        shuffled = _shuffled(target)
        chance = gained_bits(fitted(samples, shuffled, samples.names, {}), shuffled.classes[rows]).mean()
        tick("shuffled labels")
        return Estimate(bits, pairs, evidence, float(chance), pointwise)

    def _pair(
        self, samples: Samples, target: Target, found: dict[Subset, Floats], pair: Subset, weights: Floats
    ) -> PairBits:
        rows = np.flatnonzero(samples.having(pair))
        y, drawn = target.classes[rows], weights[:, rows]
        a, b, both = (found[s][rows] for s in ((pair[0],), (pair[1],), pair))
        first, second, joint = (weighted_means(gained_bits(p, y), drawn) for p in (a, b, both))
        evidence = weighted_means(gained_bits(pool([a, b], y, folds_of(samples, target, rows)), y), drawn)
        shared = self.shared(a, b, both, y, drawn)
        return PairBits(first, second, joint, shared, evidence, len(rows))

    def shared(self, a: Floats, b: Floats, both: Floats, y: NDArray[np.int64], weights: Floats) -> Floats:
        """Redundancy ``(1 + D,)`` of two modalities.

        Args:
            a: log probabilities ``(n, K)`` by the first.
            b: by the second.
            both: by both.
            y: classes ``(n,)``.
            weights: ``(1 + D, n)`` of the samples, by draw.
        """
        weaker = np.maximum(0.0, np.minimum(*(weighted_means(gained_bits(p, y), weights) for p in (a, b))))
        classes = a.shape[1]
        count = min(max(_FEWEST_STATES, classes + 4), _MOST_STATES)
        codes = [states(p, count) for p in (a, b)]
        solved = 1 + min(_SOLVED[classes > 10], len(weights) - 1)
        fractions = []
        for i, w in enumerate(weights[:solved]):
            tables = [_table(code, y, w, classes) for code in codes]
            fractions.append(shared_fraction(tables[0], tables[1], 60 if i else 400))
        # Few solves stand for all draws, in turn.
        turn = np.concatenate([[0], 1 + np.arange(len(weights) - 1) % max(1, solved - 1)])
        return np.asarray(weaker * np.array(fractions)[turn], np.float64)


def predictions(samples: Samples, target: Target, tick: Tick) -> dict[Subset, Floats]:
    """Log probabilities ``(n, K)`` by each subset of the modalities, made without the sample; NaN where absent."""
    found: dict[Subset, Floats] = {}
    for subset in subsets_of(samples.names):
        rows = np.flatnonzero(samples.having(subset))
        if len(rows) < LEAST:
            raise InputError(
                f"{len(rows)} samples have {' and '.join(subset)}, {LEAST} are needed; leave one of them out"
            )
        found[subset] = np.full((len(samples), int(target.classes.max()) + 1), np.nan)
        found[subset][rows] = fitted(samples, target, subset, found)
        tick(" + ".join(subset))
    return found


def fitted(samples: Samples, target: Target, subset: Subset, known: Mapping[Subset, Floats]) -> Floats:
    """Log probabilities ``(n', K)`` of the samples that have a subset, pooled with what its known parts say."""
    rows = np.flatnonzero(samples.having(subset))
    folds, y = folds_of(samples, target, rows), target.classes[rows]
    x = np.hstack([samples.inputs[m][rows] for m in subset])
    values = None if target.values is None else target.values[rows]
    experts = out_of_fold(x, y, int(target.classes.max()) + 1, folds, values)
    largest = len(subset) - 1 if len(subset) <= _PARTS else 1
    experts += [p[rows] for s, p in known.items() if set(s) < set(subset) and len(s) <= largest]
    return pool(experts, y, folds)


def states(log_p: Floats, count: int) -> NDArray[np.intp]:
    """Predictions ``(n, K)`` as at most ``count`` states ``(n,)``: k-means of the square roots (Hellinger distance).

    >>> first, second, third = states(np.log([[0.9, 0.1], [0.1, 0.9], [0.9, 0.1]]), 8).tolist()
    >>> first == third, first == second
    (True, False)
    """
    from sklearn.cluster import KMeans  # noqa: PLC0415

    x = np.round(np.exp(log_p / 2), 4)
    different = len(np.unique(x, axis=0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        labels: NDArray[np.intp] = KMeans(min(count, different), n_init=1, random_state=0).fit(x).labels_
    return labels.astype(np.intp)


def _table(code: NDArray[np.intp], y: NDArray[np.int64], weight: Floats, classes: int) -> Floats:
    table = np.zeros((int(code.max()) + 1, classes))
    np.add.at(table, (code, y), weight)
    return table


def _shuffled(target: Target) -> Target:
    order = np.random.default_rng(0).permutation(len(target.classes))
    return Target(target.name, target.classes[order], None if target.values is None else target.values[order])
