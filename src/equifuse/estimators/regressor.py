"""Regression with the interface of scikit-learn."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin
from torch import Tensor

from equifuse.data import Split
from equifuse.errors import DataError
from equifuse.estimators.base import FusionEstimator, Parameter
from equifuse.fusion import Trees
from equifuse.model import FusionModel
from equifuse.runs.config import TrainConfig
from equifuse.runs.prepare import output_maps
from equifuse.tasks import Regression
from equifuse.tasks.targets import in_single_precision
from equifuse.training.cycles import Snapshot
from equifuse.training.trainer import TrainingResult


@dataclass(frozen=True)
class Units:
    """What targets are counted in while a model is trained: in ``scale`` from ``shift``, both float64 ``(K,)``."""

    scale: Tensor
    shift: Tensor

    @classmethod
    def of(cls, target: NDArray[Any], weight: NDArray[Any] | None) -> Units:
        """Those of targets ``(n, K)``; see :meth:`equifuse.tasks.Regression.units`."""
        scale, shift = Regression.units(target, weight=weight)
        return cls(torch.from_numpy(scale), torch.from_numpy(shift))


class FusionRegressor(RegressorMixin, FusionEstimator):  # type: ignore[misc]
    """A fusion model as a scikit-learn regressor of one target ``(n,)`` or several ``(n, K)``.

    >>> generator = np.random.default_rng(0)
    >>> X = {m: generator.standard_normal((60, 4)) for m in ("mrna", "meth")}
    >>> model = ef.FusionRegressor("concat", epochs=2, random_state=0).fit(X, X["mrna"].sum(1))
    >>> model.predict(X).shape
    (60,)

    The targets are standardised in training, and the last affine map is rescaled to their units afterwards: neither
    their scale nor their offset has an effect on training, and ``model_`` predicts in their units.

    What ``X`` may be, and the attributes, are those of :class:`~equifuse.FusionClassifier`.

    Args:
        {parameters}
    """

    _task: ClassVar[str] = "regression"
    _own: ClassVar[dict[str, Parameter]] = {
        **FusionEstimator._own,
        "loss": Parameter(
            "mse",
            '"mse", "l1" or "huber" (threshold 1), of standardised targets; so are the numbers in ``history_``.',
        ),
    }

    loss: str

    def __sklearn_tags__(self) -> Any:
        """Several targets will do."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def partial_fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Self:
        """One pass over the samples, from where the estimator is; there is no early stopping.

        Preprocessing and the targets' units are fitted on the samples of the first call only.

        Args:
            X: as in ``fit``.
            y: targets ``(n,)`` or ``(n, K)``.
            sample_weight: as in ``fit``.

        Returns:
            The estimator.

        Raises:
            InputError, UnknownNameError, DataError: as in ``fit``.
        """
        return self._partial_fit(X, y, sample_weight, not hasattr(self, "model_"))

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Predictions, ``(n,)`` or ``(n, K)`` as the targets were.

        Raises:
            NotFittedError: there is no model yet.
            InputError: ``X`` does not fit the model.
            DataError: samples that cannot be used.
        """
        values = self._raw(X).double().numpy()
        return values[:, 0] if self._flat else values

    def score(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> float:
        """The coefficient of determination R² of predictions; rows of frames are matched by index as in ``fit``."""
        return float(super().score(*self._in_order(X, y, sample_weight)))

    def _y_options(self) -> dict[str, Any]:
        return {"multi_output": True, "y_numeric": True}

    def _config(self, seed: int) -> TrainConfig:
        return replace(super()._config(seed), task_options={"loss": self.loss})

    def _encode(self, y: NDArray[Any], anew: bool) -> NDArray[Any]:
        self._flat: bool = y.ndim == 1
        try:
            values: NDArray[Any] = y.reshape(len(y), -1).astype(np.float64)
        except (TypeError, ValueError):
            raise DataError(f"y must be numbers, got {y.ravel().tolist()[0]!r}") from None
        lacking = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(lacking):
            raise DataError(f"y has no value in {len(lacking)} of {len(y)} rows, the first is {lacking[0]}")
        if self.dtype == "float32":
            in_single_precision(values)
        if hasattr(self, "model_") and not anew and values.shape[1] != self._n_targets:
            raise DataError(f"y has {values.shape[1]} targets, the estimator was fitted with {self._n_targets}")
        self._n_targets: int = values.shape[1]
        return values

    def _outputs_and_classes(self) -> tuple[int, tuple[str, ...] | None]:
        return self._n_targets, None

    def _build(self, config: TrainConfig, train: Split) -> FusionModel:
        model = super()._build(config, train)
        assert train.target is not None
        units = Units(torch.ones(self._n_targets).double(), torch.zeros(self._n_targets).double())
        if output_maps(model):
            units = Units.of(train.target, train.weight)
            rescale(model, units.scale, units.shift)
        self._units = units
        return model

    def _train(
        self, config: TrainConfig, train: Split, val: Split | None, steps: dict[str, Any] | None
    ) -> TrainingResult:
        units, model = self._units, self.model_
        rescale(model, 1 / units.scale, -units.shift / units.scale)
        model.spreads = [1.0] * self._n_targets
        try:
            found = super()._train(config, self._scaled(train), None if val is None else self._scaled(val), steps)
        finally:
            rescale(model, units.scale, units.shift)
            model.spreads = units.scale.tolist()
        return replace(found, snapshots=found.snapshots and [self._snapshot_in_units(each) for each in found.snapshots])

    def _snapshot_in_units(self, snapshot: Snapshot) -> Snapshot:
        """The same of a model that predicts in the targets' units."""
        model = deepcopy(self.model_)
        model.load_state_dict(snapshot.weights)
        rescale(model, self._units.scale, self._units.shift)
        return replace(snapshot, weights=model.state_dict())

    def _scaled(self, split: Split) -> Split:
        """The same with targets in units of their deviation from their mean."""
        assert split.target is not None
        target = (split.target - self._units.shift.numpy()) / self._units.scale.numpy()
        return replace(split, target=target.astype(self.dtype))


@torch.no_grad()
def rescale(model: FusionModel, scale: Tensor, shift: Tensor) -> None:
    """Let the model give ``scale · prediction + shift``, by output ``(K,)``."""
    alone = model.unimodal
    if isinstance(model.fusion, Trees):
        model.fusion.rescale(scale, shift)
    for last in [*output_maps(model), *(alone.maps() if alone else ())]:
        last.rescale(scale, shift)
    if alone:
        alone.offset.copy_(alone.offset.double() * scale + shift)
