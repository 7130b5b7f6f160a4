"""One or several numbers per sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from equifuse.errors import InputError, UnknownNameError
from equifuse.tasks.base import Columns, Task, average, needed, output_names

_LOSSES: dict[str, Callable[..., Tensor]] = {"mse": F.mse_loss, "l1": F.l1_loss, "huber": F.huber_loss}


def sentiment_metrics(y: NDArray[np.float64], p: NDArray[np.float64]) -> dict[str, float]:
    """The metrics of CMU-MOSI for scores ``(n, 1)``; see :class:`Regression`.

    Raises:
        InputError: more than one target.
    """
    from sklearn import metrics  # noqa: PLC0415

    if y.shape[1] != 1:
        raise InputError(f"the sentiment metrics are of one target, got {y.shape[1]}")
    y, p = y[:, 0], p[:, 0]
    found = {}
    for name, most in (("acc7", 3), ("acc5", 2)):
        found[name] = float((np.round(np.clip(y, -most, most)) == np.round(np.clip(p, -most, most))).mean())
    found["acc2"] = float(((y >= 0) == (p >= 0)).mean())
    found["f1"] = float(metrics.f1_score(y >= 0, p >= 0, average="weighted", zero_division=0))
    told = y != 0
    if told.any():
        found["acc2_nonzero"] = float(((y[told] > 0) == (p[told] > 0)).mean())
        found["f1_nonzero"] = float(metrics.f1_score(y[told] > 0, p[told] > 0, average="weighted", zero_division=0))
    return found


class Regression(Task):
    """Mean squared error on values ``(B, K)`` in the targets' own units.

    Metrics: ``mae``, ``rmse``, ``r2`` and ``pearson``, each the mean over the targets; a target that is constant in the
    split has no ``r2`` and no ``pearson``.

    With ``sentiment`` the metrics of CMU-MOSI and CMU-MOSEI are added, for one target from -3 to 3: ``acc7`` and
    ``acc5`` (values clipped to [-3, 3] and [-2, 2] and rounded), ``acc2`` and ``f1`` (weighted) of negative against
    not negative, over all samples, and ``acc2_nonzero`` and ``f1_nonzero`` of negative against positive, over the
    samples whose target is not 0. Rounding is to the nearest even number at halves, as in the code that these metrics
    come from.

    Args:
        classes: names of the targets, or None.
        loss: "mse", "l1" or "huber" (threshold 1).
        sentiment: add the sentiment metrics.

    Raises:
        UnknownNameError: an unknown loss.
    """

    name: ClassVar[str] = "regression"
    headline: ClassVar[str] = "mae"

    def __init__(self, classes: tuple[str, ...] | None = None, loss: str = "mse", sentiment: bool = False) -> None:
        super().__init__(classes)
        if loss not in _LOSSES:
            raise UnknownNameError("loss", loss, _LOSSES)
        self.kind, self.sentiment = loss, sentiment

    def loss(self, prediction: Tensor, target: Tensor | None, weight: Tensor | None = None) -> Tensor:
        """Mean over samples and targets."""
        return average(_LOSSES[self.kind](prediction, needed(target), reduction="none"), weight)

    def metrics(self, prediction: Tensor, target: Tensor | None) -> dict[str, float]:
        """See the class docstring."""
        from scipy.stats import pearsonr  # noqa: PLC0415
        from sklearn import metrics  # noqa: PLC0415

        y, p = needed(target).double().numpy(), prediction.double().numpy()
        found = {
            "mae": float(metrics.mean_absolute_error(y, p)),
            "rmse": float(metrics.root_mean_squared_error(y, p)),
        }
        varied = [k for k in range(y.shape[1]) if np.ptp(y[:, k]) > 0]
        if varied:
            found["r2"] = float(metrics.r2_score(y[:, varied], p[:, varied]))
        moving = [k for k in varied if np.ptp(p[:, k]) > 0]
        if moving:
            found["pearson"] = float(np.mean([pearsonr(y[:, k], p[:, k]).statistic for k in moving]))
        if self.sentiment:
            found |= sentiment_metrics(y, p)
        return found

    def predict(self, prediction: Tensor) -> Columns:
        """``prediction`` for one target, ``prediction_<target>`` for several."""
        values = prediction.numpy()
        if values.shape[1] == 1:
            return {"prediction": values[:, 0]}
        return {f"prediction_{n}": values[:, k] for k, n in enumerate(output_names(self.classes, values.shape[1]))}
