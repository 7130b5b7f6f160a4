"""One class per sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from equifuse.errors import InputError
from equifuse.tasks.base import Columns, Task, average, needed, output_names, probabilities, tiny


class Classification(Task):
    """Cross-entropy on logits ``(B, K)`` against int64 labels ``(B,)``.

    Metrics: ``accuracy``, ``f1_macro``, ``f1_weighted``, ``log_loss``; for two classes ``f1`` (of class 1); and ``auc``
    (ROC; one class against the rest, macro mean, for more than two classes), left out where a class does not occur in
    the split.

    Args:
        classes: class names, or None.
        label_smoothing: share of the probability spread over all classes during training, in [0, 1).
        class_weights: factor of each class's samples in the loss, ≥ 0; None for 1. The loss is the weighted mean.
        focal: the exponent γ of the focal loss ``−(1 − p)^γ log p`` (Lin et al. 2017), ≥ 0; 0 is cross-entropy.

    Raises:
        InputError: a value out of range.
    """

    name: ClassVar[str] = "classification"
    headline: ClassVar[str] = "accuracy"

    def __init__(
        self,
        classes: tuple[str, ...] | None = None,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
        focal: float = 0.0,
    ) -> None:
        super().__init__(classes)
        if not 0 <= label_smoothing < 1:
            raise InputError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        if focal < 0:
            raise InputError(f"focal must not be negative, got {focal}")
        if class_weights is not None and (min(class_weights) < 0 or max(class_weights) <= 0):
            raise InputError(f"class_weights must not be negative, nor all zero, got {list(class_weights)}")
        self.label_smoothing, self.focal = label_smoothing, focal
        self.class_weights = None if class_weights is None else torch.tensor(list(class_weights), dtype=torch.float32)

    def loss(self, prediction: Tensor, target: Tensor | None, weight: Tensor | None = None) -> Tensor:
        """Mean cross-entropy, or what the options make of it.

        Raises:
            InputError: there are not as many weights as classes.
        """
        y, factors = needed(target), self.class_weights
        if factors is not None:
            if len(factors) != prediction.shape[-1]:
                raise InputError(f"{len(factors)} class weights for {prediction.shape[-1]} classes")
            factors = factors.to(prediction)
        each = F.cross_entropy(prediction, y, weight=factors, label_smoothing=self.label_smoothing, reduction="none")
        if self.focal:
            sure = torch.softmax(prediction, dim=-1).gather(1, y[:, None]).squeeze(1)
            each = (1 - sure) ** self.focal * each
        mean = average(each, weight)
        return mean if factors is None else mean / average(factors[y], weight).clamp(min=tiny(mean))

    def metrics(self, prediction: Tensor, target: Tensor | None) -> dict[str, float]:
        """See the class docstring."""
        from sklearn import metrics  # noqa: PLC0415

        y, p = needed(target).numpy(), probabilities(prediction)
        labels, best = np.arange(p.shape[1]), p.argmax(axis=1)
        found = {
            "accuracy": metrics.accuracy_score(y, best),
            "f1_macro": metrics.f1_score(y, best, average="macro", zero_division=0),
            "f1_weighted": metrics.f1_score(y, best, average="weighted", zero_division=0),
            # scikit-learn's has no value for a single class.
            "log_loss": metrics.log_loss(y, p, labels=labels) if len(labels) > 1 else 0.0,
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
