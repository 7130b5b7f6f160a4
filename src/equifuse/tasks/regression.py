"""One or several numbers per sample."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from equifuse.tasks.base import Columns, Task, needed, output_names


class Regression(Task):
    """Mean squared error on values ``(B, K)`` in the targets' own units.

    Metrics: ``mae``, ``rmse``, ``r2`` and ``pearson``, each the mean over the targets; a target that is constant in the
    split has no ``r2`` and no ``pearson``.
    """

    name: ClassVar[str] = "regression"
    headline: ClassVar[str] = "mae"

    def loss(self, prediction: Tensor, target: Tensor | None) -> Tensor:
        """Mean squared error over samples and targets."""
        return F.mse_loss(prediction, needed(target))

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
        return found

    def predict(self, prediction: Tensor) -> Columns:
        """``prediction`` for one target, ``prediction_<target>`` for several."""
        values = prediction.numpy()
        if values.shape[1] == 1:
            return {"prediction": values[:, 0]}
        return {f"prediction_{n}": values[:, k] for k, n in enumerate(output_names(self.classes, values.shape[1]))}
