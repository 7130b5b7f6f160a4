"""Any number of labels per sample."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from equifuse.tasks.base import Columns, Task, average, needed, output_names


class Multilabel(Task):
    """Binary cross-entropy on logits ``(B, K)`` against 0/1 targets ``(B, K)``.

    Metrics: ``f1_micro``, ``f1_macro``, ``f1_weighted``, ``f1_samples`` at probability 0.5, and ``map`` (mean average
    precision over the labels that occur in the split; left out where none does).
    """

    name: ClassVar[str] = "multilabel"
    headline: ClassVar[str] = "f1_weighted"

    def loss(self, prediction: Tensor, target: Tensor | None, weight: Tensor | None = None) -> Tensor:
        """Mean binary cross-entropy over samples and labels."""
        return average(F.binary_cross_entropy_with_logits(prediction, needed(target), reduction="none"), weight)

    def metrics(self, prediction: Tensor, target: Tensor | None) -> dict[str, float]:
        """See the class docstring."""
        from sklearn import metrics  # noqa: PLC0415

        y, p = needed(target).numpy().astype(np.int64), torch.sigmoid(prediction.double()).numpy()
        chosen = (p > 0.5).astype(np.int64)
        # scikit-learn takes a single column for a binary problem without averages; a copy changes none of them.
        pair = (y, chosen) if y.shape[1] > 1 else (np.hstack([y, y]), np.hstack([chosen, chosen]))
        found = {
            f"f1_{average}": float(metrics.f1_score(*pair, average=average, zero_division=0))
            for average in ("micro", "macro", "weighted", "samples")
        }
        occurs = y.any(axis=0)
        if occurs.any():
            found["map"] = float(metrics.average_precision_score(y[:, occurs], p[:, occurs], average="macro"))
        return found

    def predict(self, prediction: Tensor) -> Columns:
        """``prediction`` (names of the labels above 0.5, joined by ``;``) and ``prob_<label>``."""
        p = torch.sigmoid(prediction.double()).numpy()
        names = output_names(self.classes, p.shape[1])
        joined = np.array([";".join(n for n, on in zip(names, row, strict=True) if on) for row in p > 0.5], dtype=str)
        return {"prediction": joined, **{f"prob_{name}": p[:, k] for k, name in enumerate(names)}}
