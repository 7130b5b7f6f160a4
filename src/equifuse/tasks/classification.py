"""One class per sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from equifuse.errors import InputError
from equifuse.tasks.base import OF_CLASSES, Columns, Task, average, needed, output_names, probabilities, tiny
from equifuse.tasks.linear import LinearFit, logistic
from equifuse.tasks.metrics import Metric
from equifuse.tasks.targets import Classes, Targets, are_classes

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def accuracy(p: Floats, y: Labels) -> float:
    """Share of samples whose most probable class is the true one."""
    return float((p.argmax(axis=1) == y).mean())


def f1_macro(p: Floats, y: Labels) -> float:
    """Mean of the F1 of all classes that occur or are predicted."""
    return float(_sklearn().f1_score(y, p.argmax(axis=1), average="macro", zero_division=0))


def f1_weighted(p: Floats, y: Labels) -> float:
    """Mean of the classes' F1, weighted by how often they occur."""
    return float(_sklearn().f1_score(y, p.argmax(axis=1), average="weighted", zero_division=0))


def f1_of_one(p: Floats, y: Labels) -> float:
    """F1 of class 1 of two."""
    return float(_sklearn().f1_score(y, p.argmax(axis=1), zero_division=0))


def log_loss(p: Floats, y: Labels) -> float:
    """Mean negative logarithm of the true class's probability."""
    # scikit-learn's has no value for a single class, of which all is certain.
    return float(_sklearn().log_loss(y, p, labels=np.arange(p.shape[1]))) if p.shape[1] > 1 else 0.0


def auc(p: Floats, y: Labels) -> float:
    """Area under the ROC curve; for more than two classes each against the rest, their mean."""
    scores = p[:, 1] if p.shape[1] == 2 else p
    return float(_sklearn().roc_auc_score(y, scores, multi_class="ovr", average="macro"))


def _missing_class(p: Floats, y: Labels, task: Task) -> str | None:
    absent = np.setdiff1d(np.arange(p.shape[1]), y)
    if not len(absent):
        return None
    return f"class {output_names(task.classes, p.shape[1])[absent[0]]!r} does not occur"


def _no_one(p: Floats, y: Labels) -> str | None:
    return None if (y == 1).any() or (p.argmax(axis=1) == 1).any() else "class 1 neither occurs nor is predicted"


def _not_two(p: Floats, y: Labels) -> str | None:
    return None if p.shape[1] == 2 else f"it is for two classes, there are {p.shape[1]}"


def _only_one(p: Floats, y: Labels) -> str | None:
    return None if p.shape[1] > 1 else "there is only one class"


def _sklearn() -> Any:
    from sklearn import metrics  # noqa: PLC0415 - it takes half a second

    return metrics


