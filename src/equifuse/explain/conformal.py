"""Sets and intervals that contain the truth with a chosen probability: split conformal prediction.

The only assumption is that the samples of the calibration part and the new ones are exchangeable; there is none about
the model or the data. Then the truth is in the set with probability at least ``1 − α``, on average over samples and
calibration parts (marginally, not for each kind of sample), and at most ``1 − α + 1/(n + 1)`` if scores have no ties
(Vovk et al. 2005; Angelopoulos & Bates 2021, arXiv 2107.07511, theorem 1 and appendix D).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from equifuse.errors import InputError, UnknownNameError
from equifuse.explain.targets import Floats, plain

METHODS = ("lac", "aps")
# A coverage that exchangeable samples have less often than this is said to be off.
_UNLIKELY = 0.01
_EXCHANGEABLE = "assumes that calibration samples and new samples are exchangeable; coverage is marginal"
_REUSED = "; the calibration part has also chosen the model (early stopping), so the guarantee is approximate"


def check_options(alpha: float, method: str = "lac") -> None:
    """Raise an error for an unusable share of errors or an unknown method.

    Raises:
        InputError: ``alpha`` is out of range.
        UnknownNameError: an unknown method.
    """
    if not 0 < alpha < 1:
        raise InputError(f"alpha must be between 0 and 1, got {alpha}")
    if method not in METHODS:
        raise UnknownNameError("conformal method", method, METHODS)


def assumption(reused: bool) -> str:
    """The condition of the guarantee, in a sentence; ``reused``: whether early stopping used the same samples."""
    return _EXCHANGEABLE + (_REUSED if reused else "")


@dataclass(frozen=True)
class PredictionSets:
    """Sets of classes that contain the true class with a chosen probability; see :func:`prediction_sets`.

    >>> probabilities, labels = np.array([[0.8, 0.2]] * 19), np.zeros(19, int)
    >>> found = prediction_sets((probabilities, labels), np.array([[0.9, 0.1], [0.5, 0.5]]))
    >>> found.members.tolist()
    [[True, False], [False, False]]

    Attributes:
        method: ``"lac"`` or ``"aps"``.
        alpha: the share of misses allowed.
        threshold: classes are in a set whose score is at most this; infinite where too few samples calibrated it.
        members: bool ``(n, K)``. A set may be empty: then no class is plausible.
        coverage: share of the sets that hold the truth; None without labels.
        assumption: what the guarantee rests on.
        calibrated_on: number of samples that the threshold is from; 0 where it is not known.
    """

    method: str
    alpha: float
    threshold: float
    members: NDArray[np.bool_]
    coverage: float | None
    assumption: str
    calibrated_on: int = 0

    @property
    def warning(self) -> str | None:
        """What is said where the sets hold the truth less often than they should; None where they do not."""
        return shortfall(self.coverage, len(self.members), self.calibrated_on, self.alpha)

    def summary(self) -> dict[str, Any]:
        """Plain numbers: coverage, mean size, and the share of sets of each size from 0 to K."""
        size = self.members.sum(axis=1)
        return {
            "method": self.method,
            "alpha": self.alpha,
            "threshold": plain(self.threshold),
            "coverage": self.coverage,
            "mean_size": float(size.mean()),
            "sizes": (np.bincount(size, minlength=self.members.shape[1] + 1) / len(size)).tolist(),
            "assumption": self.assumption,
            "warning": self.warning,
        }


@dataclass(frozen=True)
class Intervals:
    """Intervals that contain the true value with a chosen probability, of the same width for all samples.

    >>> found = intervals((np.zeros((19, 1)), np.ones((19, 1))), np.array([[5.0]]))
    >>> found.lower.tolist(), found.upper.tolist()
    ([[4.0]], [[6.0]])

    Attributes:
        alpha: the share of misses allowed.
        radius: ``(K,)``, half the width; infinite where too few samples calibrated it.
        lower: ``(n, K)``.
        upper: ``(n, K)``.
        coverage: ``(K,)`` share of the intervals that hold the truth; None without targets.
        assumption: what the guarantee rests on.
        calibrated_on: number of samples that the radius is from; 0 where it is not known.
    """

    alpha: float
    radius: Floats
    lower: Floats
    upper: Floats
    coverage: Floats | None
    assumption: str
    calibrated_on: int = 0

    @property
    def warning(self) -> str | None:
        """What is said where the intervals of a target hold it less often than they should; None where they do not."""
        for covered in () if self.coverage is None else self.coverage.tolist():
            said = shortfall(covered, len(self.lower), self.calibrated_on, self.alpha)
            if said:
                return said
        return None

    def summary(self) -> dict[str, Any]:
        """Plain numbers, one for each target; None for an infinite radius."""
        return {
            "alpha": self.alpha,
            "radius": [plain(r) for r in self.radius],
            "coverage": None if self.coverage is None else self.coverage.tolist(),
            "assumption": self.assumption,
            "warning": self.warning,
        }


def quantile(scores: ArrayLike, alpha: float) -> float:
    """The score that at least a share ``1 − α`` of new scores does not exceed, with the correction for a finite sample.

    >>> quantile(np.arange(1, 20), alpha=0.1)  # the 18th of 19
    18.0

    Args:
        scores: ``(n,)``.
        alpha: in (0, 1), used as the decimal number that is written, so that rounding does not change the rank.

    Returns:
        The ``⌈(n + 1)(1 − α)⌉``-th smallest score; infinite if there are not that many.

    Raises:
        InputError: ``alpha`` is out of range.
    """
    check_options(alpha)
    s = np.asarray(scores, dtype=np.float64)
    rank = math.ceil((s.size + 1) * (1 - Fraction(str(alpha))))
    return math.inf if rank > s.size else float(np.partition(s, rank - 1)[rank - 1])


def shortfall(coverage: float | None, samples: int, calibrated_on: int, alpha: float) -> str | None:
    """What to say where the truth is covered less often than exchangeable samples would allow.

    Of ``n`` new samples the number covered is beta-binomial if they are exchangeable with the ``m`` of the calibration
    part and scores have no ties: with parameters ``m + 1 − l`` and ``l = ⌊(m + 1) α⌋`` (Angelopoulos & Bates 2021,
    appendix C). It is said where so few would be covered once in a hundred times or less.

    Example:
        >>> from equifuse.explain.conformal import shortfall
        >>> shortfall(0.79, samples=300, calibrated_on=200, alpha=0.1)
        'covers 79.0 % of 300 samples where 90 % was promised: they differ from those that it was calibrated on'
        >>> shortfall(0.88, samples=300, calibrated_on=200, alpha=0.1) is None
        True

    Args:
        coverage: share that is covered, or None.
        samples: that it is measured on.
        calibrated_on: samples of the calibration part.
        alpha: share of errors allowed.
    """
    if coverage is None or calibrated_on < 1:
        return None
    from scipy.stats import betabinom  # noqa: PLC0415 - it takes a moment to import

    allowed = math.floor((calibrated_on + 1) * Fraction(str(alpha)))
    if allowed < 1:
        return None
    chance = betabinom.cdf(round(coverage * samples), samples, calibrated_on + 1 - allowed, allowed)
    if chance > _UNLIKELY:
        return None
    promised = f"{100 * (1 - alpha):.3g} % was promised"
    return (
        f"covers {100 * coverage:.1f} % of {samples} samples where {promised}: they differ from those that it was "
        "calibrated on"
    )


def class_scores(probabilities: ArrayLike, method: str = "lac", generator: np.random.Generator | None = None) -> Floats:
    """How badly each class fits a sample, ``(n, K)``, without knowing the truth.

    - ``"lac"``: ``1 − p_k`` (Sadinle et al. 2019, arXiv 1609.00451): the smallest sets on average;
    - ``"aps"``: the probability of all classes before ``k`` in the order of their probabilities, plus that of ``k``
      itself, times a uniform number if there is a generator (Romano et al. 2020, arXiv 2006.02544): larger sets for
      difficult samples. Without a generator sets are larger than necessary, and the same each time.

    Args:
        probabilities: ``(n, K)``.
        method: see above.
        generator: of the uniform numbers, one per sample.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if method == "lac":
        return 1 - p
    order = np.argsort(-p, axis=1, kind="stable")
    ranked = np.take_along_axis(p, order, axis=1)
    part = 1.0 if generator is None else generator.random((len(p), 1))
    found = np.empty_like(p)
    np.put_along_axis(found, order, ranked.cumsum(axis=1) - (1 - part) * ranked, axis=1)
    return found


