"""Any number of labels per sample."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from equifuse.tasks.base import OF_CLASSES, Columns, Task, average, needed, output_names
from equifuse.tasks.linear import LinearFit, logistic_by_label
from equifuse.tasks.metrics import Metric
from equifuse.tasks.targets import Labels, Targets, are_labels

Floats = NDArray[np.float64]
Decisions = NDArray[np.int64]


def f1(average: str, p: Floats, y: Decisions) -> float:
    """F1 at probability 0.5; what has neither a label nor a prediction is left out of a mean."""
    from sklearn import metrics  # noqa: PLC0415
    from sklearn.exceptions import UndefinedMetricWarning  # noqa: PLC0415

    chosen = (p > 0.5).astype(np.int64)
    # scikit-learn takes a single column for a binary problem without averages; a copy changes none of them.
    pair = (y, chosen) if y.shape[1] > 1 else (np.hstack([y, y]), np.hstack([chosen, chosen]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        return float(metrics.f1_score(*pair, average=average, zero_division=np.nan))


def mean_average_precision(p: Floats, y: Decisions) -> float:
    """Mean average precision over the labels that occur."""
    from sklearn import metrics  # noqa: PLC0415

    occurs = y.any(axis=0)
    return float(metrics.average_precision_score(y[:, occurs], p[:, occurs], average="macro"))


def _none_occurs(p: Floats, y: Decisions) -> str | None:
    return None if y.any() else "no label occurs"


def _nothing(p: Floats, y: Decisions) -> str | None:
    return None if y.any() or (p > 0.5).any() else "no label occurs, and none is predicted"


class Multilabel(Task):
    """Any number of labels per sample: binary cross-entropy on logits ``(B, K)`` against 0/1 targets ``(B, K)``.

    >>> found = Multilabel().metrics(torch.tensor([[3.0, -3.0], [3.0, 3.0]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    >>> found["f1_micro"]
    1.0

    Metrics: ``f1_micro``, ``f1_macro``, ``f1_weighted``, ``f1_samples`` at probability 0.5, and ``map`` (mean average
    precision over the labels that occur in the split). A label, or a sample, with nothing to find and nothing found has
    no F1 and does not count in the means. All are undefined where no label occurs and none is predicted, ``map`` and
    ``f1_weighted`` where none occurs.
    """

    name: ClassVar[str] = "multilabel"
    targets: ClassVar[Targets] = Labels()
    measures = (
        Metric("f1_micro", partial(f1, "micro"), undefined_when=_nothing, description="F1 of all decisions together."),
        Metric("f1_macro", partial(f1, "macro"), undefined_when=_nothing, description="Mean of the labels' F1."),
        Metric(
            "f1_weighted",
            partial(f1, "weighted"),
            undefined_when=_none_occurs,
            description="Mean of the labels' F1, weighted by their frequency.",
        ),
        Metric("f1_samples", partial(f1, "samples"), undefined_when=_nothing, description="Mean of the samples' F1."),
        Metric(
            "map",
            mean_average_precision,
            undefined_when=_none_occurs,
            description="Mean average precision over the labels that occur.",
        ),
    )
    headline = "f1_weighted"
    mixes_samples = True
    output_name: ClassVar[str] = "logits"
    values: ClassVar[tuple[str, ...]] = OF_CLASSES
    predicts_largest: ClassVar[bool] = True
    drawn_as: ClassVar[str] = "precision_recall"
    without_features: ClassVar[str] = "each label by its frequency"

    def loss(self, prediction: Tensor, target: Tensor | None, weight: Tensor | None = None) -> Tensor:
        """Mean binary cross-entropy over samples and labels."""
        return average(F.binary_cross_entropy_with_logits(prediction, needed(target), reduction="none"), weight)

    def soft_loss(
        self, prediction: Tensor, taught: Tensor, temperature: float = 1.0, weight: Tensor | None = None
    ) -> Tensor:
        """The mean over the labels of what it is for two classes."""
        pairs = [torch.stack([x, torch.zeros_like(x)], -1) / temperature for x in (prediction, taught)]
        log_p, log_q = (F.log_softmax(pair, dim=-1) for pair in pairs)
        return temperature**2 * average(F.kl_div(log_p, log_q, log_target=True, reduction="none").sum(-1), weight)

    def readable(self, prediction: Tensor, target: Tensor | None) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Probabilities float64 ``(n, K)``, and int64 ``(n, K)``, 0 or 1."""
        return torch.sigmoid(prediction.double()).numpy(), needed(target).numpy().astype(np.int64)

    @classmethod
    def infers(cls, values: NDArray[Any]) -> bool:
        """Several columns of 0 and 1."""
        return are_labels(values)

    @classmethod
    def linear_fits(
        cls, features: list[Floats], target: NDArray[Any] | None, weight: Floats | None = None
    ) -> list[LinearFit]:
        """A logistic regression for each label."""
        assert target is not None
        return logistic_by_label(features, target, weight)

    @classmethod
    def averaged(cls, outputs: Tensor, weights: Tensor) -> Tensor:
        """Logits of the weighted mean of the probabilities."""
        shares = weights.to(outputs).log().reshape(-1, *[1] * (outputs.dim() - 1))
        yes, no = (torch.logsumexp(F.logsigmoid(x) + shares, dim=0) for x in (outputs, -outputs))
        return yes - no

    def log_probabilities(self, outputs: Tensor) -> Tensor:
        """Of the labels, each on its own."""
        return F.logsigmoid(outputs)

    def base_output(self, target: NDArray[Any], outputs: int) -> Floats:
        """Log-odds of the labels' frequencies, counted once more than seen (Laplace), so that all are finite."""
        return np.asarray(np.log((target.sum(axis=0) + 1) / ((1 - target).sum(axis=0) + 1)), dtype=np.float64)

    @classmethod
    def choices(cls, outputs: Floats, target: NDArray[Any] | None) -> tuple[Floats, Decisions | None] | None:
        """One per label, between no, of logit 0, and yes: its softmax is the label's sigmoid."""
        pairs = np.stack([np.zeros(outputs.size), outputs.ravel()], axis=1)
        return pairs, None if target is None else target.astype(np.int64).ravel()

    def sample_losses(self, prediction: Tensor, target: Tensor) -> Tensor | None:
        """Mean over the labels of the negative logarithm of the true value's probability."""
        return F.binary_cross_entropy_with_logits(prediction, target, reduction="none").mean(dim=1)

    def sample_scores(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The probability of the true value of each label, on average."""
        return torch.sigmoid(torch.where(target > 0.5, prediction, -prediction)).mean(dim=-1)

    def predict(self, prediction: Tensor) -> Columns:
        """``prediction`` (names of the labels above 0.5, joined by ``;``) and ``prob_<label>``."""
        p = torch.sigmoid(prediction.double()).numpy()
        names = output_names(self.classes, p.shape[1])
        joined = np.array([";".join(n for n, on in zip(names, row, strict=True) if on) for row in p > 0.5], dtype=str)
        return {"prediction": joined, **{f"prob_{name}": p[:, k] for k, name in enumerate(names)}}
