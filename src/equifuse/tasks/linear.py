"""Linear models of standardised features: what the tasks' baselines are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_STRENGTHS = (1e-3, 1e-2, 0.1, 1.0)
_DIRECTIONS = (2, 5, 10)


@dataclass(frozen=True)
class LinearFit:
    """A fitted linear model.

    Attributes:
        predict: features of each modality ``(n, l)`` -> raw outputs as the task takes them.
        parameters: number of coefficients.
    """

    predict: Callable[[list[Floats]], Floats]
    parameters: int


def logistic(features: Sequence[Floats], target: NDArray[Any]) -> list[LinearFit]:
    """Logistic regressions of classes ``(n,)``, of several strengths; raw outputs are logits ``(n, K)``."""
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    x = _joined(features)
    outputs = 1 if int(target.max()) == 1 else int(target.max()) + 1

    def of(strength: float) -> LinearFit:
        fitted = LogisticRegression(C=strength, max_iter=500).fit(x, target)

        def predict(features: list[Floats]) -> Floats:
            scores: Floats = fitted.decision_function(_joined(features))
            return np.stack([-scores / 2, scores / 2], axis=1) if scores.ndim == 1 else scores

        return LinearFit(predict, outputs * (x.shape[1] + 1))

    return [of(strength) for strength in _STRENGTHS]


def logistic_by_label(features: Sequence[Floats], target: NDArray[Any]) -> list[LinearFit]:
    """A logistic regression for each label of ``(n, K)``, of several strengths; raw outputs are logits ``(n, K)``."""
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.multiclass import OneVsRestClassifier  # noqa: PLC0415

    x = _joined(features)

    def of(strength: float) -> LinearFit:
        fitted = OneVsRestClassifier(LogisticRegression(C=strength, max_iter=500)).fit(x, target)

        def predict(features: list[Floats]) -> Floats:
            return np.column_stack([e.decision_function(_joined(features)) for e in fitted.estimators_])

        return LinearFit(predict, target.shape[1] * (x.shape[1] + 1))

    return [of(strength) for strength in _STRENGTHS]


def ridge(features: Sequence[Floats], target: NDArray[Any]) -> list[LinearFit]:
    """Ridge regressions of values ``(n, K)``, of several strengths."""
    from sklearn.linear_model import Ridge  # noqa: PLC0415

    x = _joined(features)

    def of(strength: float) -> LinearFit:
        fitted = Ridge(alpha=10 / strength).fit(x, target)

        def predict(features: list[Floats]) -> Floats:
            values: Floats = fitted.predict(_joined(features))
            return values.reshape(len(values), -1)

        return LinearFit(predict, target.shape[1] * (x.shape[1] + 1))

    return [of(strength) for strength in _STRENGTHS]


def canonical_directions(features: Sequence[Floats]) -> list[LinearFit]:
    """Canonical directions between the first two modalities, several numbers of them: embeddings ``(n, 2, k)``."""
    from sklearn.cross_decomposition import PLSSVD  # noqa: PLC0415

    a, b = features[:2]
    least = min(a.shape[1], b.shape[1])

    def of(count: int) -> LinearFit:
        fitted = PLSSVD(n_components=count).fit(a, b)

        def predict(features: list[Floats]) -> Floats:
            return np.stack(fitted.transform(*features[:2]), axis=1)

        return LinearFit(predict, count * (a.shape[1] + b.shape[1]))

    return [of(count) for count in [k for k in _DIRECTIONS if k <= least] or [least]]


def _joined(features: Sequence[Floats]) -> Floats:
    return np.concatenate(features, axis=1)
