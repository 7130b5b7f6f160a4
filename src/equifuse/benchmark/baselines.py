"""The linear baseline: what any fusion has to beat."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from equifuse.data import MultimodalDataset, Split
from equifuse.data.lazy import in_memory
from equifuse.errors import InputError
from equifuse.tasks import Measurement, Task
from equifuse.tasks.linear import LinearFit

LINEAR = "linear"
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
        fit: the task's fit, of features to raw outputs.
        loss: on the validation part.
    """

    task: Task
    modalities: tuple[str, ...]
    means: dict[str, NDArray[np.float64]]
    scales: dict[str, NDArray[np.float64]]
    fit: LinearFit
    loss: float = math.nan

    @property
    def parameters(self) -> int:
        """Number of coefficients."""
        return self.fit.parameters

    def metrics(self, split: Split) -> dict[str, float | None]:
        """The task's metrics on a split, None where undefined; modalities missing in it count as average."""
        return self.measure(split).values

    def measure(self, split: Split) -> Measurement:
        """:meth:`metrics`, and why some have no value."""
        target = None if split.target is None else torch.from_numpy(split.target)
        prediction = torch.from_numpy(self.fit.predict(self._features(split))).float()
        return self.task.assess(prediction, target)

    def _features(self, split: Split) -> list[NDArray[np.float64]]:
        return [_scaled(split, m, self.means[m], self.scales[m]) for m in self.modalities]


def fit_linear(dataset: MultimodalDataset, task: Task) -> LinearModel:
    """The task's linear model on all features, of the strength that is best on validation.

    Logistic regression, ridge regression, or canonical directions between the first two modalities; of the strengths of
    the penalty (of retrieval: the numbers of directions) the one with the lowest loss on the validation part.

    Args:
        dataset: the data.
        task: its task.

    Raises:
        InputError: a task there is no linear baseline for.
    """
    train, val = dataset.splits["train"], dataset.splits["val"]
    means, scales = {}, {}
    for m in dataset.modalities:
        x = _flat(train, m)
        there = x[train.present[m]] if m in train.present else x
        means[m], deviation = there.mean(axis=0), there.std(axis=0)
        scales[m] = np.where(deviation > 0, deviation, 1.0)
    features = [_scaled(train, m, means[m], scales[m]) for m in dataset.modalities]
    best: tuple[float, LinearModel] | None = None
    for fit in task.linear_fits(features, train.target):
        model = LinearModel(task, dataset.modalities, means, scales, fit)
        loss = model.metrics(val)["loss"]
        if loss is not None and (best is None or loss < best[0]):
            best = (loss, replace(model, loss=loss))
    if best is None:
        raise InputError(f"the linear baseline has no loss on the validation part of {dataset.name!r}")
    return best[1]


def _flat(split: Split, modality: str) -> NDArray[np.float64]:
    x = in_memory(split.inputs[modality])
    return x.reshape(len(x), -1).astype(np.float64)


def _scaled(split: Split, modality: str, mean: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    if modality not in split.inputs:
        return np.zeros((len(split), len(mean)))
    x = ((_flat(split, modality) - mean) / scale).clip(-_CLIP, _CLIP)
    return np.where(split.present[modality][:, None], x, 0.0) if modality in split.present else x
