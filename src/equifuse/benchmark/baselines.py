"""The linear baseline: what any fusion has to beat."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from equifuse.data import MultimodalDataset, Split
from equifuse.data.columns import kinds_of
from equifuse.data.lazy import in_memory
from equifuse.encoders.preparation import Preparation, Sample, complete_steps, fit_steps, parse_steps
from equifuse.errors import InputError
from equifuse.tasks import Measurement, Task
from equifuse.tasks.linear import LinearFit

LINEAR = "linear"


@dataclass(frozen=True)
class LinearModel:
    """A fitted linear model of all modalities' features, standardised on train; what is missing is the mean.

    Attributes:
        task: the task it was fitted for.
        modalities: their names in order.
        steps: modality name -> what its features go through: the mean for empty cells, and standardising.
        fit: the task's fit, of features to raw outputs.
        loss: on the validation part.
    """

    task: Task
    modalities: tuple[str, ...]
    steps: dict[str, list[Preparation]]
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
        return [_prepared(split, m, self.steps[m]) for m in self.modalities]


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
    train, val = dataset.splits["train"].labelled(), dataset.splits["val"]
    steps, features = {}, []
    for m in dataset.modalities:
        x = torch.from_numpy(_flat(train, m))
        there = x[torch.from_numpy(train.present[m])] if m in train.present else x
        kinds = kinds_of(dataset.schema.get(m, ()))
        steps[m] = complete_steps(parse_steps("impute:mean"), kinds)
        fit_steps(steps[m], Sample(there, kinds))
        features.append(_prepared(train, m, steps[m]))
    best: tuple[float, LinearModel] | None = None
    for fit in task.linear_fits(features, train.target):
        model = LinearModel(task, dataset.modalities, steps, fit)
        loss = model.metrics(val)["loss"]
        if loss is not None and (best is None or loss < best[0]):
            best = (loss, replace(model, loss=loss))
    if best is None:
        raise InputError(f"the linear baseline has no loss on the validation part of {dataset.name!r}")
    return best[1]


def _flat(split: Split, modality: str) -> NDArray[np.float64]:
    x = in_memory(split.inputs[modality])
    return x.reshape(len(x), -1).astype(np.float64)


def _prepared(split: Split, modality: str, steps: list[Preparation]) -> NDArray[np.float64]:
    """Features behind the steps; 0, the mean, where a sample does not have the modality."""
    if modality not in split.inputs:
        return np.zeros((len(split), steps[-1].width))
    x = torch.from_numpy(_flat(split, modality))
    for step in steps:
        x = step(x)
    there = split.present.get(modality)
    found: NDArray[np.float64] = x.numpy()
    return found if there is None else np.where(there[:, None], found, 0.0)
