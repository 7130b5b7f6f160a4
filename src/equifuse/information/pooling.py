"""Several predictions of the same classes as one that is at least as good: a weighted product, cross-fitted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Fold = tuple[NDArray[np.intp], NDArray[np.intp]]
_MOST = 4.0
_DECAY = 1e-3
# No prediction is trusted beyond a likelihood ratio of e to this.
_CLIP = 12.0


def log_softmax(scores: Floats) -> Floats:
    """Logarithms of probabilities ``(n, K)``."""
    shifted = scores - scores.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)), np.float64)


def log_prior(target: NDArray[np.int64], classes: int) -> Floats:
    """Logarithms of the shares of classes ``(K,)``, half a sample added to each."""
    counts = np.bincount(target, minlength=classes) + 0.5
    return np.asarray(np.log(counts / counts.sum()), np.float64)


def pool(experts: Sequence[Floats], target: NDArray[np.int64], folds: Sequence[Fold]) -> Floats:
    """``log p(y) + Σ_e w_e (log p_e(y|x) - log p(y))``, normalised; the weights of a fold are fitted on the others.

    An expert that knows nothing gets the weight 0, one that is too sure a weight below 1, and experts of independent
    evidence 1 each: then the product is Bayes' rule. Without any expert it is the prior.

    Args:
        experts: log probabilities ``(n, K)`` of each, for every sample made without it.
        target: classes ``(n,)``.
        folds: rows to fit on and rows to predict.
    """
    found = np.zeros((len(target), experts[0].shape[1]))
    for fit, rest in folds:
        prior = log_prior(target[fit], found.shape[1])
        evidence = np.stack([np.clip(e - prior, -_CLIP, _CLIP) for e in experts])
        weights = pool_weights(evidence[:, fit], prior, target[fit])
        found[rest] = log_softmax(prior + np.tensordot(weights, evidence[:, rest], 1))
    return found


def pool_weights(evidence: Floats, prior: Floats, target: NDArray[np.int64]) -> Floats:
    """Weights ``(E,)`` of at least 0 of the highest likelihood: a concave problem."""
    from scipy.optimize import minimize  # noqa: PLC0415

    count, n, _ = evidence.shape
    own = evidence[:, np.arange(n), target].mean(1)

    def loss(w: Floats) -> tuple[float, Floats]:
        scores = prior + np.tensordot(w, evidence, 1)
        top = scores.max(1, keepdims=True)
        p = np.exp(scores - top)
        total = p.sum(1, keepdims=True)
        p /= total
        value = float((top + np.log(total)).mean() - own @ w - prior[target].mean() + _DECAY * (w @ w))
        gradient = np.array([(p * e).sum() / n for e in evidence]) - own + 2 * _DECAY * w
        return value, gradient

    start = np.full(count, 0.5 / count)
    return np.asarray(minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0.0, _MOST)] * count).x, np.float64)
