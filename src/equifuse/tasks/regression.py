"""One or several numbers per sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from equifuse.encoders.preparation.outliers import usual_range
from equifuse.encoders.preparation.standardize import moments, replace_outliers
from equifuse.errors import InputError, UnknownNameError
from equifuse.tasks.base import Columns, Task, average, needed, output_names
from equifuse.tasks.linear import LinearFit, ridge
from equifuse.tasks.metrics import Metric
from equifuse.tasks.targets import Quantities, Targets, are_quantities

Floats = NDArray[np.float64]
_LOSSES: dict[str, Callable[..., Tensor]] = {"mse": F.mse_loss, "l1": F.l1_loss, "huber": F.huber_loss}
# Spreads from which on squared errors grow no faster than the error.
_FAR = 5.0


def mae(p: Floats, y: Floats) -> float:
    """Mean absolute error."""
    return float(np.abs(y - p).mean())


def rmse(p: Floats, y: Floats) -> float:
    """Root of the mean squared error, the mean over the targets."""
    return float(np.sqrt(np.square(y - p).mean(axis=0)).mean())


def r2(p: Floats, y: Floats) -> float:
    """Share of the variance explained, the mean over the targets that vary."""
    from sklearn import metrics  # noqa: PLC0415

    varied = np.ptp(y, axis=0) > 0
    return float(metrics.r2_score(y[:, varied], p[:, varied]))


def pearson(p: Floats, y: Floats) -> float:
    """Correlation, the mean over the targets that vary and whose prediction does."""
    from scipy.stats import pearsonr  # noqa: PLC0415

    both = (np.ptp(y, axis=0) > 0) & _varies(p)
    return float(np.mean([pearsonr(y[:, k], p[:, k]).statistic for k in np.flatnonzero(both)]))


def _varies(p: Floats) -> NDArray[np.bool_]:
    """Which columns differ by more than the rounding of float32, in which they were predicted."""
    return np.asarray(np.ptp(p, axis=0) > 4 * np.finfo(np.float32).eps * np.abs(p).max(axis=0))


def _constant_target(p: Floats, y: Floats) -> str | None:
    return None if (np.ptp(y, axis=0) > 0).any() else "the target is constant"


def _constant(p: Floats, y: Floats) -> str | None:
    moving = (np.ptp(y, axis=0) > 0) & _varies(p)
    return _constant_target(p, y) or (None if moving.any() else "the prediction is constant")


def _agreement(most: int, p: Floats, y: Floats) -> float:
    """Share of scores that are the same, clipped to ±``most`` and rounded."""
    p, y = _scores(p, y)
    return float((np.round(np.clip(y, -most, most)) == np.round(np.clip(p, -most, most))).mean())


def _accuracy_of_sign(without_zero: bool, p: Floats, y: Floats) -> float:
    """Share of scores whose sign is right: negative against not, or against positive without those of 0."""
    a, b = _signs(without_zero, p, y)
    return float((a == b).mean())


def _f1_of_sign(without_zero: bool, p: Floats, y: Floats) -> float:
    """Weighted F1 of the signs."""
    from sklearn import metrics  # noqa: PLC0415

    return float(metrics.f1_score(*_signs(without_zero, p, y), average="weighted", zero_division=0))


def _signs(without_zero: bool, p: Floats, y: Floats) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """True and predicted: at least 0; or, of scores other than 0, more than 0."""
    p, y = _scores(p, y)
    return (y[y != 0] > 0, p[y != 0] > 0) if without_zero else (y >= 0, p >= 0)


def _scores(p: Floats, y: Floats) -> tuple[Floats, Floats]:
    if y.shape[1] != 1:
        raise InputError(f"the sentiment metrics are of one target, got {y.shape[1]}")
    return p[:, 0], y[:, 0]


def _all_zero(p: Floats, y: Floats) -> str | None:
    return None if y.any() else "all scores are 0"


SENTIMENT = (
    Metric("acc7", partial(_agreement, 3), format="percent", description="Share of the same of seven classes."),
    Metric("acc5", partial(_agreement, 2), format="percent", description="Share of the same of five classes."),
    Metric("acc2", partial(_accuracy_of_sign, False), format="percent", description="Negative against not negative."),
    Metric("f1", partial(_f1_of_sign, False), description="Weighted F1 of negative against not negative."),
    Metric(
        "acc2_nonzero",
        partial(_accuracy_of_sign, True),
        undefined_when=_all_zero,
        format="percent",
        description="Negative against positive.",
    ),
    Metric(
        "f1_nonzero",
        partial(_f1_of_sign, True),
        undefined_when=_all_zero,
        description="Weighted F1 of negative against positive.",
    ),
)


class Regression(Task):
    """One or several numbers per sample: squared errors of values ``(B, K)`` in the targets' own units.

    >>> Regression().metrics(torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [4.0]]))["mae"]
    1.0

    Metrics: ``mae``, ``rmse``, ``r2`` and ``pearson``, each the mean over the targets; a target that is constant in the
    split has no ``r2`` and no ``pearson``, and one whose prediction is constant no ``pearson``. They are undefined
    where no target has them.

    With ``sentiment`` the metrics of CMU-MOSI and CMU-MOSEI are added, for one target from -3 to 3: ``acc7`` and
    ``acc5`` (values clipped to [-3, 3] and [-2, 2] and rounded), ``acc2`` and ``f1`` (weighted) of negative against
    not negative, over all samples, and ``acc2_nonzero`` and ``f1_nonzero`` of negative against positive, over the
    samples whose target is not 0. Rounding is to the nearest even number at halves, as in the code that these metrics
    come from.

    Args:
        classes: names of the targets, or None.
        loss: "mse", "l1" or "huber" (threshold 1), of errors in their target's spread.
        sentiment: add the sentiment metrics.
        spreads: what errors of each target are counted in by the loss, such as its deviation in the training part,
            which training fills in; None for 1. With spreads "mse" squares errors up to five of them, beyond which they
            count linearly, so that one wrong target does not decide everything. Metrics are in the targets' own units.

    Raises:
        UnknownNameError: an unknown loss.
        InputError: a spread that is not above 0.
    """

    name: ClassVar[str] = "regression"
    predicts_quantities: ClassVar[bool] = True
    targets: ClassVar[Targets] = Quantities()
    measures: tuple[Metric, ...] = (
        Metric("mae", mae, higher_is_better=False, description="Mean absolute error."),
        Metric("rmse", rmse, higher_is_better=False, description="Root of the mean squared error."),
        Metric("r2", r2, undefined_when=_constant_target, description="Share of the variance explained."),
        Metric("pearson", pearson, undefined_when=_constant, description="Correlation."),
    )
    headline = "mae"
    mixes_samples = True
    values: ClassVar[tuple[str, ...]] = ("output",)
    conformal: ClassVar[Literal["sets", "intervals"] | None] = "intervals"
    drawn_as: ClassVar[str] = "predicted_against_true"
    without_features: ClassVar[str] = "the training mean"

    def __init__(
        self,
        classes: tuple[str, ...] | None = None,
        loss: str = "mse",
        sentiment: bool = False,
        spreads: Sequence[float] | None = None,
    ) -> None:
        super().__init__(classes)
        if loss not in _LOSSES:
            raise UnknownNameError("loss", loss, _LOSSES)
        if spreads is not None and not all(0 < each < math.inf for each in spreads):
            raise InputError(f"spreads must be above 0, got {list(spreads)}")
        self.kind, self.sentiment, self.spreads = loss, sentiment, None if spreads is None else list(spreads)
        if sentiment:
            self.measures = (*self.measures, *SENTIMENT)

    def loss(self, prediction: Tensor, target: Tensor | None, weight: Tensor | None = None) -> Tensor:
        """Mean over samples and targets, each error in its target's spread."""
        error = prediction - needed(target)
        if self.spreads is not None:  # one by one: a tensor of them would have to be copied to where the errors are
            each = error.unbind(-1)
            error = torch.stack([e / spread for e, spread in zip(each, self.spreads, strict=True)], -1)
            if self.kind == "mse":
                return average(2 * F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=_FAR), weight)
        return average(_LOSSES[self.kind](error, torch.zeros_like(error), reduction="none"), weight)

    def soft_loss(
        self, prediction: Tensor, taught: Tensor, temperature: float = 1.0, weight: Tensor | None = None
    ) -> Tensor:
        """The task's loss with the other's values for targets; there is no temperature."""
        return self.loss(prediction, taught, weight)

    def readable(self, prediction: Tensor, target: Tensor | None) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Both float64 ``(n, K)``, in the targets' units."""
        return prediction.double().numpy(), needed(target).double().numpy()

    @classmethod
    def infers(cls, values: NDArray[Any]) -> bool:
        """Numbers that are neither classes nor labels."""
        return are_quantities(values)

    @classmethod
    def units(
        cls, target: NDArray[Any], names: tuple[str, ...] | None = None, weight: NDArray[Any] | None = None
    ) -> tuple[Floats, Floats]:
        """The targets' deviations, 1 of one that is constant, and their means; both look past outliers.

        See ``equifuse.encoders.preparation.outliers.usual_range``.
        """
        ends = (torch.from_numpy(end) for end in usual_range(target))
        values = replace_outliers(torch.from_numpy(target.astype(np.float64)), *ends)
        mean, deviation = moments(values, None if weight is None else torch.from_numpy(weight))
        return deviation.numpy(), mean.numpy()

    @classmethod
    def linear_fits(
        cls, features: list[Floats], target: NDArray[Any] | None, weight: Floats | None = None
    ) -> list[LinearFit]:
        """Ridge regressions."""
        assert target is not None
        return ridge(features, target, weight)

    def base_output(self, target: NDArray[Any], outputs: int) -> Floats:
        """The mean of the targets."""
        return np.asarray(target.mean(axis=0, dtype=np.float64))

    def sample_losses(self, prediction: Tensor, target: Tensor) -> Tensor | None:
        """Absolute error in deviations of the given targets, the mean over the targets."""
        deviation = target.std(0, correction=0).clamp(min=torch.finfo(target.dtype).eps)
        return ((prediction - target).abs() / deviation).mean(dim=1)

    def sample_scores(self, prediction: Tensor, target: Tensor) -> Tensor:
        """``1 / (1 + e²)``, ``e²`` the squared error in variances of the given targets, on average over the targets.

        The mean of the targets scores about ½.
        """
        variance = target.var(0, correction=0).clamp(min=torch.finfo(target.dtype).eps)
        return 1 / (1 + ((prediction - target) ** 2 / variance).mean(dim=-1))

    def predict(self, prediction: Tensor) -> Columns:
        """``prediction`` for one target, ``prediction_<target>`` for several."""
        values = prediction.numpy()
        if values.shape[1] == 1:
            return {"prediction": values[:, 0]}
        return {f"prediction_{n}": values[:, k] for k, n in enumerate(output_names(self.classes, values.shape[1]))}