class Classification(Task):
    """One class per sample: cross-entropy on logits ``(B, K)`` against int64 labels ``(B,)``.

    >>> task = Classification(classes=("cat", "dog"))
    >>> sorted(task.predict(torch.tensor([[2.0, 0.0]])))
    ['prediction', 'prob_cat', 'prob_dog']
    >>> task.metrics(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1]))["accuracy"]
    1.0

    Metrics: ``accuracy``, ``f1_macro``, ``f1_weighted``, ``log_loss``; for two classes ``f1`` (of class 1), undefined
    where that neither occurs nor is predicted; and ``auc`` (ROC; one class against the rest, macro mean, for more than
    two classes), undefined where a class does not occur in the split.

    Args:
        classes: class names, or None.
        label_smoothing: share of the probability spread over all classes during training, in [0, 1).
        class_weights: factor of each class's samples in the loss, ≥ 0; None for 1. The loss is the weighted mean.
        focal: the exponent γ of the focal loss ``−(1 − p)^γ log p`` (Lin et al. 2017), ≥ 0; 0 is cross-entropy.

    Raises:
        InputError: a value out of range.
    """

    name: ClassVar[str] = "classification"
    targets: ClassVar[Targets] = Classes()
    measures = (
        Metric("accuracy", accuracy, format="percent", description="Share of samples predicted correctly."),
        Metric("f1_macro", f1_macro, description="Mean of the classes' F1, of those that occur or are predicted."),
        Metric("f1_weighted", f1_weighted, description="Mean of the classes' F1, weighted by their frequency."),
        Metric("log_loss", log_loss, higher_is_better=False, description="Mean −log probability of the true class."),
        Metric("f1", f1_of_one, undefined_when=_no_one, inapplicable_when=_not_two, description="F1 of class 1."),
        Metric(
            "auc",
            auc,
            undefined_when=_missing_class,
            inapplicable_when=_only_one,
            description="Area under the ROC curve; for more than two classes one against the rest, mean.",
        ),
    )
    headline = "accuracy"
    mixes_samples = True
    output_name: ClassVar[str] = "logits"
    values: ClassVar[tuple[str, ...]] = OF_CLASSES
    predicts_largest: ClassVar[bool] = True
    conformal: ClassVar[Literal["sets", "intervals"] | None] = "sets"
    drawn_as: ClassVar[str] = "roc"
    without_features: ClassVar[str] = "the most frequent class"

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

    def soft_loss(
        self, prediction: Tensor, taught: Tensor, temperature: float = 1.0, weight: Tensor | None = None
    ) -> Tensor:
        """Kullback-Leibler divergence of the probabilities at a temperature, times its square (Hinton et al. 2015)."""
        log_p, log_q = (F.log_softmax(x / temperature, dim=-1) for x in (prediction, taught))
        return temperature**2 * average(F.kl_div(log_p, log_q, log_target=True, reduction="none").sum(-1), weight)

    def readable(self, prediction: Tensor, target: Tensor | None) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Probabilities float64 ``(n, K)``, and int64 ``(n,)``."""
        return probabilities(prediction), needed(target).numpy()

    @classmethod
    def infers(cls, values: NDArray[Any]) -> bool:
        """A column of text, or of few whole numbers."""
        return are_classes(values)

    @classmethod
    def linear_fits(
        cls, features: list[Floats], target: NDArray[Any] | None, weight: Floats | None = None
    ) -> list[LinearFit]:
        """Logistic regressions."""
        assert target is not None
        return logistic(features, target, weight)

    @classmethod
    def averaged(cls, outputs: Tensor, weights: Tensor) -> Tensor:
        """Logarithms of the weighted mean of the probabilities."""
        shares = weights.to(outputs).log().reshape(-1, *[1] * (outputs.dim() - 1))
        return torch.logsumexp(F.log_softmax(outputs, dim=-1) + shares, dim=0)

    def log_probabilities(self, outputs: Tensor) -> Tensor:
        """Of the classes."""
        return F.log_softmax(outputs, dim=-1)

    def base_output(self, target: NDArray[Any], outputs: int) -> Floats:
        """Logarithms of the class frequencies, counted once more than seen (Laplace), so that all are finite."""
        return np.log((np.bincount(target, minlength=outputs) + 1) / (len(target) + outputs))

    @classmethod
    def choices(cls, outputs: Floats, target: NDArray[Any] | None) -> tuple[Floats, Labels | None] | None:
        """As they are."""
        return outputs, None if target is None else target.astype(np.int64)

    def sample_losses(self, prediction: Tensor, target: Tensor) -> Tensor | None:
        """Negative logarithm of the true class's probability."""
        return F.cross_entropy(prediction, target, reduction="none")

    def sample_scores(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The probability of the true class."""
        return torch.softmax(prediction, dim=-1).gather(1, target[:, None]).squeeze(1)

    def confusion(self, prediction: Tensor, target: Tensor) -> NDArray[np.int64] | None:
        """See :meth:`Task.confusion`."""
        count = prediction.shape[1]
        pairs = target.numpy().astype(np.int64) * count + prediction.argmax(dim=1).numpy()
        return np.bincount(pairs, minlength=count * count).reshape(count, count)

    def predict(self, prediction: Tensor) -> Columns:
        """``prediction`` (class name, or number where classes have no names) and ``prob_<class>``."""
        p = probabilities(prediction)
        best = p.argmax(axis=1)
        names = output_names(self.classes, p.shape[1])
        column = best if self.classes is None else np.array(names)[best]
        return {"prediction": column, **{f"prob_{name}": p[:, k] for k, name in enumerate(names)}}
