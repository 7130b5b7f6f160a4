"""Support vector machines: scikit-learn finds the vectors, and they are kept and evaluated as plain arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from equifuse.fusion.fitted import FittedFusion, FittingProblem, Floats, State, check_count, folds_of, is_classes
from equifuse.fusion.make import register

# Bounds on the coefficients that are tried.
_COSTS = (0.3, 3.0, 30.0)
# More samples than these are drawn from: kernels compare all pairs.
_MOST = 4000
_FOLDS = 3


@register
class SupportVectors(FittedFusion):
    """A support vector machine with a Gaussian kernel on all modalities' columns.

    Good on small sets whose columns all say a little. Classes are told apart one against the rest, and made
    probabilities by a logistic regression on what the machines say of samples that they have not seen, in 3 folds
    (Platt 1999). The bound on the coefficients is chosen on validation; of more than 4000 samples as many are drawn. A
    modality that is missing is at its mean, and a column says so.

    >>> fusion = ef.fusion.SupportVectors({"text": 30, "image": 50}, outputs=3)
    >>> fusion({"text": torch.randn(8, 30), "image": torch.randn(8, 50)}).fused.shape
    torch.Size([8, 3])

    Args:
        dims: modality name -> width ``l_m``.
        outputs: number of classes or other outputs ``K``; default 2, set by :func:`equifuse.build_model`.
        vectors: number of support vectors ``S``; set by fitting.

    ``modalities`` holds the inputs.

    Raises:
        InputError: a number is below 1.

    Formula: ``W exp(-γ |x - v_s|²) + b`` with the support vectors ``v_s``, and ``γ = 1 / (D var x)``.
    """

    name: ClassVar[str] = "svm"

    def __init__(self, dims: Mapping[str, int], outputs: int = 2, vectors: int = 1) -> None:
        super().__init__(dims, outputs)
        check_count("vectors", vectors)
        self.vector: Tensor
        self.gamma: Tensor
        self.register_buffer("vector", torch.zeros(vectors, self.width))
        self.register_buffer("gamma", torch.ones(()))
        self.weight = nn.Parameter(torch.zeros(outputs, vectors))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def current_options(self) -> dict[str, Any]:
        """With what fitting decided."""
        return {**super().current_options(), "vectors": len(self.vector)}

    def candidates(self, problem: FittingProblem) -> Iterator[State]:
        """Machines with a few bounds on their coefficients."""
        problem = problem.some(_MOST)
        x, y = problem.columns, problem.target
        assert y is not None
        gamma = 1 / (x.shape[1] * max(float(x.var()), np.finfo(np.float32).tiny))
        squares = (x**2).sum(1)
        kernel = np.exp(-gamma * np.maximum(squares[:, None] + squares[None, :] - 2 * x @ x.T, 0))
        for cost in _COSTS:
            machine = (_classes if is_classes(problem) else _values)(problem, kernel, cost, self.outputs)
            used = np.flatnonzero(machine.weight.any(0))
            used = used if len(used) else np.zeros(1, np.int64)
            yield {
                "vector": torch.from_numpy(np.ascontiguousarray(x[used])),
                "gamma": torch.tensor(gamma),
                "weight": torch.from_numpy(np.ascontiguousarray(machine.weight[:, used])),
                "bias": torch.from_numpy(machine.bias),
            }

    def restore(self, state: State) -> None:
        """Take the arrays."""
        self.vector, self.gamma = state["vector"].to(self.vector), state["gamma"].to(self.gamma)
        self.weight = nn.Parameter(state["weight"].to(self.weight))
        self.bias = nn.Parameter(state["bias"].to(self.bias))

    def predict(self, columns: Tensor) -> Tensor:
        """See the formula."""
        squares = columns.square().sum(1)[:, None] + self.vector.square().sum(1) - 2 * columns @ self.vector.T
        return torch.exp(-self.gamma * squares.clamp(min=0)) @ self.weight.T + self.bias


@dataclass(frozen=True)
class _Machine:
    """Functions of the kernel with all ``n`` samples: ``weight`` ``(K, n)`` and ``bias`` ``(K,)``."""

    weight: Floats
    bias: Floats

    def of(self, kernel: Floats) -> Floats:
        """What they are of the samples of a kernel ``(r, n)``: ``(r, K)``."""
        found: Floats = kernel @ self.weight.T + self.bias
        return found


def _values(problem: FittingProblem, kernel: Floats, cost: float, outputs: int) -> _Machine:
    """One regression for each quantity, in its own deviations."""
    from sklearn.svm import SVR  # noqa: PLC0415 - it takes a second to import

    assert problem.target is not None
    y = problem.target.astype(np.float64)
    weight, bias = np.zeros((outputs, len(kernel))), np.zeros(outputs)
    for k, column in enumerate(y.T):
        center, scale = column.mean(), column.std() or 1.0
        fit = SVR(kernel="precomputed", C=cost).fit(kernel, (column - center) / scale, problem.weight)
        weight[k, fit.support_] = scale * fit.dual_coef_[0]
        bias[k] = scale * float(fit.intercept_[0]) + center
    return _Machine(weight, bias)


def _classes(problem: FittingProblem, kernel: Floats, cost: float, outputs: int) -> _Machine:
    """One machine for each class or label, of two classes one for both, made logits by what they say unseen."""
    y = problem.target
    assert y is not None
    columns = y.T if y.ndim == 2 else [y == 1] if outputs == 2 else [y == k for k in range(outputs)]
    yes = np.stack([np.asarray(column) > 0.5 for column in columns], 1)
    unseen = np.zeros(yes.shape)
    for learn, stop in folds_of(y if y.ndim == 1 else None, len(y), _FOLDS, problem.seed):
        part = _apart(kernel[np.ix_(learn, learn)], yes[learn], problem.weighted(learn), cost)
        unseen[stop] = part.of(kernel[np.ix_(stop, learn)])
    whole = _apart(kernel, yes, problem.weight, cost)
    scale, shift = _calibration(unseen, y, problem.weight, outputs)
    return _Machine(scale @ whole.weight, scale @ whole.bias + shift)


def _apart(kernel: Floats, yes: NDArray[np.bool_], weight: Floats | None, cost: float) -> _Machine:
    """A machine for each column of ``yes`` ``(n, C)``; where all are alike it says so, by 1 or -1."""
    from sklearn.svm import SVC  # noqa: PLC0415

    found, bias = np.zeros((yes.shape[1], len(kernel))), np.zeros(yes.shape[1])
    for k, column in enumerate(yes.T):
        if column.all() or not column.any():
            bias[k] = 1.0 if column[0] else -1.0
            continue
        fit = SVC(kernel="precomputed", C=cost).fit(kernel, column, weight)
        found[k, fit.support_], bias[k] = fit.dual_coef_[0], float(fit.intercept_[0])
    return _Machine(found, bias)


def _calibration(said: Floats, y: NDArray[Any], weight: Floats | None, outputs: int) -> tuple[Floats, Floats]:
    """The map ``(K, C)``, ``(K,)`` from what machines say of samples to logits of their classes or labels."""
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    if y.ndim == 1:
        fit = LogisticRegression(max_iter=500).fit(said, y, weight)
        if len(fit.coef_) == 1:
            return np.concatenate([-fit.coef_, fit.coef_]) / 2, np.concatenate([-fit.intercept_, fit.intercept_]) / 2
        return np.asarray(fit.coef_), np.asarray(fit.intercept_)
    scale, shift = np.zeros((outputs, outputs)), np.zeros(outputs)
    for k, column in enumerate(y.T):
        if len(np.unique(column)) == 1:  # all samples have it, or none: counted once more than seen
            shift[k] = np.log(len(column) + 1.0) * (1 if column[0] else -1)
            continue
        fit = LogisticRegression(max_iter=500).fit(said[:, k : k + 1], column, weight)
        scale[k, k], shift[k] = fit.coef_[0, 0], fit.intercept_[0]
    return scale, shift
