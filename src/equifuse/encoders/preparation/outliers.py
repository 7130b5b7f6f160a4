"""Which numbers of a column are far from all others: mean and deviation are not left to them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Of how many of the cells that are not at the median distances are taken as usual, and how many times as far is far.
_SHARE, _TIMES = 0.9, 10
# Values that are looked at together.
_BLOCK = 2**22


def usual_range(x: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper end ``(l,)`` of what is usual in each column: beyond them are outliers, if there are any.

    The ends are ten times as far from the median as nine tenths of the cells that differ from it: 16 deviations of a
    normal distribution. Columns of two values, counts that are mostly 0 and usual tails are all within.

    >>> import numpy as np
    >>> from equifuse.encoders.preparation.outliers import usual_range
    >>> low, high = usual_range(np.array([-1.0, 0.0, 1.0] * 5 + [1e6])[:, None])
    >>> low.tolist(), high.tolist()
    ([-10.0], [10.0])

    Args:
        x: ``(n, l)``, NaN where a cell is empty.
    """
    low, high = np.full(x.shape[1], -np.inf), np.full(x.shape[1], np.inf)
    step = max(1, _BLOCK // max(1, len(x)))
    for start in range(0, x.shape[1] if len(x) else 0, step):
        some = slice(start, start + step)
        low[some], high[some] = _of_columns(np.asarray(x[:, some], dtype=np.float64))
    return low, high


def _of_columns(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    low, high = np.full(x.shape[1], -np.inf), np.full(x.shape[1], np.inf)
    empty = np.isnan(x).any(axis=0)
    middle = np.median(x.T.copy(), axis=1)  # NaN where a cell is
    for j in np.flatnonzero(empty & ~np.isnan(x).all(axis=0)):
        middle[j] = np.nanmedian(x[:, j])
    away = np.nan_to_num(np.abs(x - middle))  # 0 of what is empty, as of what is at the median
    count, most = (away > 0).sum(axis=0), away.max(axis=0)
    # Where nine tenths are within a tenth of the farthest, the mean is within 0.9 · 0.1 + 0.1 · 1 of it.
    candidates = away.sum(axis=0) <= (_SHARE / _TIMES + 1 - _SHARE) * most * count
    for j in np.flatnonzero(candidates & (count > 0)):
        distances = away[:, j][away[:, j] > 0]
        place = int(_SHARE * (len(distances) - 1))
        usual = _TIMES * np.partition(distances, place)[place]
        if usual < most[j]:
            low[j], high[j] = middle[j] - usual, middle[j] + usual
    return low, high
