"""Metrics beside those that every evaluation has; asked for by name, as those of a third party are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from equifuse.tasks.metrics import metric

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def _sklearn() -> Any:
    from sklearn import metrics  # noqa: PLC0415 - it takes half a second

    return metrics


def _one_class(p: Floats, y: Labels) -> str | None:
    return "only one class occurs" if len(np.unique(y)) < 2 else None


def _few_classes(p: Floats, y: Labels) -> str | None:
    return f"it is for more than three classes, there are {p.shape[1]}" if p.shape[1] < 4 else None


@metric("balanced_accuracy", tasks="classification", undefined_when=_one_class, format="percent")
def balanced_accuracy(p: Floats, y: Labels) -> float:
    """Mean of the share predicted correctly of each class that occurs."""
    right = p.argmax(axis=1) == y
    return float(np.mean([right[y == k].mean() for k in np.unique(y)]))


def _uncorrelated(p: Floats, y: Labels) -> str | None:
    return _one_class(p, y) or ("only one class is predicted" if len(np.unique(p.argmax(axis=1))) < 2 else None)


@metric("mcc", tasks="classification", undefined_when=_uncorrelated)
def mcc(p: Floats, y: Labels) -> float:
    """Correlation of true and predicted classes (Matthews 1975)."""
    return float(_sklearn().matthews_corrcoef(y, p.argmax(axis=1)))


@metric("top3", tasks="classification", inapplicable_when=_few_classes, format="percent")
def top3(p: Floats, y: Labels) -> float:
    """Share of samples whose true class is among the three most probable."""
    # Ties count against the true class: equal probabilities of all must not look perfect.
    rank = (p >= p[np.arange(len(y)), y][:, None]).sum(axis=1)
    return float((rank <= 3).mean())


def _no_order(p: Floats, y: Floats) -> str | None:
    both = (np.ptp(y, axis=0) > 0) & (np.ptp(p, axis=0) > 0)
    return None if both.any() else "the target or the prediction is constant"


@metric("spearman", tasks="regression", undefined_when=_no_order)
def spearman(p: Floats, y: Floats) -> float:
    """Rank correlation, the mean over the targets that vary and whose prediction does."""
    from scipy.stats import spearmanr  # noqa: PLC0415

    both = (np.ptp(y, axis=0) > 0) & (np.ptp(p, axis=0) > 0)
    return float(np.mean([spearmanr(y[:, k], p[:, k]).statistic for k in np.flatnonzero(both)]))
