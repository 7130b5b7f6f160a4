"""Information of quantities that are jointly Gaussian after a transformation: closed forms."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from equifuse.errors import InputError
from equifuse.information.estimator import Estimate, Estimator, Floats, PairBits, Tick, draw_weights, subsets_of
from equifuse.information.measures import Subset, gaussian_bias, gaussian_information
from equifuse.information.samples import LEAST, Samples, Target
from equifuse.registry import INFORMATION


@INFORMATION.register
class Gaussian(Estimator):
    """Closed forms of the Gaussian distribution, for a target that is a quantity.

    Each column and the target are replaced by the Gaussian values of their ranks; of a modality with many columns the
    leading principal components are taken, ``n / 20`` at most. The bias of the sample's covariance is taken off, which
    is exact for Gaussian data. Redundancy is that of the weaker modality (Barrett, arXiv 1411.2832).

    >>> Gaussian().components
    20

    Args:
        components: most principal components of a modality.

    Raises:
        InputError: fewer than 1 component.
    """

    name: ClassVar[str] = "gaussian"
    assumption: ClassVar[str] = "all is jointly Gaussian once each column's ranks are made Gaussian: only lines count"
    bias: ClassVar[str] = "none where that holds; what is no line is not counted"

    def __init__(self, components: int = 20) -> None:
        if not isinstance(components, int) or components < 1:
            raise InputError(f"components must be a whole number of at least 1, got {components!r}")
        self.components = components

    def estimate(self, samples: Samples, target: Target, tick: Tick) -> Estimate:
        """See :meth:`Estimator.estimate`.

        Raises:
            InputError: a target of classes, or too few samples that have all modalities.
        """
        if target.values is None:
            raise InputError(
                "the estimator 'gaussian' is for quantities, this target is classes; take 'predictive' or 'discrete'"
            )
        bits, pairs = {}, {}
        for subset in subsets_of(samples.names):
            rows = np.flatnonzero(samples.having(subset))
            if len(rows) < LEAST:
                raise InputError(
                    f"{len(rows)} samples have {' and '.join(subset)}, {LEAST} are needed; leave one of them out"
                )
            found = self._measured(samples, target.values, subset, rows)
            bits[subset] = found.joint if len(subset) > 1 else found.a
            if len(subset) == 2:
                pairs[subset[0], subset[1]] = found
            tick(" + ".join(subset))
        return Estimate(bits, pairs)

    def _measured(self, samples: Samples, values: Floats, subset: Subset, rows: NDArray[np.intp]) -> PairBits:
        parts = [self._reduced(samples.inputs[m][rows]) for m in subset]
        data = np.hstack([*parts, gaussian_ranks(values[rows][:, None])])
        ends = np.cumsum([0, *(part.shape[1] for part in parts)])
        groups = [list(range(a, b)) for a, b in pairwise(ends)]
        y, every = int(ends[-1]), list(range(int(ends[-1])))
        found: list[list[float]] = []
        weights = draw_weights(len(samples), samples.groups)[:, rows]
        for w in weights:
            centred = data - w @ data / w.sum()
            covariance = (centred * w[:, None]).T @ centred / w.sum() + 1e-9 * np.eye(data.shape[1])
            joint = gaussian_information(covariance, every, [y]) - gaussian_bias(len(rows), len(every))
            ab = (groups[0], groups[1]) if len(groups) == 2 else (groups[0], groups[0])
            a, b = (gaussian_information(covariance, x, [y]) - gaussian_bias(len(rows), len(x)) for x in ab)
            found.append([max(0.0, a), max(0.0, b), max(0.0, joint), max(0.0, min(a, b))])
        a, b, joint, shared = np.array(found).T
        return PairBits(a, b, joint, shared, None, len(rows))

    def _reduced(self, x: Floats) -> Floats:
        most = max(1, min(self.components, len(x) // 20))
        ranked = gaussian_ranks(x)
        if x.shape[1] <= most:
            return ranked
        centred = ranked - ranked.mean(0)
        u, s, _ = np.linalg.svd(centred, full_matrices=False)
        return np.asarray(u[:, :most] * s[:most], np.float64)


def gaussian_ranks(x: Floats) -> Floats:
    """Each column's values replaced by the Gaussian quantiles of their ranks; equal values stay equal.

    >>> gaussian_ranks(np.array([[5.0], [100.0], [7.0]])).round(2).ravel().tolist()
    [-0.97, 0.97, 0.0]
    """
    from scipy.stats import norm, rankdata  # noqa: PLC0415

    if not x.shape[1]:
        return x
    return np.asarray(norm.ppf((rankdata(x, axis=0) - 0.5) / len(x)), np.float64)
