"""Farthest-point sampling: few points that are spread over all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from equifuse.errors import InputError

Floats = NDArray[np.floating[Any]]


def farthest_points(points: Floats, count: int) -> NDArray[np.int64]:
    """Numbers ``(count,)`` of points, the first one of all, then always the one that is farthest from those chosen.

    The first ``k`` of them are what ``count=k`` gives, and what sampling among them gives: a cloud in this order has
    the samples of every size at its beginning.

    >>> from equifuse.detection import farthest_points
    >>> farthest_points(np.array([[0.0, 0, 0], [1, 0, 0], [3, 0, 0]]), 3).tolist()
    [0, 2, 1]

    Args:
        points: ``(P, 3+)``; the first three columns count.
        count: how many, from 1 to ``P``.

    Raises:
        InputError: ``count`` is out of range.
    """
    if not 1 <= count <= len(points):
        raise InputError(f"cannot choose {count} of {len(points)} points")
    places = np.ascontiguousarray(points[:, :3].T, dtype=np.float32)
    chosen = np.zeros(count, dtype=np.int64)
    nearest = np.full(len(points), np.inf, dtype=np.float32)
    away, square = np.empty_like(nearest), np.empty_like(nearest)
    for i in range(1, count):
        away.fill(0)
        for axis in places:
            np.subtract(axis, axis[chosen[i - 1]], out=square)
            np.multiply(square, square, out=square)
            np.add(away, square, out=away)
        np.minimum(nearest, away, out=nearest)
        chosen[i] = nearest.argmax()
    return chosen
