"""The linear baseline: what any fusion has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from equifuse.data import MultimodalDataset, Split
from equifuse.data.lazy import in_memory
from equifuse.errors import InputError
from equifuse.tasks import Task

LINEAR = "linear"
LINEAR_TASKS = ("classification", "multilabel", "regression", "retrieval")
_STRENGTHS = (1e-3, 1e-2, 0.1, 1.0)
_DIRECTIONS = (2, 5, 10)
# As the networks' inputs: standardised features are clipped.
_CLIP = 5.0


@dataclass(frozen=True)
class LinearModel:
    """A fitted linear model of all modalities' features, standardised on train; what is missing is the mean.

    Attributes:
        task: the task it was fitted for.
        modalities: their names in order.
        means: modality name -> mean of its features ``(l,)``.
        scales: modality name -> standard deviation, 1 where it is 0.
        fitted: scikit-learn's model.
        parameters: number of coefficients.
    """

    task: Task
    modalities: tuple[str, ...]
    means: dict[str, NDArray[np.float64]]
    scales: dict[str, NDArray[np.float64]]
    fitted: Any
    parameters: int

    def metrics(self, split: Split) -> dict[str, float]:
        """The task's metrics on a split, modalities missing in it counted as average."""
        target = None if split.target is None else torch.from_numpy(split.target)
        prediction = torch.from_numpy(_predict(self.task.name, self.fitted, self._features(split))).float()
        return {"loss": self.task.loss(prediction, target).item(), **self.task.metrics(prediction, target)}

    def _features(self, split: Split) -> list[NDArray[np.float64]]:
        return [_scaled(split, m, self.means[m], self.scales[m]) for m in self.modalities]


def fit_linear(dataset: MultimodalDataset, task: Task) -> LinearModel:
    """Logistic regression, ridge regression or canonical directions on all features, chosen on validation.

    The strength of the penalty (for retrieval: the number of directions between the first two modalities) is the one
    with the lowest loss on the validation part.

    Args:
        dataset: the data.
        task: its task.

    Raises:
        InputError: a task there is no linear baseline for.
    """
    if dataset.task not in LINEAR_TASKS:
        raise InputError(f"there is no linear baseline for {dataset.task}; take it out of the methods")
    train, val = dataset.splits["train"], dataset.splits["val"]
    means, scales = {}, {}
    for m in dataset.modalities:
        x = _flat(train, m)
        there = x[train.present[m]] if m in train.present else x
        means[m], deviation = there.mean(axis=0), there.std(axis=0)
        scales[m] = np.where(deviation > 0, deviation, 1.0)
    features = [_scaled(train, m, means[m], scales[m]) for m in dataset.modalities]
    candidates: list[tuple[float, int, LinearModel]] = []
    for fitted, parameters in _candidates(dataset.task, features, train.target):
        model = LinearModel(task, dataset.modalities, means, scales, fitted, parameters)
        candidates.append((model.metrics(val)["loss"], len(candidates), model))
    return min(candidates)[2]


def _candidates(task: str, features: list[NDArray[np.float64]], target: Any) -> list[tuple[Any, int]]:
    from sklearn.cross_decomposition import PLSSVD  # noqa: PLC0415
    from sklearn.linear_model import LogisticRegression, Ridge  # noqa: PLC0415
    from sklearn.multiclass import OneVsRestClassifier  # noqa: PLC0415

    x = np.concatenate(features, axis=1)
    if task == "retrieval":
        a, b = features[:2]
        counts = [k for k in _DIRECTIONS if k <= min(a.shape[1], b.shape[1])] or [min(a.shape[1], b.shape[1])]
        return [(PLSSVD(n_components=k).fit(a, b), k * (a.shape[1] + b.shape[1])) for k in counts]
    if task == "regression":
        fits: list[Any] = [Ridge(alpha=10 / c).fit(x, target) for c in _STRENGTHS]
    elif task == "multilabel":
        fits = [OneVsRestClassifier(LogisticRegression(C=c, max_iter=500)).fit(x, target) for c in _STRENGTHS]
    else:
        fits = [LogisticRegression(C=c, max_iter=500).fit(x, target) for c in _STRENGTHS]
    outputs = 1 if task == "classification" and int(target.max()) == 1 else target.max() + 1
    outputs = target.shape[1] if target.ndim == 2 else outputs
    return [(fit, int(outputs) * (x.shape[1] + 1)) for fit in fits]


def _predict(task: str, fitted: Any, features: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Raw outputs ``(n, K)`` as the task takes them: logits, values, or two embeddings ``(n, 2, k)``."""
    if task == "retrieval":
        return np.stack(fitted.transform(*features[:2]), axis=1)
    x = np.concatenate(features, axis=1)
    if task == "regression":
        values: NDArray[np.float64] = fitted.predict(x)
        return values.reshape(len(x), -1)
    if task == "multilabel":
        return np.column_stack([estimator.decision_function(x) for estimator in fitted.estimators_])
    scores = fitted.decision_function(x)
    return np.stack([-scores / 2, scores / 2], axis=1) if scores.ndim == 1 else scores


def _flat(split: Split, modality: str) -> NDArray[np.float64]:
    x = in_memory(split.inputs[modality])
    return x.reshape(len(x), -1).astype(np.float64)


def _scaled(split: Split, modality: str, mean: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    if modality not in split.inputs:
        return np.zeros((len(split), len(mean)))
    x = ((_flat(split, modality) - mean) / scale).clip(-_CLIP, _CLIP)
    return np.where(split.present[modality][:, None], x, 0.0) if modality in split.present else x
