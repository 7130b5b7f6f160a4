"""Which rows go where: deterministic, stratified where there are classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from equifuse.errors import DataError

Indices = NDArray[np.intp]


def partition(
    rows: int, fractions: tuple[float, ...], *, seed: int = 0, labels: NDArray[np.generic] | None = None
) -> list[Indices]:
    """Split ``range(rows)`` into parts of the given fractions.

    Args:
        rows: number of rows.
        fractions: of each part, > 0, adding up to 1. The first part gets what rounding leaves over, so that with labels
            it holds every class.
        seed: of the shuffle.
        labels: ``(rows,)``; each class is split on its own.

    Returns:
        Sorted, disjoint index arrays that cover all rows.

    Raises:
        DataError: unusable fractions.
    """
    if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-9:
        raise DataError(f"fractions must be positive and add up to 1, got {fractions}")
    generator = np.random.default_rng(seed)
    groups = [np.arange(rows)] if labels is None else [np.flatnonzero(labels == c) for c in np.unique(labels)]
    parts: list[list[Indices]] = [[] for _ in fractions]
    for group in groups:
        shuffled = generator.permutation(group)
        sizes = [int(len(group) * fraction + 0.5) for fraction in fractions[1:]]
        while sum(sizes) >= len(group) and sum(sizes) > 0:  # a rare class stays in the first part
            sizes[int(np.argmax(sizes))] -= 1
        start = 0
        for part, size in zip(parts[1:], sizes, strict=True):
            part.append(shuffled[start : start + size])
            start += size
        parts[0].append(shuffled[start:])
    return [np.sort(np.concatenate(part)) if part else np.arange(0) for part in parts]
