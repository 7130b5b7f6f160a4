"""Linear models of standardised features: what the method ``linear`` is, task by task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_STRENGTHS = (1e-3, 1e-2, 0.1, 1.0)
_DIRECTIONS = (2, 5, 10)


@dataclass(frozen=True)
class LinearFit:
    """A fitted linear model of the features of all modalities side by side.

    Attributes:
        weight: ``(K, l)``.
        bias: ``(K,)``.
        parameters: number of coefficients that were free.
    """

    weight: Floats
    bias: Floats
    parameters: int

    def predict(self, features: Sequence[Floats]) -> Floats:
        """Raw outputs ``(n, K)``, as the task takes them, of each modality's features ``(n, l_m)``."""
        found: Floats = _joined(features) @ self.weight.T + self.bias
        return found


def logistic(features: Sequence[Floats], target: NDArray[Any], weight: Floats | None = None) -> list[LinearFit]:
    """Logistic regressions of classes ``(n,)``, of several strengths; raw outputs are logits ``(n, K)``."""
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    x, found = _joined(features), []
    for strength in _STRENGTHS:
        fitted = LogisticRegression(C=strength, max_iter=500).fit(x, target, weight)
        coefficients, bias = fitted.coef_, fitted.intercept_
        if len(bias) == 1:  # one score between two classes
            coefficients, bias = (np.concatenate([-part / 2, part / 2]) for part in (coefficients, bias))
        found.append(LinearFit(coefficients, bias, len(fitted.coef_) * (x.shape[1] + 1)))
    return found


def logistic_by_label(
    features: Sequence[Floats], target: NDArray[Any], weight: Floats | None = None
) -> list[LinearFit]:
    """A logistic regression for each label of ``(n, K)``, of several strengths; raw outputs are logits ``(n, K)``."""
    x, found = _joined(features), []
    every = [_of_label(x, column, weight) for column in target.T]
    for of_strength in zip(*every, strict=True):
        coefficients, biases = (np.concatenate(parts) for parts in zip(*of_strength, strict=True))
        found.append(LinearFit(coefficients, biases, target.shape[1] * (x.shape[1] + 1)))
    return found


def _of_label(x: Floats, column: NDArray[Any], weight: Floats | None) -> list[tuple[Floats, Floats]]:
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    if len(np.unique(column)) == 1:  # all samples have it, or none: counted once more than seen
        size = np.log(len(column) + 1.0)
        return [(np.zeros((1, x.shape[1])), np.array([size if column[0] else -size]))] * len(_STRENGTHS)
    fits = [LogisticRegression(C=strength, max_iter=500).fit(x, column, weight) for strength in _STRENGTHS]
    return [(fit.coef_, fit.intercept_) for fit in fits]


def ridge(features: Sequence[Floats], target: NDArray[Any], weight: Floats | None = None) -> list[LinearFit]:
    """Ridge regressions of values ``(n, K)``, of several strengths."""
    from sklearn.linear_model import Ridge  # noqa: PLC0415

    x, found = _joined(features), []
    for strength in _STRENGTHS:
        fitted = Ridge(alpha=10 / strength).fit(x, target, weight)
        coefficients = fitted.coef_.reshape(target.shape[1], -1)
        bias = np.asarray(fitted.intercept_).reshape(-1)
        found.append(LinearFit(coefficients, bias, target.shape[1] * (x.shape[1] + 1)))
    return found


def canonical_directions(features: Sequence[Floats]) -> list[LinearFit]:
    """Canonical directions between the first two modalities, several numbers of them: embeddings ``(n, k)``.

    A modality alone, zeros in the place of all others, has its own embedding.
    """
    from sklearn.cross_decomposition import PLSSVD  # noqa: PLC0415

    (a, b), rest = features[:2], features[2:]
    least = min(a.shape[1], b.shape[1])
    found = []
    for count in [k for k in _DIRECTIONS if k <= least] or [least]:
        fitted = PLSSVD(n_components=count).fit(a, b)
        pairs = (fitted.x_weights_, fitted._x_std), (fitted.y_weights_, fitted._y_std)
        used = [weights / deviations[:, None] for weights, deviations in pairs]
        weight = np.concatenate([*used, *(np.zeros((x.shape[1], count)) for x in rest)]).T
        found.append(LinearFit(weight, np.zeros(count), count * (a.shape[1] + b.shape[1])))
    return found


def _joined(features: Sequence[Floats]) -> Floats:
    return np.concatenate(features, axis=1)
