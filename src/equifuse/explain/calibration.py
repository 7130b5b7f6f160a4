"""Whether probabilities mean what they say: temperature scaling, reliability, scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from equifuse.errors import InputError
from equifuse.explain.targets import Floats, plain
from equifuse.registry import TASKS

Labels = NDArray[np.int64]
# Temperatures that are looked at. Without a single error the loss falls towards 0 for ever; one where it rounds to 0 is
# found then.
_RANGE = (1e-2, 1e2)


@dataclass(frozen=True)
class Reliability:
    """Confidence against accuracy, in bins of equal width: the data of a reliability diagram.

    >>> found = reliability(np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 1]), bins=2)
    >>> found.count.tolist(), float(found.accuracy[1])
    ([0, 2], 0.5)

    Attributes:
        edges: ``(b + 1,)``, from 0 to 1; a bin holds its lower edge, the last one both.
        count: int64 ``(b,)``, samples in the bin.
        confidence: ``(b,)`` mean probability of the class predicted; NaN in an empty bin.
        accuracy: ``(b,)`` share predicted correctly, likewise.
    """

    edges: Floats
    count: Labels
    confidence: Floats
    accuracy: Floats

    @property
    def error(self) -> float:
        """The expected calibration error ``Σ_b n_b/n |accuracy_b − confidence_b|`` (Guo et al. 2017, eq. 3)."""
        gaps = np.nan_to_num(np.abs(self.accuracy - self.confidence))
        return float(np.average(gaps, weights=self.count))


@dataclass(frozen=True)
class ProbabilityScores:
    """How good probabilities are: log loss, Brier score and reliability.

    >>> logits, target = np.array([[2.0, 0.0], [0.0, 2.0]]), np.array([0, 1])
    >>> found = calibrate("classification", (logits, target), (logits, target))
    >>> round(found.raw.log_loss, 3)
    0.127

    Attributes:
        log_loss: mean negative logarithm of the true class's probability.
        brier: mean of ``Σ_k (p_k − [y = k])²``, from 0 to 2.
        reliability: confidence against accuracy.
    """

    log_loss: float
    brier: float
    reliability: Reliability

    def summary(self) -> dict[str, Any]:
        """Plain numbers, ``ece`` the expected calibration error; None in empty bins."""
        r = self.reliability
        return {
            "log_loss": self.log_loss,
            "brier": self.brier,
            "ece": r.error,
            "edges": r.edges.tolist(),
            "count": r.count.tolist(),
            "confidence": [plain(x) for x in r.confidence],
            "accuracy": [plain(x) for x in r.accuracy],
        }


@dataclass(frozen=True)
class Calibration:
    """The result of :func:`calibrate`: a temperature fitted on one part of the data and measured on another.

    >>> logits, target = np.array([[2.0, 0.0], [0.0, 2.0], [1.0, 0.0]]), np.array([0, 1, 1])
    >>> found = calibrate("classification", (logits, target))
    >>> found.temperature > 1, found.raw is None  # the model was too confident; nothing was measured
    (True, True)

    Attributes:
        temperature: what logits are divided by.
        raw: of the probabilities as they are; None without labels.
        scaled: after scaling, likewise.
    """

    temperature: float
    raw: ProbabilityScores | None = None
    scaled: ProbabilityScores | None = None

    def summary(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            "temperature": self.temperature,
            "raw": None if self.raw is None else self.raw.summary(),
            "scaled": None if self.scaled is None else self.scaled.summary(),
        }


def as_choices(task: str, logits: ArrayLike, target: ArrayLike | None) -> tuple[Floats, Labels | None]:
    """Logits and targets as choices of one class each.

    A multilabel sample is one choice per label between no, of logit 0, and yes: its softmax is the label's sigmoid.

    Args:
        task: ``"classification"``, ``"multilabel"``, or another with such choices.
        logits: ``(n, K)``.
        target: ``(n,)`` or ``(n, K)``, or None.

    Returns:
        ``(n, K)`` and ``(n,)``; ``(n·K, 2)`` and ``(n·K,)`` for labels.

    Raises:
        InputError: a task whose outputs are no such choices.
    """
    y = None if target is None else np.asarray(target)
    found: tuple[Floats, Labels | None] | None = TASKS.get(task).choices(np.asarray(logits, dtype=np.float64), y)
    if found is None:
        raise InputError(f"the outputs of {task} are no choices of classes: there is nothing to calibrate")
    return found


def fit_temperature(logits: ArrayLike, target: ArrayLike) -> float:
    """The temperature that makes a classifier's probabilities fit its accuracy best: divide the logits by it.

    >>> confident = np.array([[4.0, 0.0], [4.0, 0.0], [4.0, 0.0], [4.0, 0.0]])
    >>> round(fit_temperature(confident, np.array([0, 0, 0, 1])), 2)  # right in 3 of 4
    3.64

    Fit it on data that were used neither to train the model nor to measure it.

    Args:
        logits: ``(n, K)``.
        target: int ``(n,)``.

    Returns:
        The ``T`` with the smallest log loss of ``softmax(logits / T)``, from 0.01 to 100. The loss is convex in
        ``1/T``, so there is only one.

    Raises:
        InputError: there are no samples.

    Source: Guo et al. 2017, arXiv 1706.04599, section 4.2.
    """
    from scipy.optimize import minimize_scalar  # noqa: PLC0415

    x, y = np.asarray(logits, dtype=np.float64), np.asarray(target)
    if len(y) == 0:
        raise InputError("a temperature needs samples to be fitted on")

    def loss(log_temperature: float) -> float:
        return log_loss(x * np.exp(-log_temperature), y)

    found = minimize_scalar(loss, bounds=np.log(_RANGE), method="bounded", options={"xatol": 1e-8})
    return float(np.exp(found.x))


def log_loss(logits: Floats, target: ArrayLike) -> float:
    """Mean of ``−log softmax(logits)[y]`` over ``(n, K)``; finite where a probability rounds to 0."""
    from scipy.special import log_softmax  # noqa: PLC0415

    y = np.asarray(target)
    return float(-log_softmax(logits, axis=1)[np.arange(len(y)), y].mean())


def brier_score(probabilities: ArrayLike, target: ArrayLike) -> float:
    """The Brier score: how far probabilities are from the truth, from 0 (perfect) to 2.

    >>> float(brier_score(np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([0, 0])))
    0.25

    Args:
        probabilities: ``(n, K)``.
        target: int ``(n,)``.

    Formula (Brier 1950): the mean of ``Σ_k (p_k − [y = k])²``.
    """
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(target)
    return float(np.square(p - np.eye(p.shape[1])[y]).sum(axis=1).mean())


def reliability(probabilities: ArrayLike, target: ArrayLike, bins: int = 15) -> Reliability:
    """Compare confidence with accuracy, in bins of the predicted class's probability.

    >>> found = reliability(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 1]))
    >>> round(found.error, 2)  # expected calibration error
    0.45

    Args:
        probabilities: ``(n, K)``.
        target: int ``(n,)``.
        bins: number of bins of equal width, ≥ 1; default 15, as in Guo et al. 2017.

    Raises:
        InputError: ``bins`` is out of range.
    """
    if bins < 1:
        raise InputError(f"bins must be at least 1, got {bins}")
    p = np.asarray(probabilities, dtype=np.float64)
    sure, right = p.max(axis=1), p.argmax(axis=1) == np.asarray(target)
    edges = np.linspace(0, 1, bins + 1)
    where = np.clip(np.digitize(sure, edges) - 1, 0, bins - 1)
    count = np.bincount(where, minlength=bins)
    some = np.where(count > 0, count, np.nan)
    confidence, accuracy = (np.bincount(where, weights=w, minlength=bins) / some for w in (sure, right))
    return Reliability(edges, count, confidence, accuracy)


def scores(logits: Floats, target: ArrayLike, bins: int = 15) -> ProbabilityScores:
    """Log loss, Brier score and reliability of ``softmax(logits)`` ``(n, K)``."""
    from scipy.special import softmax  # noqa: PLC0415

    p = softmax(logits, axis=1)
    return ProbabilityScores(log_loss(logits, target), brier_score(p, target), reliability(p, target, bins))


def calibrate(
    task: str,
    fitted_on: tuple[ArrayLike, ArrayLike],
    measured_on: tuple[ArrayLike, ArrayLike | None] | None = None,
    bins: int = 15,
) -> Calibration:
    """Fit a temperature on one part of the data, and measure the probabilities on another.

    >>> generator = np.random.default_rng(0)
    >>> target = generator.integers(0, 2, 100)
    >>> logits = 8 * (np.eye(2)[target] + 0.7 * generator.standard_normal((100, 2)))
    >>> found = calibrate("classification", (logits[:50], target[:50]), (logits[50:], target[50:]))
    >>> found.scaled.log_loss < found.raw.log_loss
    True

    Args:
        task: ``"classification"`` or ``"multilabel"``; see :func:`as_choices`.
        fitted_on: raw outputs ``(n, K)`` and targets of the validation part.
        measured_on: likewise of the test part; without targets nothing is measured.
        bins: of the reliability.

    Raises:
        InputError: no samples, no targets to fit on, or ``bins`` out of range.
    """
    x, y = as_choices(task, *fitted_on)
    if y is None:
        raise InputError("a temperature needs labels to be fitted on")
    temperature = fit_temperature(x, y)
    logits, target = as_choices(task, *measured_on) if measured_on is not None else (x, None)
    if target is None:
        return Calibration(temperature)
    return Calibration(temperature, scores(logits, target, bins), scores(logits / temperature, target, bins))
