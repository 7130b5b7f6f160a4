"""Methods that scikit-learn fits at once on the columns of all modalities side by side, kept as plain arrays."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equifuse.errors import InputError
from equifuse.fusion.base import FlatInputs, Fusion, FusionOutput
from equifuse.fusion.decision import check_outputs
from equifuse.fusion.make import register
from equifuse.fusion.output_map import OutputMap

if TYPE_CHECKING:
    from equifuse.tasks import Task

Floats = NDArray[np.float64]
# What a method is: name of each array -> its values, as they are stored.
State = Mapping[str, Tensor]


@dataclass(frozen=True)
class FittingProblem:
    """What a :class:`FittedFusion` is fitted to.

    Attributes:
        columns: ``(n, D)``, see :meth:`FittedFusion.columns`.
        target: of the ``n`` samples, as the task has it; None where it needs none.
        weight: ``(n,)``, what each sample counts, or None.
        task: what the targets mean.
        seed: of what is drawn.
    """

    columns: Floats
    target: NDArray[Any] | None
    weight: Floats | None
    task: Task
    seed: int

    def weighted(self, rows: NDArray[np.intp]) -> Floats | None:
        """What some samples count."""
        return None if self.weight is None else self.weight[rows]

    def at(self, rows: NDArray[np.intp]) -> FittingProblem:
        """That of some samples."""
        target = None if self.target is None else self.target[rows]
        return replace(self, columns=self.columns[rows], target=target, weight=self.weighted(rows))

    def some(self, most: int) -> FittingProblem:
        """That of so many samples at most, drawn by the seed; of a class that would be left out all."""
        if len(self.columns) <= most:
            return self
        order = np.random.default_rng(self.seed).permutation(len(self.columns))
        rows = order[:most]
        if self.target is not None and self.target.ndim == 1:
            rows = np.union1d(rows, np.flatnonzero(~np.isin(self.target, self.target[rows])))
        return self.at(np.sort(rows))


def is_classes(problem: FittingProblem) -> bool:
    """Whether targets are classes or labels, not quantities."""
    assert problem.target is not None
    return problem.task.targets.response(problem.target)[1]


def folds_of(
    labels: NDArray[Any] | None, count: int, folds: int, seed: int
) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """The rows to learn from and those to predict, of every fold; a class has some to learn from in each.

    Args:
        labels: of the ``count`` rows, which folds have their shares of; None for none.
        count: number of rows.
        folds: how many, fewer where there are fewer rows.
        seed: of the draws.
    """
    order = np.random.default_rng(seed).permutation(count)
    if labels is not None:
        order = order[np.argsort(labels[order], kind="stable")]
    number = np.empty(count, dtype=np.int64)
    number[order] = np.arange(count) % min(folds, max(count, 2))
    found = []
    for fold in range(min(folds, max(count, 2))):
        learn, stop = np.flatnonzero(number != fold), np.flatnonzero(number == fold)
        if labels is not None:  # a class of one sample is learnt from it
            learn = np.union1d(learn, stop[~np.isin(labels[stop], labels[learn])])
        if len(stop) and len(learn):
            found.append((learn, stop))
    return found


class FittedFusion(Fusion):
    """Base of methods that are fitted in closed form, or by scikit-learn, and not by gradient descent.

    They take the prepared columns of all modalities side by side, and decide: ``fused`` is the prediction. A modality
    that is missing has zeros, the mean of standardised columns, and a column of its own says that it is missing.

    >>> trees = ef.make_fusion("trees", {"text": 6, "image": 8}, outputs=3)
    >>> isinstance(trees, ef.fusion.FittedFusion), trees.decides
    (True, True)

    Args:
        dims: modality name -> width ``l_m``.
        outputs: number of classes or other outputs ``K``, ≥ 1; set by :func:`equifuse.build_model`.

    Raises:
        InputError: ``outputs`` is below 1.
    """

    decides = True
    # Whether there are gradients with respect to the inputs.
    differentiable: ClassVar[bool] = True
    tasks: ClassVar[tuple[str, ...] | None] = ("classification", "multilabel", "regression")  # type: ignore[misc]

    def __init__(self, dims: Mapping[str, int], outputs: int = 2) -> None:
        check_outputs(outputs)
        super().__init__(dims)
        self.outputs = self.out_dim = outputs

    @property
    def width(self) -> int:
        """Number of columns ``D``: all features, and one for each modality that says where it is missing."""
        return sum(self.dims.values()) + len(self.dims)

    def columns(self, rows: FlatInputs) -> Tensor:
        """``(R, D)``: the features in the order of modalities, zeros where missing; then 1 where each is missing."""
        like = rows.like
        values = [
            rows.values[m] if m in rows.values else like.new_zeros(rows.count, width) for m, width in self.dims.items()
        ]
        missing = [(~rows.mask(m)).to(like.dtype) for m in self.dims]
        return torch.cat([*values, *missing], dim=1)

    @abstractmethod
    def candidates(self, problem: FittingProblem) -> Iterator[State]:
        """Fit with one setting after another; the one that is best on validation is :meth:`restored`."""

    @abstractmethod
    def restore(self, state: State) -> None:
        """Become what was fitted."""

    @abstractmethod
    def predict(self, columns: Tensor) -> Tensor:
        """Raw outputs ``(R, K)`` of columns ``(R, D)``."""

    def fuse(self, rows: FlatInputs) -> FusionOutput:
        """Predict from rows ``(R, l_m)``."""
        return FusionOutput(self.predict(self.columns(rows)), dict(rows.values))


@register
class LinearModel(FittedFusion):
    """A linear model of all modalities' columns: logistic regression or ridge regression, as the task has it.

    What any other method has to beat. The strength of the penalty is chosen on validation.

    >>> fusion = ef.fusion.LinearModel({"text": 30, "image": 50}, outputs=3)
    >>> fusion({"text": torch.randn(8, 30), "image": torch.randn(8, 50)}).fused.shape
    torch.Size([8, 3])

    Args:
        dims: modality name -> width ``l_m``.
        outputs: number of classes or other outputs ``K``; default 2, set by :func:`equifuse.build_model`.

    ``modalities`` holds the inputs.

    Raises:
        InputError: ``outputs`` is below 1.

    Formula: ``W [x_1, …, x_M, missing] + b``, zeros where a modality is missing.
    """

    name: ClassVar[str] = "linear"
    tasks: ClassVar[tuple[str, ...] | None] = None  # type: ignore[misc]  # those whose linear_fits has some

    def __init__(self, dims: Mapping[str, int], outputs: int = 2) -> None:
        super().__init__(dims, outputs)
        self.linear = OutputMap(self.width, outputs)

    def candidates(self, problem: FittingProblem) -> Iterator[State]:
        """The task's linear models, of several strengths."""
        ends = np.cumsum(list(self.dims.values()))
        features = np.split(problem.columns, ends, axis=1)
        for fit in problem.task.linear_fits(features, problem.target, problem.weight):
            yield {"weight": torch.from_numpy(fit.weight), "bias": torch.from_numpy(fit.bias)}

    @torch.no_grad()
    def restore(self, state: State) -> None:
        """Take the coefficients; of an embedding perhaps fewer than there are outputs, and the others are 0."""
        for name, parameter in self.linear.named_parameters():
            parameter.zero_()
            parameter[: len(state[name])] = state[name].to(parameter)

    def predict(self, columns: Tensor) -> Tensor:
        """``W x + b``."""
        found: Tensor = self.linear(columns)
        return found

    def output_maps(self) -> list[OutputMap]:
        """The one map."""
        return [self.linear]


def check_count(name: str, value: int) -> None:
    """Raise :class:`InputError` unless an option is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} must be a whole number of at least 1, got {value!r}")