def prediction_sets(
    calibration: tuple[ArrayLike, ArrayLike],
    probabilities: ArrayLike,
    target: ArrayLike | None = None,
    *,
    alpha: float = 0.1,
    method: str = "lac",
    seed: int | None = None,
    reused: bool = False,
) -> PredictionSets:
    """Sets of classes that contain the true class with probability at least ``1 − alpha``.

    >>> probabilities, labels = np.array([[0.8, 0.2]] * 19), np.zeros(19, int)
    >>> found = prediction_sets((probabilities, labels), np.array([[0.9, 0.1]]), np.array([0]), alpha=0.1)
    >>> found.members.tolist(), found.coverage
    ([[True, False]], 1.0)

    Args:
        calibration: probabilities ``(m, K)`` and int labels ``(m,)`` of the calibration part.
        probabilities: ``(n, K)`` of the samples.
        target: int ``(n,)``, to measure the coverage; or None.
        alpha: share of errors allowed, in (0, 1); default 0.1.
        method: "lac" (default) gives the smallest sets on average, "aps" larger sets for difficult samples; see
            :func:`equifuse.explain.conformal.class_scores`.
        seed: seed of the randomised ``"aps"``; None for the one without random numbers.
        reused: whether the model was selected on the calibration part, which makes the coverage approximate.

    Returns:
        :class:`PredictionSets`.

    Raises:
        InputError: ``alpha`` is out of range.
        UnknownNameError: an unknown method.

    The guarantee and its only assumption: :mod:`equifuse.explain.conformal`.
    """
    check_options(alpha, method)
    generator = None if seed is None else np.random.default_rng(seed)
    labels = np.asarray(calibration[1]).astype(np.int64)
    own = class_scores(calibration[0], method, generator)[np.arange(len(labels)), labels]
    threshold = quantile(own, alpha)
    members = class_scores(probabilities, method, generator) <= threshold
    coverage = None
    if target is not None:
        coverage = float(members[np.arange(len(members)), np.asarray(target).astype(np.int64)].mean())
    return PredictionSets(method, alpha, threshold, members, coverage, assumption(reused), len(labels))


