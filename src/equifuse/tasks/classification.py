"""One class per sample."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from equifuse.errors import InputError
from equifuse.tasks.base import Columns, Task, needed, output_names, probabilities


class Classification(Task):
    """Cross-entropy on logits ``(B, K)`` against int64 labels ``(B,)``.

    Metrics: ``accuracy``, ``f1_macro``, ``f1_weighted``, ``log_loss``; for two classes ``f1`` (of class 1); and ``auc``
    (ROC; one class against the rest, macro mean, for more than two classes), left out where a class does not occur in
    the split.

    Args:
        classes: class names, or None.
        label_smoothing: share of the probability spread over all classes during training, in [0, 1).

    Raises:
        InputError: ``label_smoothing`` is out of range.
    """

    name: ClassVar[str] = "classification"
    headline: ClassVar[str] = "accuracy"

    def __init__(self, classes: tuple[str, ...] | None = None, label_smoothing: float = 0.0) -> None:
        super().__init__(classes)
        if not 0 <= label_smoothing < 1:
            raise InputError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        self.label_smoothing = label_smoothing

    def loss(self, prediction: Tensor, target: Tensor | None) -> Tensor:
        """Mean cross-entropy, with label smoothing."""
        return F.cross_entropy(prediction, needed(target), label_smoothing=self.label_smoothing)

    def metrics(self, prediction: Tensor, target: Tensor | None) -> dict[str, float]:
        """See the class docstring."""
        from sklearn import metrics  # noqa: PLC0415

        y, p = needed(target).numpy(), probabilities(prediction)
        labels, best = np.arange(p.shape[1]), p.argmax(axis=1)
        found = {
            "accuracy": metrics.accuracy_score(y, best),
            "f1_macro": metrics.f1_score(y, best, average="macro", zero_division=0),
            "f1_weighted": metrics.f1_score(y, best, average="weighted", zero_division=0),
            "log_loss": metrics.log_loss(y, p, labels=labels),
        }
        if len(labels) == 2:
            found["f1"] = metrics.f1_score(y, best, zero_division=0)
        if len(labels) > 1 and len(np.unique(y)) == len(labels):
            binary = len(labels) == 2
            found["auc"] = metrics.roc_auc_score(y, p[:, 1] if binary else p, multi_class="ovr", average="macro")
        return {name: float(value) for name, value in found.items()}

    def predict(self, prediction: Tensor) -> Columns:
        """``prediction`` (class name, or number where classes have no names) and ``prob_<class>``."""
        p = probabilities(prediction)
        best = p.argmax(axis=1)
        names = output_names(self.classes, p.shape[1])
        column = best if self.classes is None else np.array(names)[best]
        return {"prediction": column, **{f"prob_{name}": p[:, k] for k, name in enumerate(names)}}
