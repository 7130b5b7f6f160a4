"""Which features of new samples are not as they were in training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from equifuse.data import Split
from equifuse.data.lazy import Indices

# Rows of either side that are compared.
_ROWS = 2000
_LEAST = 5
# A feature has moved if that is so by both: so far, in standard deviations of training, and so unlikely by chance.
FAR, UNLIKELY = 0.5, 0.05


@dataclass(frozen=True)
class Shift:
    """A feature in training and in new samples.

    Example:
        >>> from equifuse.evaluation.shift import Shift
        >>> Shift("rna", "TP53", 0.1, 2.1, 2.0, 0.8, 1e-9, 0.0, 0.1).moved
        True

    Attributes:
        modality: of the feature.
        feature: its name.
        mean_before: mean in training.
        mean_now: mean in the new samples.
        distance: how far the mean has moved, in standard deviations of training.
        statistic: of Kolmogorov and Smirnov: the largest distance of the two distribution functions.
        p: that this is chance, corrected for the number of features (Benjamini and Hochberg).
        missing_before: share of empty cells in training, of rows that have the modality.
        missing_now: the same of the new samples.
    """

    modality: str
    feature: str
    mean_before: float
    mean_now: float
    distance: float
    statistic: float
    p: float
    missing_before: float
    missing_now: float

    @property
    def moved(self) -> bool:
        """Whether it is elsewhere, or spread otherwise, by more than chance, and far enough to matter."""
        return self.p < UNLIKELY and (abs(self.distance) > FAR or self.statistic > FAR)


def shifts(
    before: Split, now: Split, names: Mapping[str, Sequence[str]] | None = None, *, seed: int = 0
) -> list[Shift]:
    """Every feature of the modalities that both have, the one that has moved most first.

    Example:
        >>> import numpy as np
        >>> from equifuse.data import Split
        >>> from equifuse.evaluation.shift import shifts
        >>> generator = np.random.default_rng(0)
        >>> before, now = (Split({"rna": generator.normal(size=(200, 3)).astype(np.float32)}) for _ in range(2))
        >>> now.inputs["rna"][:, 1] += 2
        >>> found = shifts(before, now, {"rna": ["a", "b", "c"]})
        >>> found[0].feature, [shift.moved for shift in found]
        ('b', [True, False, False])

    Args:
        before: the training part.
        now: the new samples.
        names: modality -> names of its features; numbers where they are not known.
        seed: of the rows that are drawn where there are many.
    """
    from scipy.stats import false_discovery_control, ks_2samp  # noqa: PLC0415 - it takes a moment to import

    generator = np.random.default_rng(seed)
    rows = []
    for m in before.inputs:
        if m not in now.inputs:
            continue
        a, b = (_values(split, m, generator) for split in (before, now))
        if a.shape[1:] != b.shape[1:] or min(len(a), len(b)) < _LEAST:
            continue
        known = list((names or {}).get(m, ()))
        labels = known if len(known) == a.shape[1] else [str(k) for k in range(a.shape[1])]
        for k, label in enumerate(labels):
            x, y = a[:, k], b[:, k]
            u, v = x[~np.isnan(x)], y[~np.isnan(y)]
            if min(len(u), len(v)) < _LEAST:
                continue
            spread = float(u.std())
            gap = float(v.mean() - u.mean())
            distance = gap / spread if spread > 0 else (0.0 if gap == 0 else math.copysign(math.inf, gap))
            test = ks_2samp(u, v, method="asymp")
            gaps = (float(np.isnan(x).mean()), float(np.isnan(y).mean()))
            means, tested = (float(u.mean()), float(v.mean())), (float(test.statistic), float(test.pvalue))
            rows.append((m, label, *means, distance, *tested, gaps))
    if not rows:
        return []
    corrected = false_discovery_control([row[6] for row in rows])
    found = [Shift(*row[:6], float(p), *row[7]) for row, p in zip(rows, corrected, strict=True)]
    return sorted(found, key=lambda shift: (-shift.statistic, shift.modality, shift.feature))


def _values(split: Split, m: str, generator: np.random.Generator) -> NDArray[np.float64]:
    """Features ``(n, l)`` of rows that have the modality; of sequences the mean of the steps that count."""
    mask = split.present.get(m)
    rows: Indices = np.arange(len(split)) if mask is None else np.flatnonzero(mask)
    if len(rows) > _ROWS:
        rows = np.sort(generator.choice(rows, _ROWS, replace=False))
    x = np.asarray(split.inputs[m][rows]).astype(np.float64)
    if m in split.lengths and x.ndim == 3:
        steps = split.lengths[m][rows]
        counted = np.arange(x.shape[1])[None] < steps[:, None]
        return np.asarray(np.where(counted[..., None], x, 0).sum(1) / np.maximum(steps, 1)[:, None])
    return x.reshape(len(x), -1)