def intervals(
    calibration: tuple[ArrayLike, ArrayLike],
    prediction: ArrayLike,
    target: ArrayLike | None = None,
    *,
    alpha: float = 0.1,
    reused: bool = False,
) -> Intervals:
    """Intervals around predictions that contain the true value with probability at least ``1 − alpha``.

    >>> found = intervals((np.zeros((19, 1)), np.ones((19, 1))), np.array([[5.0]]), alpha=0.1)
    >>> found.radius.tolist()
    [1.0]

    Args:
        calibration: predictions and targets ``(m, K)`` of the calibration part.
        prediction: ``(n, K)`` of the samples.
        target: ``(n, K)``, to measure the coverage; or None.
        alpha: share of errors allowed for each target, in (0, 1); default 0.1.
        reused: whether the model was selected on the calibration part, which makes the coverage approximate.

    Returns:
        :class:`Intervals`.

    Raises:
        InputError: ``alpha`` is out of range.

    Source: Lei et al. 2018, arXiv 1604.04173, algorithm 2, from absolute residuals.
    """
    found, truth = (np.asarray(x, dtype=np.float64) for x in calibration)
    p = np.asarray(prediction, dtype=np.float64)
    radius = np.array([quantile(column, alpha) for column in np.abs(truth - found).T])
    coverage = None
    if target is not None:
        coverage = (np.abs(np.asarray(target, dtype=np.float64) - p) <= radius).mean(axis=0)
    return Intervals(alpha, radius, p - radius, p + radius, coverage, assumption(reused), len(found))
